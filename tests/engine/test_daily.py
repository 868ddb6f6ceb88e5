"""A network's whole life: create, connect, run, ping, stop, start, restart, disconnect, remove."""

from __future__ import annotations

import json

import pytest

from tests.engine.lab import Lab


@pytest.mark.smoke
@pytest.mark.protocol
def test_containers_reach_each_other_by_address_and_by_name(lab: Lab) -> None:
    """Two containers of one network reach each other by address, name, alias and link."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("one", "--network", "net", "--network-alias", "uno")
    lab.run("two", "--network", "net", "--link", "one:linked", "--ip", "10.6.0.77")
    assert lab.pings("one", "10.6.0.77")
    assert all(lab.pings("two", name) for name in ("one", "uno", "linked"))
    assert lab.pings("one", "two")
    assert "10.6.0.77\ttwo" in lab.inside("two", "cat", "/etc/hosts")


@pytest.mark.smoke
@pytest.mark.protocol
def test_a_container_keeps_working_over_stop_start_and_restart(lab: Lab) -> None:
    """After stop, start and restart the container is reachable as before, and its page comes through."""
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.run("client", "--network", "net")
    for verb in (("stop", "-t0"), ("start",), ("restart", "-t0")):
        lab.docker(*verb, "web")
        if verb[0] != "stop":
            assert lab.fetches("client", "http://web/hostname") == "web"
            assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") == "web"
        else:
            assert lab.page(lab.host, "http://127.0.0.1:8080/hostname") is None


@pytest.mark.protocol
def test_dual_stack_works_for_both_families(lab: Lab) -> None:
    """With --ipv6 names, gateways, the way out and the MAC are there for both families."""
    lab.network("dual", "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
    lab.run("one", "--network", "dual")
    lab.run("two", "--network", "dual", "--ip6", "fd00:6::77")
    for target in ("10.6.0.1", "fd00:6::1", "fd00:6::77", lab.lan.NEIGHBOUR4, lab.lan.NEIGHBOUR6):
        assert lab.pings("one", target), target
    found = lab.addresses("two", "dual")
    assert found["GlobalIPv6Address"] == "fd00:6::77"
    assert found["MacAddress"] == "02:42:0a:06:00:03"


@pytest.mark.once
def test_the_mtu_is_on_both_ends(lab: Lab) -> None:
    """An MTU option holds for the bridge, the host's end and the container's interface."""
    lab.network("small", "-o", "com.docker.network.driver.mtu=1400")
    lab.run("one", "--network", "small")
    assert lab.inside("one", "cat", "/sys/class/net/eth0/mtu") == "1400"
    ours = {link["ifname"]: link["mtu"] for link in lab.links() if link["ifname"].startswith("pn")}
    assert len(ours) == 2 and set(ours.values()) == {1400}


@pytest.mark.smoke
@pytest.mark.protocol
def test_outgoing_traffic_takes_the_hosts_address(lab: Lab) -> None:
    """The second machine sees the host's address, or the container's own with masquerade off."""
    lab.network("nat", "--subnet", "10.6.0.0/24", "--ipv6", "--subnet", "fd00:6::/64")
    lab.network("plain", "--subnet", "10.7.0.0/24", "-o", "com.docker.network.bridge.enable_ip_masquerade=false")
    lab.run("masked", "--network", "nat")
    lab.run("open", "--network", "plain")
    lab.neighbour.run("ip", "route", "replace", "10.7.0.0/24", "via", lab.lan.HOST4)
    script = (
        "import socket,sys; s=socket.create_server((sys.argv[1],7007),family=socket.AF_INET6 if ':' in"
        " sys.argv[1] else socket.AF_INET); print('up',flush=True); print(s.accept()[1][0],flush=True)"
    )
    for container, target, seen in (
        ("masked", lab.lan.NEIGHBOUR4, lab.lan.HOST4),
        ("masked", lab.lan.NEIGHBOUR6, lab.lan.HOST6),
        ("open", lab.lan.NEIGHBOUR4, "10.7.0.2"),
    ):
        server = lab.neighbour.popen("python3", "-c", script, target, stdout=-1)
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        lab.inside(container, "sh", "-c", f"echo | timeout 2 nc {target} 7007")
        assert server.stdout.readline().decode().strip() == seen
        server.wait()
        server.stdout.close()


@pytest.mark.smoke
def test_an_internal_network_lets_nothing_in_or_out(lab: Lab) -> None:
    """Containers of an internal network reach each other, and nobody beyond it, nor anybody them."""
    lab.network("inner", "--internal", "--subnet", "10.6.0.0/24")
    lab.network("outer", "--subnet", "10.7.0.0/24")
    lab.run("one", "--network", "inner", "--cap-add", "NET_ADMIN")
    lab.web("two", "--network", "inner", "-p", "8080:80")
    lab.run("outside", "--network", "outer")
    assert lab.fetches("one", "http://two/hostname") == "two"
    assert "default" not in lab.inside("one", "ip", "route")
    assert lab.page(lab.host, f"http://{lab.lan.HOST4}:8080/hostname") is None
    # Even with a route of its own the container gets nowhere but to its own network.
    lab.inside("one", "ip", "route", "add", "default", "via", "10.6.0.1")
    outside = lab.addresses("outside", "outer")["IPAddress"]
    for target in (lab.lan.NEIGHBOUR4, lab.lan.HOST4, outside, "10.7.0.1"):
        assert not lab.pings("one", target), target
    lab.neighbour.run("ip", "route", "replace", "10.6.0.0/24", "via", lab.lan.HOST4)
    two = lab.addresses("two", "inner")["IPAddress"]
    assert lab.page(lab.neighbour, f"http://{two}/hostname") is None
    assert lab.fetches("outside", f"http://{two}/hostname") is None


def test_an_internal_network_is_closed_to_what_conntrack_remembers(lab: Lab) -> None:
    """A flow of an earlier container with the same address on an open network opens nothing."""
    echo = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',7007));print('up',flush=True)\n"
        "while True: s.sendto(*s.recvfrom(99))"
    )
    ask = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',5555));s.settimeout(1)\n"
        f"s.sendto(b'x',('{lab.lan.NEIGHBOUR4}',7007));s.recv(99)"
    )
    server = lab.neighbour.popen("python3", "-c", echo, stdout=-1)
    assert server.stdout is not None and server.stdout.readline() == b"up\n"
    for arguments, answered in (((), True), (("--internal",), False)):
        lab.network("net", "--subnet", "10.6.0.0/24", *arguments)
        lab.run("one", "--network", "net", "--cap-add", "NET_ADMIN")
        lab.inside("one", "sh", "-c", "ip route add default via 10.6.0.1 2>/dev/null || true")
        assert (lab.sandbox("one", "python3", "-c", ask, stderr=-3).wait() == 0) is answered
        lab.clean()
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.mark.smoke
@pytest.mark.protocol
def test_networks_are_isolated_from_each_other(lab: Lab) -> None:
    """A container address is out of reach from another pynet network and from the second machine."""
    lab.network("left", "--subnet", "10.6.0.0/24")
    lab.network("right", "--subnet", "10.7.0.0/24")
    lab.web("one", "--network", "left")
    lab.run("two", "--network", "right")
    lab.neighbour.run("ip", "route", "replace", "10.6.0.0/24", "via", lab.lan.HOST4)
    one = lab.addresses("one", "left")["IPAddress"]
    assert lab.page(lab.host, f"http://{one}/hostname") == "one"
    assert lab.fetches("two", f"http://{one}/hostname") is None
    assert not lab.pings("two", one)
    assert lab.page(lab.neighbour, f"http://{one}/hostname") is None


def test_icc_off_keeps_containers_apart(lab: Lab) -> None:
    """With enable_icc=false siblings reach neither each other nor through the gateway, but the LAN."""
    lab.network("apart", "--subnet", "10.6.0.0/24", "-o", "com.docker.network.bridge.enable_icc=false")
    lab.run("one", "--network", "apart", "--cap-add", "NET_ADMIN")
    lab.run("two", "--network", "apart")
    two = lab.addresses("two", "apart")["IPAddress"]
    assert not lab.pings("one", two)
    lab.inside("one", "ip", "route", "add", f"{two}/32", "via", "10.6.0.1")
    assert not lab.pings("one", two)
    assert lab.pings("one", lab.lan.NEIGHBOUR4)


@pytest.mark.protocol
def test_options_name_bridge_and_interface(lab: Lab) -> None:
    """The bridge and the container's interface are called what the user says, and go with the network."""
    lab.network(
        "named",
        *("-o", "com.docker.network.bridge.name=mybridge"),
        *("-o", "com.docker.network.container_iface_prefix=lan"),
    )
    lab.web("one", "--network", "named", "-p", "8080:80")
    assert "lan0" in lab.inside("one", "ip", "link")
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "one"
    assert "exists on this host and is a veth, not a bridge" in lab.refused(
        "network", "create", "-d", "pynet", "-o", "com.docker.network.bridge.name=lan0", "second"
    )
    lab.clean()
    assert "mybridge" not in [link["ifname"] for link in lab.links()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-o", "nonsense=1"), 'unknown network option "nonsense"'),
        (("-o", "mtuu=1400"), 'unknown network option "mtuu"; did you mean "mtu"?'),
        (("-o", "mtu=67"), 'option "mtu" cannot be "67"; allowed: 68 to 65535'),
        (("-o", "backend=tokenring"), 'option "backend" cannot be "tokenring"; allowed: bridge'),
    ],
)
@pytest.mark.once
def test_a_bad_option_is_refused_in_one_sentence(lab: Lab, arguments: tuple[str, ...], sentence: str) -> None:
    """`docker network create` prints what was wrong and leaves nothing behind."""
    message = lab.refused("network", "create", "-d", "pynet", *arguments, "x1")
    assert sentence in message
    assert "\n" not in message
    assert json.loads(lab.docker("network", "ls", "--filter", "driver=pynet", "--format", "{{json .}}") or "{}") == {}
