"""From create to delete: what is there, and that nothing stays."""

import json

import pytest

from tests.lab.command import CommandFailed

from .host import (
    NETWORK,
    OTHER,
    PROGRAM,
    REVOKE,
    Host,
    both_firewalls,
    endpoint,
    endpoint_id,
    ids,
    join,
    network,
    port,
    program,
)

pytestmark = both_firewalls

BRIDGE = "pn-9f9f9f9f9f9f"
HOST_END, CONTAINER_END = "pnh000200020002", "pnc000200020002"
FORWARD4, FORWARD6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"
#: Binds a port as another process would; SO_REUSEADDR as most servers set it.
BIND = (
    "import socket,sys; s=socket.socket(socket.AF_INET, getattr(socket, sys.argv[1]));"
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((sys.argv[2], int(sys.argv[3])));"
    "sys.argv[1] == 'SOCK_STREAM' and s.listen()"
)


def can_bind(host: Host, number: int, kind: str = "SOCK_STREAM", address: str = "0.0.0.0") -> bool:
    try:
        host.netns.run("python3", "-c", BIND, kind, address, str(number))
    except CommandFailed as failure:
        assert "in use" in str(failure), failure
        return False
    return True


def test_network_and_endpoint_come_and_go(host: Host) -> None:
    """Everything that the calls make is there, and at the end nothing is."""
    before = host.state()
    assert host.ok("CreateNetwork", network(dual=True, mtu="1400")) == {}
    answer = host.ok("CreateEndpoint", endpoint(dual=True))
    assert answer == {"Interface": {"MacAddress": "02:42:0a:09:00:02"}}
    links = host.state().links
    assert links[BRIDGE]["kind"] == "bridge" and links[BRIDGE]["up"]
    assert links[BRIDGE]["addresses"] == ["10.9.0.1/24", "fd00:9::1/64"]
    assert links[HOST_END]["master"] == BRIDGE and links[HOST_END]["up"]
    assert [links[name]["mtu"] for name in (BRIDGE, HOST_END, CONTAINER_END)] == [1400] * 3
    assert links[CONTAINER_END]["mac"] == "02:42:0a:09:00:02" and links[CONTAINER_END]["master"] is None
    assert (host.netns.sysctl(FORWARD4), host.netns.sysctl(FORWARD6)) == ("1", "1")
    joined = host.ok("Join", join())
    assert joined["InterfaceName"] == {"SrcName": CONTAINER_END, "DstPrefix": "eth"}
    assert (joined["Gateway"], joined["GatewayIPv6"]) == ("10.9.0.1", "fd00:9::1")
    host.ok(PROGRAM, program(2, port(8080), port(5353, 53, 17, "127.0.0.1")))
    assert "8080" in host.state().rules
    assert not can_bind(host, 8080) and not can_bind(host, 5353, "SOCK_DGRAM", "127.0.0.1")
    assert can_bind(host, 8081) and can_bind(host, 8080, "SOCK_DGRAM")
    host.ok(REVOKE, ids())
    assert can_bind(host, 8080) and "8080" not in host.state().rules
    host.ok("Leave", ids())
    host.ok("DeleteEndpoint", ids())
    assert not {HOST_END, CONTAINER_END} & set(host.state().links)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.state() == before and not before.rows and not before.rules


@pytest.mark.parametrize("last", ["Leave", "DeleteEndpoint", "DeleteNetwork"])
def test_ports_are_free_without_a_revoke(host: Host, last: str) -> None:
    """Leave, DeleteEndpoint and DeleteNetwork imply Revoke, which engines forget."""
    host.ok("CreateNetwork", network())
    host.attach()
    host.ok(PROGRAM, program(2, port(8080)))
    assert not can_bind(host, 8080)
    host.ok(last, ids() if last != "DeleteNetwork" else {"NetworkID": NETWORK})
    assert can_bind(host, 8080) and "8080" not in host.state().rules


def test_network_takes_its_endpoints_along(host: Host) -> None:
    """DeleteNetwork removes what the engine forgot to remove."""
    before = host.state()
    host.ok("CreateNetwork", network())
    for number in (2, 3):
        host.attach(number)
    host.ok(PROGRAM, program(3, port(8080)))
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.state() == before


