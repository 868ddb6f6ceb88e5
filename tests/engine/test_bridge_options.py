"""Every option of the built-in bridge, seen from the containers, the host and a second machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.lab import Lab
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

BRIDGE = "com.docker.network.bridge"
DUAL = ("--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
#: Says with which address a connection came: python3 -c ACCEPT ADDRESS
ACCEPT = (
    "import socket,sys; s=socket.create_server((sys.argv[1],7007),family=socket.AF_INET6 if ':' in"
    " sys.argv[1] else socket.AF_INET); print('up',flush=True); print(s.accept()[1][0],flush=True)"
)


def needs_engine_28(lab: Lab, why: str) -> None:
    if int(lab.engine.version.split(".")[0]) < 28:
        pytest.skip(f"engine {lab.engine.version} {why}")


@contextmanager
def routes(lab: Lab, *subnets: str) -> Iterator[None]:
    """Have the second machine send packets to container addresses to the host."""
    for subnet in subnets:
        gateway = lab.lan.HOST6 if ":" in subnet else lab.lan.HOST4
        lab.neighbour.run("ip", "route", "replace", subnet, "via", gateway)
    try:
        yield
    finally:
        for subnet in subnets:
            lab.neighbour.run("ip", "route", "delete", subnet)


@contextmanager
def host_address(lab: Lab, *addresses: str) -> Iterator[None]:
    for one in addresses:
        lab.host.run("ip", "address", "add", one, "dev", "lan0", *(["nodad"] if ":" in one else []))
    try:
        yield
    finally:
        for one in addresses:
            lab.host.run("ip", "address", "delete", one, "dev", "lan0")


def is_closed(where: Namespace, url: str) -> bool:
    """Tell whether nobody answers soon; to be asked where an answer would come at once."""
    return not where.run("curl", "-gsm0.5", url, check=False).strip()


def seen_as(lab: Lab, container: str, target: str) -> str:
    """Connect to the second machine; returns the address that it sees."""
    with lab.neighbour.popen("python3", "-c", ACCEPT, target, stdout=-1) as server:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        lab.inside(container, "sh", "-c", f"echo | timeout 2 nc {target} 7007")
        return str(server.stdout.readline().decode().strip())


def test_one_network_may_have_several_subnets(lab: Lab) -> None:
    """Containers of both subnets reach each other by way of the host, the LAN, and are reached on their ports."""
    lab.network("net", "--subnet", "10.6.0.0/24", "--subnet", "10.7.0.0/24")
    lab.web("one", "--network", "net", "--ip", "10.6.0.2", "-p", "8081:80")
    lab.web("two", "--network", "net", "--ip", "10.7.0.2", "-p", "8082:80")
    assert lab.fetches("one", "http://10.7.0.2/hostname") == "two"
    assert lab.fetches("two", "http://one/hostname") == "one"
    for name, port in (("one", 8081), ("two", 8082)):
        assert lab.pings(name, lab.lan.NEIGHBOUR4)
        assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{port}/hostname") == name
        assert lab.fetches("one", f"http://{lab.lan.HOST4}:{port}/hostname") == name


def test_a_network_may_have_ipv6_alone(lab: Lab) -> None:
    """--ipv4=false: one interface, IPv6 to siblings, the LAN and from it."""
    needs_engine_28(lab, "makes no network without IPv4")
    lab.network("six", "--ipv4=false", "--ipv6", "--subnet", "fd00:6::/64")
    lab.web("one", "--network", "six", "-p", "8080:80")
    lab.run("two", "--network", "six")
    assert "eth1" not in lab.inside("one", "ip", "link") and "10." not in lab.inside("one", "ip", "addr")
    assert lab.fetches("two", "http://one/hostname") == "one"
    assert lab.pings("two", lab.lan.NEIGHBOUR6)
    assert lab.page(lab.neighbour, f"http://[{lab.lan.HOST6}]:8080/hostname") == "one"


@pytest.mark.once
def test_a_network_may_have_no_addresses(lab: Lab) -> None:
    """--ipam-driver null: containers are on one wire and give themselves addresses."""
    lab.network("bare", "--ipam-driver", "null")
    for number in (2, 3):
        lab.run(f"c{number}", "--network", "bare", "--cap-add", "NET_ADMIN")
        assert "inet " not in lab.inside(f"c{number}", "ip", "addr", "show", "eth0")
        lab.inside(f"c{number}", "ip", "addr", "add", f"10.6.0.{number}/24", "dev", "eth0")
    assert lab.pings("c2", "10.6.0.3")
    assert not lab.pings("c2", lab.lan.NEIGHBOUR4)


def test_a_subnet_may_have_two_addresses(lab: Lab) -> None:
    """In a /31 the host and one container have the two addresses, and no second container has one."""
    needs_engine_28(lab, "gives no address of a /31")
    lab.network("pair", "--subnet", "10.6.0.0/31", "--gateway", "10.6.0.0")
    lab.web("one", "--network", "pair", "--ip", "10.6.0.1", "-p", "8080:80")
    assert lab.pings("one", lab.lan.NEIGHBOUR4)
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "one"
    assert "no available" in lab.refused("run", "-d", "--network", "pair", "busybox", "true")


@pytest.mark.once
def test_the_default_gateway_may_be_another_machine(lab: Lab) -> None:
    """--aux-address DefaultGatewayIPv4/6 is where containers send what is not theirs; the host keeps its address."""
    ways_out = ("--aux-address", "DefaultGatewayIPv4=10.6.0.99", "--aux-address", "DefaultGatewayIPv6=fd00:6::99")
    lab.network("net", *DUAL, *ways_out)
    lab.run("one", "--network", "net")
    assert "default via 10.6.0.99" in lab.inside("one", "ip", "route")
    assert "default via fd00:6::99" in lab.inside("one", "ip", "-6", "route")
    assert lab.pings("one", "10.6.0.1") and not lab.pings("one", lab.lan.NEIGHBOUR4)


def test_the_bridge_may_be_without_an_address(lab: Lab) -> None:
    """inhibit_ipv4: the gateway's address is the containers' way out and nobody's on the host."""
    bridge = lab.network("net", "--subnet", "10.6.0.0/24", "-o", f"{BRIDGE}.inhibit_ipv4=true")
    lab.run("one", "--network", "net")
    lab.run("router", "--network", "net", "--cap-add", "NET_ADMIN")
    assert "default via 10.6.0.1" in lab.inside("one", "ip", "route")
    (link,) = [one for one in lab.links() if one["ifname"] == f"pn-{bridge[:12]}"]
    assert not [one for one in link["addr_info"] if one["family"] == "inet"]
    assert not lab.pings("one", "10.6.0.1")
    lab.inside("router", "ip", "addr", "add", "10.6.0.1/24", "dev", "eth0")
    assert lab.pings("one", "10.6.0.1")


