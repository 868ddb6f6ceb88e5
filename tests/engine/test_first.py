"""pynet comes before the engine, as at boot, and has the host forward: nobody reaches more than if the engine had."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import engines_missing, engines_run, left_out
from tests.engine.lab import Lab
from tests.lab.command import Unavailable
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

#: Of the host and of a machine on its second LAN.
HOST, MACHINE = "198.51.100.1", "198.51.100.2"
HTTPD = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
ENGINES = (("26.1", "nft"), ("26.1", "legacy"), ("28.5", "nft"))


@pytest.fixture(params=ENGINES, ids=lambda one: f"{one[0]}-{one[1]}")
def own(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Namespace]]:
    """A lab for this test alone, and a machine on another LAN of the host."""
    version, iptables = request.param
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(Engine(version, iptables=iptables))
        except Unavailable as error:
            engines_missing[f"{version} ({iptables})"] = str(error)
            left_out(f"engine {version}-{iptables}", error)
        lan = stack.enter_context(Lan(engine.netns))
        machine = stack.enter_context(Namespace())
        connect(Plug(engine.netns, "lan1", (f"{HOST}/24",)), Plug(machine, "eth0", (f"{MACHINE}/24",)))
        machine.run("ip", "route", "add", "default", "via", HOST)
        lan.neighbour.run("ip", "route", "add", f"{MACHINE}/32", "via", lan.HOST4)
        lan.neighbour.run("ip", "route", "add", "172.16.0.0/12", "via", lan.HOST4)
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kind = ("--firewall", "iptables" if iptables == "legacy" else "nftables")
        daemon = stack.enter_context(Daemon(engine.netns, engine.plugins / "pynet.sock", state / "state", *kind))
        lab = Lab(f"{engine.version} with iptables-{iptables}", engine, lan, daemon)
        engines_run[lab.name] += 1
        yield lab, machine


@pytest.mark.timeout(480)
def test_nobody_reaches_more_than_by_the_engines_policy(own: tuple[Lab, Namespace]) -> None:
    """An unpublished port of the engine's own network, published ones, the other LAN: all as without pynet."""
    lab, machine = own
    lab.network("net", "--subnet", "10.6.0.0/24")
    serve(lab)
    by_itself = reached(lab, machine)
    assert by_itself["published at the host"] and not by_itself["unpublished"] and not by_itself["the other LAN"]
    assert policy(lab) == "DROP"
    lab.daemon.kill()
    lab.docker("rm", "-f", "web", "pub")
    lab.engine.stop()
    as_after_a_reboot(lab)
    lab.daemon.start()
    assert lab.host.sysctl("net/ipv4/ip_forward") == "1"
    assert not reached_from_lan(machine, lab.lan.NEIGHBOUR4)
    lab.engine.start()
    assert policy(lab) == "ACCEPT"
    serve(lab)
    eventually(lambda: reached(lab, machine) == by_itself, timeout_s=30)
    lab.docker("rm", "-f", "web", "pub")
    lab.engine.restart()
    serve(lab)
    eventually(lambda: reached(lab, machine) == by_itself, timeout_s=30)
    # The engine's bridge needs the switch still.
    lab.clean()
    serve(lab)
    assert lab.host.sysctl("net/ipv4/ip_forward") == "1"
    eventually(lambda: reached(lab, machine) == by_itself, timeout_s=30)


def serve(lab: Lab) -> None:
    """Start two web servers on the engine's own network, of which one publishes its port."""
    lab.docker("run", "-d", "--name", "web", *HTTPD)
    lab.docker("run", "-d", "--name", "pub", "-p", "8081:80", *HTTPD)
    eventually(lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname"))


def reached(lab: Lab, machine: Namespace) -> dict[str, bool]:
    """Tell what machines of the LAN reach by way of the host."""
    web, pub = (
        lab.docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", one) for one in ("web", "pub")
    )
    return {
        "unpublished": bool(lab.page(lab.neighbour, f"http://{web}/hostname")),
        "published, directly": bool(lab.page(lab.neighbour, f"http://{pub}/hostname")),
        "published at the host": bool(lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname")),
        "a port of nobody's": bool(lab.page(lab.neighbour, f"http://{pub}:81/hostname")),
        "out of a container": lab.pings("web", lab.lan.NEIGHBOUR4),
        "the other LAN": reached_from_lan(machine, lab.lan.NEIGHBOUR4),
    }


def reached_from_lan(machine: Namespace, address: str) -> bool:
    """Tell whether the second LAN reaches the first one, which has the host for its router as well."""
    return "1 received" in machine.run("ping", "-nc1", "-W1", address, check=False)


def policy(lab: Lab) -> str:
    """What the engine's table does at the end of FORWARD."""
    return lab.engine.machine.run("iptables", "-S", "FORWARD").split()[2]


def as_after_a_reboot(lab: Lab) -> None:
    """Leave nothing of engine and pynet on the host but their state."""
    for link in lab.links():
        if link["ifname"] not in ("lo", "lan0", "lan1"):
            lab.host.run("ip", "link", "delete", link["ifname"], check=False)
    for command in ("iptables", "ip6tables"):
        lab.engine.machine.run(command, "-P", "FORWARD", "ACCEPT")
        for table in ("raw", "mangle", "nat", "filter"):
            lab.engine.machine.run(command, "-t", table, "-F", check=False)
            lab.engine.machine.run(command, "-t", table, "-X", check=False)
    lab.host.run("nft", "flush", "ruleset")
    for switch in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        lab.host.write_sysctl(switch, "0")
