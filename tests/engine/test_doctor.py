"""The doctor beside real engines: nothing is wrong with a healthy host, and what only an engine can do is found."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.engine.lab import Lab
from tests.lab.ailing import Patient
from tests.lab.lan import Site
from tests.lab.wait import eventually


@pytest.fixture
def patient(lab: Lab) -> Iterator[Patient]:
    with Patient(lab.host, lab.engine.plugins, lab.daemon.state_dir, lab.engine.socket) as one:
        yield one


@pytest.mark.parametrize("backend", ["macvlan", pytest.param("ipvlan", marks=pytest.mark.needs_kernel("ipvlan"))])
@pytest.mark.smoke
@pytest.mark.protocol
def test_nothing_is_wrong_with_a_healthy_host(lab: Lab, site: Site, patient: Patient, backend: str) -> None:
    """With networks of all kinds, containers and ports; also without any."""
    assert patient.examine() == []
    lab.network("web", "--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd00:61::/64")
    lab.network("kept", "--internal", "--subnet", "10.62.0.0/24")
    lab.network("apart", "--subnet", "10.63.0.0/24", "-o", "com.docker.network.bridge.enable_icc=false")
    lab.network(
        *("lan", "-o", f"backend={backend}", "-o", f"parent={site.PARENT}", "-o", "host_access=198.51.100.200"),
        *("--subnet", site.SUBNET4, "--gateway", site.ROUTER4, "--ip-range", "198.51.100.128/26"),
    )
    lab.network("own", "--ipam-driver", "pynet")
    lab.web("one", "--network", "web", "-p", "8080:80", "-p", "127.0.0.1:8081:80")
    for name in ("kept", "apart", "lan", "own"):
        lab.run(f"in-{name}", "--network", name)
    assert lab.page(lab.neighbour, "http://192.0.2.1:8080/hostname") == "one"
    assert lab.pings("in-lan", site.PEER4)
    assert patient.examine() == []


def test_a_plugin_has_the_name(lab: Lab, patient: Patient) -> None:
    """The engine takes a managed plugin of that name first, also one that does not run."""
    folder = lab.engine.shared / "plugin"
    (folder / "rootfs").mkdir(parents=True)
    interface = {"types": ["docker.networkdriver/1.0"], "socket": "x.sock"}
    settings = {"description": "x", "entrypoint": ["/x"], "interface": interface, "network": {"type": "host"}}
    (folder / "config.json").write_text(json.dumps(settings))
    lab.docker("plugin", "create", "pynet", str(folder))
    lab.engine.restart()  # it remembers whom it met
    assert "found but disabled" in lab.refused("network", "create", "-d", "pynet", "web")
    (finding,) = patient.examine()
    assert finding["check"] == "name" and "pynet:latest" in finding["what"]
    patient.run(finding["command"])
    lab.network("web")
    assert patient.examine() == []


@pytest.mark.once
def test_the_state_was_lost(lab: Lab, patient: Patient) -> None:
    """The engine has a network that pynet does not know."""
    lab.network("web", "--subnet", "10.61.0.0/24")
    lab.daemon.kill()
    for file in lab.daemon.state_dir.glob("pynet.db*"):
        file.unlink()
    lab.daemon.start()
    assert "is not known to pynet" in lab.refused("run", "--rm", "--network", "web", "busybox", "true")
    (finding,) = patient.examine()
    assert finding["check"] == "networks" and " web " in finding["what"]
    patient.run(finding["command"])
    lab.network("web", "--subnet", "10.61.0.0/24")
    lab.docker("run", "--rm", "--network", "web", "busybox", "true")
    assert patient.examine() == []


def test_the_engines_chains_were_flushed(lab: Lab, patient: Patient) -> None:
    """As by `iptables -F; iptables -X`: the policy to drop is left, and the engine writes its chains when it starts."""
    lab.network("web", "--subnet", "10.61.0.0/24")
    lab.run("one", "--network", "web")
    assert lab.pings("one", lab.lan.NEIGHBOUR4)
    # pynet may put a rule back between the two.
    eventually(lambda: lab.engine.machine.run("sh", "-ec", "iptables -F; iptables -X; echo done"))
    assert not lab.pings("one", lab.lan.NEIGHBOUR4)
    (finding,) = patient.examine()
    assert (finding["check"], finding["command"]) == ("engine-rules", "systemctl restart docker")
    # The lab's machine has no service manager.
    lab.engine.restart()
    lab.docker("start", "one")
    eventually(lambda: lab.pings("one", lab.lan.NEIGHBOUR4))
    eventually(lambda: patient.examine() == [])