def test_program_replaces_what_was_published(host: Host) -> None:
    """A second Program without a Revoke publishes its ports in place of the first one's."""
    host.ok("CreateNetwork", network())
    host.attach()
    host.ok(PROGRAM, program(2, port(8080), port(8081)))
    host.ok(PROGRAM, program(2, port(8081), port(8082)))
    assert [can_bind(host, number) for number in (8080, 8081, 8082)] == [True, False, False]
    rules = host.state().rules
    assert "8080" not in rules and "8081" in rules and "8082" in rules
    host.ok(PROGRAM, program(2))
    assert can_bind(host, 8082)


def test_program_keeps_its_choice_when_repeated(host: Host) -> None:
    """The same call twice gives the same ports, those that pynet chose included."""
    host.ok("CreateNetwork", network())
    host.attach()
    host.ok(PROGRAM, program(2, port(0), port(8000, 81, end=8005)))
    first = host.state()
    host.ok(PROGRAM, program(2, port(8000, 81, end=8005), port(0)))
    ports = [json.loads(one.rows["endpoint", endpoint_id(2)])["ports"] for one in (first, host.state())]
    assert sorted(map(str, ports[0])) == sorted(map(str, ports[1])) and len(ports[0]) == 4
    assert host.state().rules == first.rules


def test_program_does_nothing_on_an_internal_network(host: Host) -> None:
    """Newest engines ask for ports on internal networks; nothing is published there."""
    host.ok("CreateNetwork", network(internal=True))
    assert host.netns.sysctl(FORWARD4) == "0"
    host.attach()
    before = host.state()
    host.ok(PROGRAM, program(2, port(8080)))
    assert host.state() == before and can_bind(host, 8080)
    answer = host.ok("Join", join())
    assert "Gateway" not in answer and answer["DisableGatewayService"] is True


def test_port_is_refused_when_a_process_has_it(host: Host) -> None:
    """A taken port is refused with its number and who has it, and nothing else is published."""
    host.ok("CreateNetwork", network())
    host.attach()
    code = BIND + ";import time; print('up', flush=True); time.sleep(60)"
    with host.netns.popen("python3", "-c", code, "SOCK_STREAM", "0.0.0.0", "8080", stdout=-1) as server:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        before = host.state()
        sentence = host.refused(PROGRAM, program(2, port(8079), port(8080)))
        assert "8080/tcp" in sentence and f"process {server.pid}" in sentence and "python3" in sentence
        assert host.state() == before and can_bind(host, 8079)
        host.ok(PROGRAM, program(2, port(8080, end=8081)))
        assert not can_bind(host, 8081)
        server.kill()


def test_port_is_refused_when_another_endpoint_has_it(host: Host) -> None:
    """A port of another endpoint is refused, on a single address too."""
    host.ok("CreateNetwork", network())
    for number in (2, 3):
        host.attach(number)
    host.ok(PROGRAM, program(2, port(8080)))
    before = host.state()
    assert endpoint_id(2)[:12] in host.refused(PROGRAM, program(3, port(8080)))
    assert endpoint_id(2)[:12] in host.refused(PROGRAM, program(3, port(8080, address="127.0.0.1")))
    assert host.state() == before


def test_port_of_a_dead_endpoint_goes_to_the_next(host: Host) -> None:
    """An endpoint whose link went with its sandbox keeps neither port nor address."""
    host.ok("CreateNetwork", network())
    host.attach()
    host.ok(PROGRAM, program(2, port(8080)))
    host.netns.run("ip", "link", "delete", HOST_END)
    again = {**endpoint(3), "Interface": endpoint(2)["Interface"]}
    host.ok("CreateEndpoint", again)
    host.ok("Join", join(3))
    host.ok(PROGRAM, program(3, port(8080)))
    assert ("endpoint", endpoint_id(2)) not in host.state().rows


