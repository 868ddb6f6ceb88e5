"""What the engine gives on top of any driver holds on pynet networks."""

from __future__ import annotations

import json

import pytest

from tests.engine.lab import Lab
from tests.lab.wait import eventually


@pytest.mark.smoke
@pytest.mark.protocol
def test_a_running_container_joins_and_leaves_networks(lab: Lab) -> None:
    """Connect and disconnect while it runs: names, ports and the default route follow."""
    lab.network("left", "--subnet", "10.6.0.0/24")
    lab.network("right", "--subnet", "10.7.0.0/24")
    lab.web("web", "--network", "left", "-p", "8080:80")
    lab.run("one", "--network", "left")
    lab.run("two", "--network", "right")
    assert not lab.pings("two", "10.6.0.2")
    lab.docker("network", "connect", "--alias", "store", "--ip", "10.7.0.99", "right", "web")
    assert lab.fetches("two", "http://store/hostname") == "web"
    assert lab.fetches("one", "http://web/hostname") == "web"
    assert "10.7.0.99" in lab.inside("web", "ip", "addr")
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
    lab.docker("network", "disconnect", "left", "web")
    assert lab.fetches("two", "http://store/hostname") == "web"
    assert lab.pings("web", lab.lan.NEIGHBOUR4)
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
    lab.docker("network", "connect", "left", "web")
    lab.docker("network", "disconnect", "right", "web")
    assert lab.fetches("one", "http://web/hostname") == "web"


def test_a_refused_connect_says_how_the_container_starts_again(lab: Lab) -> None:
    """The engine keeps what it was refused in the container's settings; what pynet says brings it back."""
    lab.network("left", "--subnet", "10.6.0.0/24")
    lab.network("right", "--subnet", "10.7.0.0/24", "--ipam-driver", "pynet")
    for number, wrong in enumerate((("--driver-opt", "color=blue"), ("--ip", "10.7.0.1"))):
        name = f"web{number}"
        lab.run(name, "--network", "left")
        said = lab.refused("network", "connect", *wrong, "right", name)
        assert "stop the container and run docker network disconnect NETWORK CONTAINER" in said
        assert lab.refused("restart", "-t0", name)
        lab.docker("stop", "-t0", name)
        lab.docker("network", "disconnect", "right", name)
        lab.docker("start", name)
        lab.docker("network", "connect", "right", name)
        assert lab.pings(name, "10.7.0.1")