@pytest.mark.parametrize("mode", ["nat", "nat-unprotected", "routed"])
def test_gateway_modes_say_what_comes_in(lab: Lab, mode: str) -> None:
    """By container address: nothing, every port, or published ports; in routed mode no address is translated."""
    lab.network("net", *DUAL, *(f"-o={BRIDGE}.gateway_mode_ipv{version}={mode}" for version in (4, 6)))
    web = "httpd -p 80 -h /etc && exec httpd -f -p 81 -h /etc"
    lab.run("one", "--network", "net", "-p", "8080:80", command=("sh", "-c", web))
    lab.run("two", "--network", "net")
    assert lab.fetches("two", "http://one:81/hostname") == "one"
    with routes(lab, "10.6.0.0/24", "fd00:6::/64"):
        for container, host, neighbour in (
            ("10.6.0.2", lab.lan.HOST4, lab.lan.NEIGHBOUR4),
            ("[fd00:6::2]", f"[{lab.lan.HOST6}]", lab.lan.NEIGHBOUR6),
        ):
            closed = [is_closed(lab.neighbour, f"http://{container}:{port}/hostname") for port in (80, 81)]
            assert closed == {"nat": [True, True], "nat-unprotected": [False, False], "routed": [False, True]}[mode]
            assert is_closed(lab.neighbour, f"http://{host}:8080/hostname") is (mode == "routed")
            assert lab.page(lab.host, f"http://{container}:81/hostname") == "one"
            seen = seen_as(lab, "one", neighbour)
            assert seen == (container if mode == "routed" else host).strip("[]")