def test_calls_give_the_same_answer_twice(host: Host) -> None:
    """Every call may come twice and is answered as the first time, with nothing changed."""
    calls = [
        ("CreateNetwork", network(dual=True)),
        ("CreateEndpoint", endpoint(dual=True)),
        ("Join", join()),
        (PROGRAM, program(2, port(8080), port(0, 81))),
        (REVOKE, ids()),
        ("Leave", ids()),
        ("DeleteEndpoint", ids()),
        ("DeleteNetwork", {"NetworkID": NETWORK}),
    ]
    for method, body in calls:
        first = host.ok(method, body)
        state = host.state()
        assert host.ok(method, body) == first, method
        assert host.state() == state, method


def test_an_endpoint_with_another_address_is_another_one(host: Host) -> None:
    """The same id with an address beside the first in its subnet is refused, and the first one stays as it is."""
    host.ok("CreateNetwork", network())
    host.ok("CreateEndpoint", endpoint())
    before = host.state()
    other = endpoint()
    other["Interface"]["Address"] = "10.9.0.3/24"
    assert "made differently" in host.refused("CreateEndpoint", other)
    assert host.state() == before


def test_join_makes_a_lost_link_again(host: Host) -> None:
    """Leave and Join without a new endpoint is fine, also when the link died with its sandbox."""
    host.ok("CreateNetwork", network())
    host.ok("CreateEndpoint", endpoint())
    host.ok("Join", join())
    before = host.state()
    host.ok("Leave", ids())
    host.netns.run("ip", "link", "delete", CONTAINER_END)
    host.ok("Join", join())
    assert host.state() == before


def test_forwarding_is_put_back_after_the_last_network(host: Host) -> None:
    """Forwarding that pynet turned on goes with the last network that needs it."""
    host.ok("CreateNetwork", network())
    host.ok("CreateNetwork", network(OTHER, 8, dual=True))
    assert (host.netns.sysctl(FORWARD4), host.netns.sysctl(FORWARD6)) == ("1", "1")
    host.ok("DeleteNetwork", {"NetworkID": OTHER})
    assert (host.netns.sysctl(FORWARD4), host.netns.sysctl(FORWARD6)) == ("1", "0")
    host.restart()
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert (host.netns.sysctl(FORWARD4), host.netns.sysctl(FORWARD6)) == ("0", "0")


def test_forwarding_stays_when_it_was_on_before(host: Host) -> None:
    """Forwarding that others turned on is none of pynet's."""
    host.netns.write_sysctl(FORWARD4, "1")
    host.ok("CreateNetwork", network())
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.netns.sysctl(FORWARD4) == "1" and not host.state().rows


def test_forwarding_stays_while_an_engine_has_a_bridge(host: Host) -> None:
    """Forwarding that the engine's own networks found on is theirs as much as ours."""
    host.ok("CreateNetwork", network())
    host.netns.run("ip", "link", "add", "docker0", "type", "bridge")
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.netns.sysctl(FORWARD4) == "1"


def test_ipv6_forwarding_keeps_routes_from_advertisements(host: Host) -> None:
    """`accept_ra` goes to 2 before IPv6 forwarding would take the host's default route, and back."""
    host.netns.run("ip", "link", "add", "up0", "type", "bridge")
    host.netns.write_sysctl("net/ipv6/conf/up0/accept_ra", "1")
    host.ok("CreateNetwork", network(dual=True))
    assert host.netns.sysctl("net/ipv6/conf/up0/accept_ra") == "2"
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.netns.sysctl("net/ipv6/conf/up0/accept_ra") == "1"


def test_network_takes_the_mtu_of_the_default_route(host: Host) -> None:
    """Without an option the MTU is that of the link with the default route."""
    host.netns.run("ip", "link", "add", "up0", "mtu", "1360", "type", "bridge")
    host.netns.run("ip", "address", "add", "192.0.2.2/24", "dev", "up0")
    host.netns.run("ip", "link", "set", "up0", "up")
    host.netns.run("ip", "route", "add", "default", "via", "192.0.2.1")
    host.ok("CreateNetwork", network())
    host.ok("CreateEndpoint", endpoint())
    links = host.state().links
    assert [links[name]["mtu"] for name in (BRIDGE, HOST_END, CONTAINER_END)] == [1360] * 3
