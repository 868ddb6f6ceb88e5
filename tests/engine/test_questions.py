"""What a user asks beside a real engine, and what reconcile makes of real containers."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from .lab import Lab


def asked(lab: Lab, *arguments: str, code: int = 0) -> Any:
    """Run a command of pynet's on the host, for programs."""
    run = (sys.executable, "-m", "pynetdriver", *arguments, "--json", "--socket", str(lab.daemon.socket))
    script = 'export DOCKER_HOST="$1"; shift; "$@"; test $? -eq "$0"'
    return json.loads(lab.host.run("sh", "-c", script, str(code), f"unix://{lab.engine.socket}", *run))


@pytest.mark.once
def test_containers_and_networks_have_their_names(lab: Lab) -> None:
    """The engine is asked for what only it knows; what `docker ps` cannot show is shown."""
    network = lab.network("web")
    lab.web("one", "--network", "web", "-p", "8080:80", "-p", "127.0.0.1::81/udp")
    lab.web("two", "--network", "web")
    (found,) = asked(lab, "ls")
    assert (found["id"], found["name"]) == (network, "web")
    inside = {one["container"]: one for one in asked(lab, "inspect", "web")["endpoints"]}
    assert set(inside) == {"one", "two"}
    for name, endpoint in inside.items():
        settings = lab.addresses(name, "web")
        assert endpoint["id"] == settings["EndpointID"] and endpoint["interface"] == "eth0"
        assert endpoint["addresses"] == [f"{settings['IPAddress']}/{settings['IPPrefixLen']}"]
    ports = {
        (one["container"], one["network_name"], one["protocol"], one["port"]) for one in asked(lab, "ports", "web")
    }
    assert ports == {("one", "web", "tcp", 80), ("one", "web", "udp", 81)}
    (tcp,) = [one for one in asked(lab, "ports") if (one["port"], one["host_address"]) == (80, "0.0.0.0")]
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{tcp['host_port']}/hostname") == "one"


def test_reconcile_leaves_what_containers_use(lab: Lab) -> None:
    """A link that a crash might leave goes; containers, also of the engine's own networks, do not notice."""
    lab.network("web")
    lab.run("one", "--network", "web")
    lab.run("own")
    assert asked(lab, "reconcile")["differences"] == []
    left = f"pn-{'7' * 12}"
    lab.host.run("sh", "-c", f"ip link add {left} type bridge && ip link set {left} group 0x706e")
    (found,) = asked(lab, "reconcile", "--dry-run", code=1)["differences"]
    assert left in found["what"] and not found["mended"]
    assert asked(lab, "reconcile")["differences"] == [{**found, "mended": True}]
    assert left not in [one["ifname"] for one in lab.links()]
    assert lab.pings("one", lab.lan.NEIGHBOUR4) and lab.pings("own", lab.lan.NEIGHBOUR4)