def test_isolated_keeps_even_the_host_out(lab: Lab) -> None:
    """gateway_mode isolated: the bridge has no address, so containers and host do not reach each other."""
    needs_engine_28(lab, "asks for a gateway address that would be on no link")
    modes = [f"-o={BRIDGE}.gateway_mode_ipv{version}=isolated" for version in (4, 6)]
    bridge = lab.network("net", *DUAL, "--internal", *modes)
    lab.web("one", "--network", "net")
    lab.run("two", "--network", "net")
    assert lab.fetches("two", "http://one/hostname") == "one"
    (link,) = [one for one in lab.links() if one["ifname"] == f"pn-{bridge[:12]}"]
    assert not [one for one in link["addr_info"] if one["scope"] == "global"]
    for container in ("one", "two"):
        address = lab.addresses(container, "net")["IPAddress"]
        assert is_closed(lab.host, f"http://{address}/hostname")
    # Without an address of the host's, the first of the subnet is a container's.
    assert lab.addresses("one", "net")["IPAddress"] == "10.6.0.1" and not lab.pings("two", lab.lan.HOST4)


def test_trusted_links_reach_container_addresses(lab: Lab) -> None:
    """From a trusted link published ports are reached at the container's address, others are not."""
    for links, closed in (("lan0", False), ("elsewhere0:wg0", True)):
        lab.network("net", *DUAL, "-o", f"{BRIDGE}.trusted_host_interfaces={links}")
        web = "httpd -p 80 -h /etc && exec httpd -f -p 81 -h /etc"
        lab.run("one", "--network", "net", "-p", "8080:80", command=("sh", "-c", web))
        with routes(lab, "10.6.0.0/24", "fd00:6::/64"):
            for address in ("10.6.0.2", "[fd00:6::2]"):
                assert is_closed(lab.neighbour, f"http://{address}/hostname") is closed
                assert is_closed(lab.neighbour, f"http://{address}:81/hostname")
        lab.clean()


def test_the_source_address_may_be_chosen(lab: Lab) -> None:
    """host_ipv4 and host_ipv6 are what the second machine sees, not the link's first address."""
    with host_address(lab, "192.0.2.77/24", "2001:db8:1::77/64"):
        sources = ("-o=com.docker.network.host_ipv4=192.0.2.77", "-o=com.docker.network.host_ipv6=2001:db8:1::77")
        lab.network("net", *DUAL, *sources)
        lab.run("one", "--network", "net")
        assert seen_as(lab, "one", lab.lan.NEIGHBOUR4) == "192.0.2.77"
        assert seen_as(lab, "one", lab.lan.NEIGHBOUR6) == "2001:db8:1::77"


def test_ports_may_be_for_the_host_alone(lab: Lab) -> None:
    """host_binding_ipv4=127.0.0.1: `-p` without an address is open neither on the LAN nor on any IPv6 address."""
    lab.network("net", *DUAL, "-o", f"{BRIDGE}.host_binding_ipv4=127.0.0.1")
    lab.web("one", "--network", "net", "-p", "8080:80")
    assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "one"
    for where in (lab.host, lab.neighbour):
        for address in (lab.lan.HOST4, f"[{lab.lan.HOST6}]"):
            assert is_closed(where, f"http://{address}:8080/hostname")