@pytest.mark.parametrize("ipam", ["default", "pynet"])
@pytest.mark.once
def test_a_network_without_gateway_is_full_with_all_its_addresses(lab: Lab, ipam: str) -> None:
    """A /31 that is internal and isolated: two containers, which reach each other."""
    since_28(lab)
    isolated = ("--internal", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated")
    lab.network("pair", *isolated, "--subnet", "10.6.0.0/31", "--ipam-driver", ipam)
    for name in ("one", "two"):
        lab.run(name, "--network", "pair")
    assert lab.pings("one", "two") and "default" not in lab.inside("one", "ip", "route")


def since_28(lab: Lab) -> None:
    """Skip a test with engines that cannot do what it is about."""
    if int(lab.engine.version.partition(".")[0]) < 28:
        pytest.skip("engines before 28 cannot be told so")


def test_another_container_may_share_the_sandbox(lab: Lab) -> None:
    """--network container:X gives X's interfaces, addresses and published ports."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("owner", "--network", "net", "-p", "8080:80")
    lab.docker("run", "-d", "--name", "guest", "--network", "container:owner", "busybox", "httpd", "-f", "-h", "/etc")
    assert "10.6.0.2" in lab.inside("guest", "ip", "addr")
    assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "owner"


@pytest.mark.smoke
@pytest.mark.protocol
def test_restart_policies_bring_containers_back_over_an_engine_restart(lab: Lab) -> None:
    """After a restart of the engine the container runs again on its network, ports published."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.web("web", "--network", "net", "-p", "8080:80", "--restart", "always")
    lab.engine.restart()
    eventually(lambda: lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "web", timeout_s=30)
    lab.run("client", "--network", "net")
    assert lab.fetches("client", "http://web/hostname") == "web"
    assert lab.pings("web", lab.lan.NEIGHBOUR4)


@pytest.mark.protocol
def test_networks_are_listed_inspected_and_pruned(lab: Lab) -> None:
    """docker network ls, inspect and prune treat a pynet network as any other."""
    lab.network("used", "--subnet", "10.6.0.0/24", "-o", "mtu=1400", "--label", "a=b")
    lab.network("idle")
    lab.run("one", "--network", "used")
    assert {"used", "idle"} <= set(lab.docker("network", "ls", "--format", "{{.Name}}").split())
    (found,) = json.loads(lab.docker("network", "inspect", "used"))
    assert (found["Driver"], found["Scope"], found["Options"]) == ("pynet", "local", {"mtu": "1400"})
    assert [one["IPv4Address"] for one in found["Containers"].values()] == ["10.6.0.2/24"]
    lab.docker("network", "prune", "-f")
    names = lab.docker("network", "ls", "--format", "{{.Name}}").split()
    assert "used" in names and "idle" not in names


@pytest.mark.smoke
def test_the_built_in_networks_are_not_disturbed(lab: Lab) -> None:
    """bridge, host and none work beside pynet, and a container may be on both kinds."""
    before = lab.engine.machine.run("iptables", "-S")
    lab.web("plain", "-p", "8081:80")
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.docker("network", "create", "-d", "bridge", "theirs")
    lab.docker("network", "connect", "theirs", "web")
    lab.run("peer", "--network", "theirs")
    assert lab.fetches("peer", "http://web/hostname") == "web"
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname") == "plain"
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
    assert lab.docker("run", "--rm", "--network", "host", "busybox", "ip", "addr", "show", "lan0")
    assert "eth0" not in lab.docker("run", "--rm", "--network", "none", "busybox", "ip", "link")
    lab.clean()
    lab.docker("network", "rm", "theirs")
    assert lab.engine.machine.run("iptables", "-S") == before


@pytest.mark.smoke
@pytest.mark.protocol
def test_the_engines_containers_stay_protected_from_ours_and_ours_from_them(lab: Lab) -> None:
    """Between a bridge of the engine and a pynet network only published ports are open."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.web("ours", "--network", "net", "-p", "8080:80")
    lab.docker("network", "create", "-d", "bridge", "theirs")
    lab.web("theirs1", "--network", "theirs", "-p", "8081:80")
    lab.web("theirs2")
    for name, network in (("theirs1", "theirs"), ("theirs2", "bridge")):
        address = lab.addresses(name, network)["IPAddress"]
        eventually(lambda: _bridge(lab, network) in lab.rules())  # noqa: B023
        assert lab.fetches("ours", f"http://{address}/hostname") is None
        assert lab.fetches(name, "http://10.6.0.2/hostname") is None
        assert lab.fetches(name, f"http://{lab.lan.HOST4}:8080/hostname") == "ours"
    assert lab.fetches("ours", f"http://{lab.lan.HOST4}:8081/hostname") == "theirs1"
    lab.clean()
    lab.docker("network", "rm", "theirs")


def _bridge(lab: Lab, network: str) -> str:
    return "docker0" if network == "bridge" else f"br-{lab.docker('network', 'inspect', '-f', '{{.Id}}', network)[:12]}"


@pytest.mark.smoke
@pytest.mark.protocol
def test_the_users_own_rules_in_the_engines_chain_come_first(lab: Lab) -> None:
    """A drop that the user put into DOCKER-USER holds for pynet's containers, and stays there."""
    rule = ("DOCKER-USER", "-s", lab.lan.NEIGHBOUR4, "-p", "tcp", "--dport", "80", "-j", "DROP")
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80")
    url = f"http://{lab.lan.HOST4}:8080/hostname"
    assert lab.page(lab.neighbour, url) == "web"
    lab.engine.machine.run("iptables", "-I", *rule)
    try:
        assert lab.page(lab.neighbour, url) is None
        lab.clean()
        assert "DROP" in lab.engine.machine.run("iptables", "-S", "DOCKER-USER")
        lab.network("net")
        lab.web("web", "--network", "net", "-p", "8080:80")
        assert lab.page(lab.neighbour, url) is None
    finally:
        lab.engine.machine.run("iptables", "-D", *rule)
    assert lab.page(lab.neighbour, url) == "web"


@pytest.mark.protocol
def test_pynets_own_addresses_serve_networks_of_both_families(lab: Lab) -> None:
    """--ipam-driver pynet: pools chosen or given, ranges, fixed addresses, and a released one comes last."""
    lab.network("auto", "--ipam-driver", "pynet", "--ipv6")
    lab.network("auto2", "--ipam-driver", "pynet")
    lab.network(
        "given",
        *("--ipam-driver", "pynet", "--subnet", "10.5.0.0/16", "--ip-range", "10.5.3.0/24"),
        *("--gateway", "10.5.0.254", "--aux-address", "router=10.5.3.1"),
    )
    lab.run("one", "--network", "auto")
    lab.run("two", "--network", "auto")
    assert lab.pings("one", "two") and lab.pings("one", lab.lan.NEIGHBOUR6)
    subnets = [
        config["Subnet"]
        for name in ("auto", "auto2")
        for config in json.loads(lab.docker("network", "inspect", name))[0]["IPAM"]["Config"]
    ]
    assert len(set(subnets)) == 3
    lab.run("fixed", "--network", "given", "--ip", "10.5.3.77")
    assert lab.pings("fixed", "10.5.0.254")
    seen = []
    for _ in range(3):
        lab.run("short", "--network", "given")
        seen.append(lab.addresses("short", "given")["IPAddress"])
        lab.docker("rm", "-f", "short")
    assert len(set(seen)) == 3 and all(address.startswith("10.5.3.") for address in seen)
    assert "10.5.3.1" not in seen
    message = lab.refused("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "--subnet", "10.5.1.0/24", "x1")
    assert "10.5.1.0/24 overlaps 10.5.0.0/16" in message
    message = lab.refused("run", "--rm", "--network", "given", "--ip", "10.5.3.77", "busybox", "true")
    assert "10.5.3.77" in message and "in use" in message
