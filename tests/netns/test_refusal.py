"""Bad input: each call gets one sentence, and store, links, rules and switches stay as they were."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .host import (
    GENERIC,
    NETWORK,
    OTHER,
    PROGRAM,
    REVOKE,
    UNKNOWN,
    Host,
    assert_refusal,
    both_firewalls,
    endpoint,
    endpoint_id,
    ids,
    join,
    network,
    port,
    program,
)
from .test_protocol import WITH_ARGUMENTS

pytestmark = both_firewalls

LONG = "a" * 200
POOL = "pynet-local/10.7.0.0/24"
NAME = "com.docker.network.bridge.name"
MEMBERS = ["NetworkID", "EndpointID", "PoolID", "AddressSpace", "Address", "SandboxKey"]
Cases = dict[str, tuple[str, Any]]


@pytest.fixture
def busy(host: Host) -> Iterator[Host]:
    """A host with a network, an endpoint that publishes, another one, and a pool."""
    host.ok("CreateNetwork", network(dual=True))
    for number in (2, 3):
        host.attach(number, dual=True)
    host.ok(PROGRAM, program(2, port(8079, 79), port(8080)))
    pool = {"AddressSpace": "pynet-local", "Pool": "10.7.0.0/24", "SubPool": "", "Options": None, "V6": False}
    assert host.ok("IpamDriver.RequestPool", pool)["PoolID"] == POOL
    host.ok("IpamDriver.RequestAddress", {"PoolID": POOL, "Address": "10.7.0.9", "Options": None})
    yield host


def with_pools(pool: Any, gateway: Any = None, id: str = OTHER) -> Any:
    return {**network(id), "IPv4Data": [{"Pool": pool, "Gateway": gateway}]}


def named(value: str, option: str = NAME) -> Any:
    return {**network(OTHER, 8), "Options": {GENERIC: {option: value}}}


def with_interface(**members: Any) -> Any:
    return {**ids(7), "Interface": members, "Options": {}}


def pool(text: Any, sub_pool: Any = "", v6: Any = False, space: Any = "pynet-local", **options: Any) -> Any:
    return {"AddressSpace": space, "Pool": text, "SubPool": sub_pool, "Options": options, "V6": v6}


def address(text: Any, pool_id: Any = POOL) -> Any:
    return {"PoolID": pool_id, "Address": text, "Options": None}


NETWORKS: Cases = {
    "unknown option": ("nonsense", network(OTHER, 8, nonsense="1")),
    "unknown option, 200 characters": ("unknown network option", named("1", LONG)),
    "unknown backend": ("backend", network(OTHER, 8, backend="nonsense")),
    "no backend": ("backend", network(OTHER, 8, backend="")),
    "MTU too small": ("68 to 65535", network(OTHER, 8, mtu="67")),
    "MTU too small for IPv6": ("1280", network(OTHER, 8, dual=True, mtu="1000")),
    "MTU no number": ("lots", network(OTHER, 8, mtu="lots")),
    "option no string": ("generic", {**network(OTHER, 8), "Options": {GENERIC: {"mtu": 1500}}}),
    "bridge of another network": ("belongs to", named("pn-9f9f9f9f9f9f")),
    "bridge that is lo": ('"lo"', named("lo")),
    "bridge that the kernel forbids": ("all", named("all")),
    "bridge too long": ("1 to 15", named(LONG)),
    "same pool": ("overlaps", network(OTHER, 9)),
    "pool inside another": ("overlaps", with_pools("10.9.0.128/25")),
    "pool around another": ("overlaps", with_pools("10.0.0.0/8")),
    "pool twice": ("overlaps", {**network(OTHER, 8), "IPv4Data": network(OTHER, 8)["IPv4Data"] * 2}),
    "pool no pool": ("nowhere", with_pools("nowhere")),
    "pool with host bits": ("host bits", with_pools("10.8.0.1/24")),
    "pool, 200 characters": ("is not", with_pools(LONG)),
    "pool missing": ("Pool", {**network(OTHER), "IPv4Data": [{}]}),
    "pool of the other family": ("IPv4", with_pools("fd00::/64")),
    "gateway outside": ("10.6.0.1", with_pools("10.8.0.0/24", "10.6.0.1/24")),
    "gateway no address": ("gateway", with_pools("10.8.0.0/24", "nowhere")),
    "gateway without length": ("gateway", with_pools("10.8.0.0/24", "10.8.0.1")),
    "no id": ("NetworkID", {**network(), "NetworkID": ""}),
    "id of 200 characters": ("NetworkID", network(LONG, 8)),
    "id with a slash": ("NetworkID", network("../" * 10, 8)),
    "id whose link name is taken": ("belongs to", network("9f" * 6 + "0" * 52, 8)),
    "same id, other pool": ("exists already", network(NETWORK, 8)),
    "same id, other option": ("exists already", network(NETWORK, dual=True, mtu="1400")),
    "options no object": ("Options", {**network(OTHER, 8), "Options": []}),
}
ENDPOINTS: Cases = {
    "network unknown": ("not known", endpoint(7, UNKNOWN)),
    "address outside its pool": ("outside", with_interface(Address="10.8.0.2/24")),
    "address of the other family": ("IPv4", with_interface(Address="fd00:9::7/64")),
    "address without length": ("prefix length", with_interface(Address="10.9.0.7")),
    "address no address": ("nowhere", with_interface(Address="nowhere")),
    "address of 200 characters": ("is not", with_interface(Address=LONG)),
    "address of the gateway": ("gateway", with_interface(Address="10.9.0.1/24")),
    "address in use": ("in use", with_interface(Address="10.9.0.3/24")),
    "IPv6 address in use": ("in use", with_interface(Address="10.9.0.7/24", AddressIPv6="fd00:9::3/64")),
    "MAC no MAC": ("MAC", with_interface(Address="10.9.0.7/24", MacAddress="nonsense")),
    "MAC of many": ("MAC", with_interface(Address="10.9.0.7/24", MacAddress="01:00:5e:00:00:01")),
    "MAC of zeros": ("MAC", with_interface(Address="10.9.0.7/24", MacAddress="00:00:00:00:00:00")),
    "interface no object": ("Interface", {**endpoint(7), "Interface": [1]}),
    "unknown option": ("color", {**endpoint(7), "Options": {"color": "blue"}}),
    "name of the interface too long": (
        "ifname",
        {**endpoint(7), "Options": {"com.docker.network.endpoint.ifname": LONG}},
    ),
    "id of 200 characters": ("EndpointID", {**endpoint(7), "EndpointID": LONG}),
    "same id, other address": ("exists already", {**endpoint(2), "Interface": {"Address": "10.9.0.77/24"}}),
    "id whose link name is taken": (
        "link",
        {**endpoint(7, dual=True), "EndpointID": endpoint_id(2)[:12] + "f" * 52},
    ),
}
CALLS: Cases = {
    "Join unknown endpoint": ("not known", ("Join", join(7))),
    "Join on another network": ("not known", ("Join", join(2, UNKNOWN))),
    "Join another sandbox": ("another sandbox", ("Join", {**join(2), "SandboxKey": "/elsewhere"})),
    "Join without a sandbox": ("SandboxKey", ("Join", ids(2))),
    "Join a sandbox of 2,000 characters": ("SandboxKey", ("Join", {**join(3), "SandboxKey": LONG * 10})),
    "Program unknown endpoint": ("not known", (PROGRAM, program(7, port(8081)))),
    "Program on another network": ("not known", (PROGRAM, program(2, port(8081), network_id=UNKNOWN))),
    "Program port 65536": ("HostPort", (PROGRAM, program(3, port(65536)))),
    "Program port -1": ("HostPort", (PROGRAM, program(3, port(-1)))),
    "Program container port 0": ("Port", (PROGRAM, program(3, port(8081, 0)))),
    "Program ICMP": ("protocol number 1", (PROGRAM, program(3, port(8081, 80, 1)))),
    "Program a range backwards": ("9001-9000", (PROGRAM, program(3, port(9001, end=9000)))),
    "Program a taken port": ("8080/tcp is taken", (PROGRAM, program(3, port(8081), port(8080)))),
    "Program a taken range": ("no free tcp host port", (PROGRAM, program(3, port(8081), port(8079, end=8080)))),
    "Program one port for two": ("taken", (PROGRAM, program(3, port(8081, 80), port(8081, 81)))),
    "Program an address that is not here": ("192.0.2.1", (PROGRAM, program(3, port(8081, address="192.0.2.1")))),
    "Program an address that is none": ("nowhere", (PROGRAM, program(3, port(8081, address="nowhere")))),
    "Program no list": ("portmap", (PROGRAM, {**program(3), "Options": {"com.docker.network.portmap": {}}})),
    "Allocate for a swarm": ("one host", ("AllocateNetwork", {"NetworkID": OTHER, "Options": {}, "IPv4Data": []})),
    "Delete without an id": ("NetworkID", ("DeleteNetwork", {})),
    "Delete endpoint without an id": ("EndpointID", ("DeleteEndpoint", {"NetworkID": NETWORK})),
    "Leave, 200 characters": ("EndpointID", ("Leave", {"NetworkID": NETWORK, "EndpointID": LONG})),
    "Revoke a number": ("EndpointID", (REVOKE, {"NetworkID": NETWORK, "EndpointID": 7})),
}
POOLS: Cases = {
    "held": ("overlaps", ("RequestPool", pool("10.7.0.0/24"))),
    "held, by another range": ("overlaps", ("RequestPool", pool("10.7.0.0/24", "10.7.0.0/25"))),
    "inside a held one": ("overlaps", ("RequestPool", pool("10.7.0.128/25"))),
    "around a held one": ("overlaps", ("RequestPool", pool("10.0.0.0/8"))),
    "no pool": ("nowhere", ("RequestPool", pool("nowhere"))),
    "200 characters": ("is not", ("RequestPool", pool(LONG))),
    "300 characters": ("Pool", ("RequestPool", pool("1" * 300))),
    "host bits": ("did you mean", ("RequestPool", pool("10.8.0.1/24"))),
    "the other family": ("IPv6", ("RequestPool", pool("10.8.0.0/24", v6=True))),
    "range outside": ("10.6.0.0/24", ("RequestPool", pool("10.8.0.0/24", "10.6.0.0/24"))),
    "range without a pool": ("--subnet", ("RequestPool", pool("", "10.6.0.0/24"))),
    "unknown space": ("elsewhere", ("RequestPool", pool("10.8.0.0/24", space="elsewhere"))),
    "unknown option": ("nonsense", ("RequestPool", pool("10.8.0.0/24", nonsense="1"))),
    "wrong type": ("V6", ("RequestPool", pool("10.8.0.0/24", v6="yes"))),
    "address outside": ("outside", ("RequestAddress", address("10.8.0.1"))),
    "address held": ("in use", ("RequestAddress", address("10.7.0.9"))),
    "address of the network": ("network or broadcast", ("RequestAddress", address("10.7.0.0"))),
    "address of broadcast": ("network or broadcast", ("RequestAddress", address("10.7.0.255"))),
    "address no address": ("nowhere", ("RequestAddress", address("nowhere"))),
    "address with a length": ("is not an IP address", ("RequestAddress", address("10.7.0.7/24"))),
    "address in an unknown pool": ("not known", ("RequestAddress", address("", "pynet-local/10.6.0.0/24"))),
    "pool id of 200 characters": ("not known", ("RequestAddress", address("", LONG))),
    "release no address": ("nowhere", ("ReleaseAddress", address("nowhere"))),
}
#: Calls whose aim is reached before they start.
HARMLESS = [
    ("NetworkDriver.DeleteNetwork", {"NetworkID": UNKNOWN}),
    ("NetworkDriver.DeleteEndpoint", ids(7)),
    ("NetworkDriver.DeleteEndpoint", ids(7, UNKNOWN)),
    ("NetworkDriver.Leave", ids(7)),
    ("NetworkDriver." + REVOKE, ids(7)),
    ("NetworkDriver." + REVOKE, ids(3)),
    ("NetworkDriver.EndpointOperInfo", ids(7)),
    ("NetworkDriver.FreeNetwork", {"NetworkID": UNKNOWN}),
    ("NetworkDriver.DiscoverNew", {"DiscoveryType": 1, "DiscoveryData": {}}),
    ("NetworkDriver.DiscoverDelete", {"DiscoveryType": 1, "DiscoveryData": {}}),
    ("NetworkDriver.GwAllocCheck", {"Options": {}}),
    ("NetworkDriver.CreateNetwork", network(dual=True)),
    ("NetworkDriver.CreateEndpoint", endpoint(2, dual=True)),
    ("NetworkDriver.Join", join(2)),
    ("NetworkDriver." + PROGRAM, program(2, port(8079, 79), port(8080))),
    ("NetworkDriver." + PROGRAM, program(3)),
    ("IpamDriver.ReleasePool", {"PoolID": "pynet-local/10.6.0.0/24"}),
    ("IpamDriver.ReleasePool", {"PoolID": LONG}),
    ("IpamDriver.ReleaseAddress", {"PoolID": POOL, "Address": "10.7.0.77"}),
    ("IpamDriver.ReleaseAddress", {"PoolID": POOL, "Address": "10.8.0.77"}),
    ("IpamDriver.ReleaseAddress", {"PoolID": LONG, "Address": "10.7.0.77"}),
]


def check(host: Host, calls: list[tuple[str, str, str, Any]]) -> None:
    """Make bad calls; all that went wrong is said at once."""
    before, failures = host.state(), []
    for case, said, method, body in calls:
        status, answer = host.call(method, body)
        try:
            assert_refusal(status, answer)
            assert said in answer["Err"], answer["Err"]
            assert host.state() == before, "something changed"
        except AssertionError as failure:
            failures.append(f"{case}: {str(failure).splitlines()[0]}")
            before = host.state()
    assert not failures, "\n\n".join(failures)


def test_networks_that_cannot_be_are_refused(busy: Host) -> None:
    """A bad CreateNetwork says what is wrong and leaves nothing behind."""
    check(busy, [(case, said, "CreateNetwork", body) for case, (said, body) in NETWORKS.items()])


def test_endpoints_that_cannot_be_are_refused(busy: Host) -> None:
    """A bad CreateEndpoint says what is wrong and leaves nothing behind."""
    check(busy, [(case, said, "CreateEndpoint", body) for case, (said, body) in ENDPOINTS.items()])


def test_calls_that_cannot_be_are_refused(busy: Host) -> None:
    """Other bad calls to the network driver say what is wrong and change nothing."""
    check(busy, [(case, said, method, body) for case, (said, (method, body)) in CALLS.items()])


def test_pools_and_addresses_that_cannot_be_are_refused(busy: Host) -> None:
    """Bad calls to the IPAM driver say what is wrong and change nothing."""
    check(busy, [(case, said, f"IpamDriver.{method}", body) for case, (said, (method, body)) in POOLS.items()])


def test_bodies_of_the_wrong_form_are_refused(busy: Host) -> None:
    """What is not JSON, or not an object, is refused by every method that has arguments."""
    before = busy.state()
    for method in WITH_ARGUMENTS:
        for body in (b"nonsense", b"{", b"[]", b"null", b'"x"', b"\xff\xff", b"[" * 50_000):
            status, answer = busy.raw(method, body)
            assert status == 400, (method, body[:20], answer)
            assert_refusal(status, answer)
    assert busy.state() == before


def test_members_of_the_wrong_type_are_refused(busy: Host) -> None:
    """A member of the wrong type is refused by every method that reads it."""
    before = busy.state()
    for method in WITH_ARGUMENTS:
        if method.endswith(("GwAllocCheck", "DiscoverNew", "DiscoverDelete")):
            continue
        wrongs: tuple[Any, ...] = (3, None, [], {}, True, LONG * 10)
        for wrong in wrongs:
            body: Any = dict.fromkeys(MEMBERS, wrong)
            status, answer = busy.raw(method, json.dumps(body).encode())
            assert status == 400, (method, body, answer)
            assert_refusal(status, answer)
    assert busy.state() == before


def test_calls_whose_aim_is_reached_succeed(busy: Host) -> None:
    """Deletes of what is unknown and repeated calls succeed, and change nothing."""
    before = busy.state()
    for method, body in HARMLESS:
        busy.ok(method, body)
        assert busy.state() == before, (method, body)


def test_calls_in_an_odd_order_change_nothing_they_should_not(host: Host) -> None:
    """Calls that come too early or too late are refused or harmless."""
    before = host.state()
    for method, body in (("Join", join()), (PROGRAM, program(2, port(8080))), ("CreateEndpoint", endpoint())):
        host.refused(method, body)
    for method in ("Leave", REVOKE, "DeleteEndpoint"):
        host.ok(method, ids())
    assert host.state() == before
    host.ok("CreateNetwork", network())
    host.refused("Join", join())
    host.ok("CreateEndpoint", endpoint())
    ready = host.state()
    host.ok("Leave", ids())
    host.ok(REVOKE, ids())
    host.refused(PROGRAM, program(2, port(8080)))
    assert host.state() == ready
    host.ok("Join", join())
    host.ok(PROGRAM, program(2, port(8080)))
    host.ok("Leave", ids())
    assert host.state() == ready
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.state() == before
    for method, body in (("Join", join()), (PROGRAM, program(2, port(8080))), ("CreateEndpoint", endpoint())):
        host.refused(method, body)
    host.ok("DeleteEndpoint", ids())
    assert host.state() == before


def test_a_refused_connection_says_the_way_out(busy: Host) -> None:
    """The engine keeps what it was refused in the settings of a running container; other calls say nothing of that."""
    way_out = "stop the container and run docker network disconnect NETWORK CONTAINER"
    for method, body in (
        ("CreateEndpoint", {**endpoint(9, dual=True), "Options": {"color": "blue"}}),
        ("CreateEndpoint", endpoint(2, UNKNOWN)),
        ("Join", join(9)),
        (PROGRAM, program(3, port(8080))),
        ("IpamDriver.RequestAddress", {"PoolID": POOL, "Address": "10.7.0.9"}),
    ):
        assert busy.refused(method, body).count(way_out) == 1, method
    for method, body in (
        ("CreateNetwork", named("a/b")),
        ("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "Pool": "10.7.0.0/24", "V6": False}),
        ("DeleteEndpoint", {}),
    ):
        assert "docker network disconnect" not in busy.refused(method, body), method


def test_pool_is_released_twice(host: Host) -> None:
    """A pool goes with its addresses, and may go twice."""
    before = host.state()
    pools = [host.ok("IpamDriver.RequestPool", pool("")) for _ in range(3)]
    assert len({one["Pool"] for one in pools}) == 3
    for one in pools:
        host.ok("IpamDriver.RequestAddress", {"PoolID": one["PoolID"], "Address": ""})
    for one in pools * 2:
        host.ok("IpamDriver.ReleasePool", {"PoolID": one["PoolID"]})
    assert host.state() == before


@pytest.mark.parametrize("bad", ["\n", "\x1b[2J", "\x00", "\u202e", "\x85", "\u2028"])
def test_text_that_is_no_line_is_refused(busy: Host, bad: str) -> None:
    """Nothing of a caller's goes into answers, the log or the store that ends a line or controls a terminal."""
    text = f"pynet{bad}local"
    wrong: dict[str, Any] = {text: "1"}
    named: dict[str, Any] = {NAME: text}
    calls: list[tuple[str, Any]] = [
        ("IpamDriver.RequestPool", {"AddressSpace": text, "Pool": ""}),
        ("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "Pool": text}),
        ("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "Pool": "", "Options": {text: "1"}}),
        ("IpamDriver.RequestAddress", {"PoolID": text, "Address": ""}),
        ("IpamDriver.ReleasePool", {"PoolID": text}),
        ("CreateNetwork", network("7d" * 32, 7, **wrong)),
        ("CreateNetwork", network("7d" * 32, 7, **named)),
        ("CreateNetwork", network("7d" * 32, 7) | {"IPv4Data": [{"AddressSpace": text, "Pool": "10.7.0.0/24"}]}),
        ("Join", join(3) | {"SandboxKey": text}),
        ("Leave", ids(3) | {"EndpointID": text}),
        (PROGRAM, program(2, port(8099, address=text))),
    ]
    before = busy.state()
    for method, body in calls:
        assert bad not in busy.refused(method, body), (method, body)
    assert busy.state() == before and (bad == "\n" or bad not in busy.daemon.log)