def test_a_bridge_with_an_uplink_is_adopted(lab: Lab) -> None:
    """Containers are on the uplink's LAN, in both directions, with ports, and the bridge stays as it was."""
    with Namespace() as machine:
        lab.host.run("ip", "link", "add", "br0", "type", "bridge")
        try:
            connect(Plug(lab.host, "up0"), Plug(machine, "eth0", ("10.6.0.9/24",)))
            lab.host.run("ip", "link", "set", "up0", "master", "br0")
            lab.host.run("ip", "address", "add", "172.30.0.1/24", "dev", "br0")
            lab.host.run("ip", "link", "set", "br0", "up")
            machine.run("ip", "route", "add", "default", "via", "10.6.0.1")
            before = _settled(lab)
            lab.network("net", "--subnet", "10.6.0.0/24", "-o", f"{BRIDGE}.name=br0")
            lab.web("one", "--network", "net", "-p", "127.0.0.1:8080:80", "-p", "8081:80")
            lab.run("two", "--network", "net")
            assert lab.page(machine, "http://10.6.0.2/hostname") == "one"
            assert lab.pings("two", "10.6.0.9") and lab.pings("two", lab.lan.NEIGHBOUR4)
            assert lab.fetches("two", "http://one/hostname") == "one"
            assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "one"
            assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname") == "one"
            assert lab.page(machine, "http://10.6.0.1:8081/hostname") == "one"
            if lab.name.endswith("nft"):
                assert "-o br0" in lab.engine.machine.run("iptables", "-S", "DOCKER-USER")
            lab.daemon.kill()
            lab.daemon.start()
            assert lab.page(machine, "http://10.6.0.1:8081/hostname") == "one"
            lab.clean()
            assert _settled(lab) == before
            assert lab.host.sysctl("net/ipv4/conf/br0/route_localnet") == "0"
        finally:
            lab.host.run("ip", "link", "delete", "br0")


def _settled(lab: Lab) -> list[object]:
    """The bridge and its port without what the kernel counts."""
    found = list[object]()
    for link in json.loads(lab.host.run("ip", "-d", "-j", "addr")):
        if link["ifname"] in ("br0", "up0"):
            addresses = [one["local"] for one in link["addr_info"] if one["scope"] == "global"]
            slave = link["linkinfo"].get("info_slave_data", {})
            flags = {key: value for key, value in slave.items() if "timer" not in key}
            found.append((link["ifname"], link["address"], link["mtu"], "UP" in link["flags"], addresses, flags))
    return found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((f"-o={BRIDGE}.gateway_mode_ipv4=open",), "allowed: nat, nat-unprotected, routed, isolated"),
        ((f"-o={BRIDGE}.gateway_mode_ipv4=isolated",), "gateway_mode_ipv4=isolated needs --internal"),
        (("-o=com.docker.network.host_ipv4=198.51.100.9",), "host_ipv4=198.51.100.9 is no address of this host"),
        ((f"-o={BRIDGE}.name=lan0",), '"lan0" exists on this host and is a veth, not a bridge'),
        ((f"-o={BRIDGE}.name=docker0",), '"docker0" is a name that the engine gives to bridges of its own'),
        ((*DUAL, "-o=mtu=1200"), "1280 to 65535 with IPv6"),
        (("-o=mtu=1400", "-o=com.docker.network.driver.mtu=1300"), "are the same one; give it once"),
    ],
)
@pytest.mark.once
def test_options_that_cannot_be_are_refused(lab: Lab, arguments: tuple[str, ...], sentence: str) -> None:
    """`docker network create` prints one sentence and changes nothing."""
    before = lab.state()
    message = lab.refused("network", "create", "-d", "pynet", *arguments, "x1")
    assert sentence in message and "\n" not in message
    assert lab.state() == before


@pytest.mark.once
def test_a_range_that_is_partly_taken_names_what_is_taken(lab: Lab) -> None:
    """One to one a range needs all of its ports; the sentence says which one is taken and by whom."""
    lab.network("net")
    with lab.host.popen("python3", "-m", "http.server", "8003", stdout=-3, stderr=-3) as server:
        try:
            eventually(lambda: lab.page(lab.host, "http://127.0.0.1:8003/"))
            web = ("run", "-d", "--name", "one", "--network", "net")
            lab.docker(*web, "-p", "8003-8005:80", "busybox", "sleep", "99")
            assert lab.host_port("one", "net", 80) == 8004
            message = lab.refused("run", "-d", "--network", "net", "-p", "8000-8003:8000-8003", "busybox", "true")
            assert f"8003/tcp is taken by process {server.pid} (python3)" in message
            endpoint = lab.addresses("one", "net")["EndpointID"][:12]
            message = lab.refused("run", "-d", "--network", "net", "-p", "8004-8006:8004-8006", "busybox", "true")
            assert f"8004/tcp is taken by pynet's endpoint {endpoint}" in message
        finally:
            server.kill()
