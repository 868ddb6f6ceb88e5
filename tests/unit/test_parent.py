"""What macvlan and ipvlan networks and endpoints come to, as text, and what is refused before anything is made."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver.backends import Lan, backend_named
from pynetdriver.docker import messages as wire
from pynetdriver.docker.requests import requested_options
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, PynetError
from pynetdriver.model import DhcpClient, DhcpLease, Endpoint, Facts, Link, Network, Subnet, decode, encode
from pynetdriver.plan import StaticRoute

LAN = Link(
    "lan0",
    "device",
    1500,
    "02:00:00:00:00:01",
    addresses=(IPNetwork("192.0.2.1/24"), IPNetwork("2001:db8::1/64"), IPNetwork("fe80::1/64")),
)
V4 = Subnet(IPNetwork("192.0.2.0/24"), IPAddress("192.0.2.2"), host=IPAddress("192.0.2.254"))
V6 = Subnet(IPNetwork("2001:db8::/64"), IPAddress("2001:db8::2"), host=IPAddress("2001:db8::fffe"))
VLAN = Link("lan0.50", "vlan", 1500, "02:00:00:00:00:01")
SHIM, VLAN_SHIM = "pns8306f8208e2d", "pnsffc731075b7a"


def a_network(backend: str = "macvlan", id: str = "9f" * 32, links: tuple[Link, ...] = (LAN,), **given: Any) -> Network:
    """Make a network; what is given is an option, or a member of the record."""
    members = {name: given.pop(name) for name in ("subnets", "internal") if name in given}
    facts = Facts(1500, "lan0", links)
    return Network(id=id, backend=backend, options=given, facts=facts, **{"subnets": (V4, V6), **members})


def an_endpoint(**changes: Any) -> Endpoint:
    settings: dict[str, Any] = {
        "mac": "02:42:c0:00:02:14",
        "mac_given": False,
        "address4": IPNetwork("192.0.2.20/24"),
        "address6": IPNetwork("2001:db8::20/64"),
    }
    return Endpoint(id="ab" * 32, network_id="9f" * 32, **(settings | changes))


def leased(**changes: Any) -> DhcpLease:
    settings: dict[str, Any] = {"address": IPNetwork("192.0.2.20/24"), "server": IPAddress("192.0.2.2")}
    return DhcpLease(server_mac="02:00:00:00:00:02", obtained=1.0, **(settings | changes))


def shim(name: str, kind: str) -> str:
    return f"""\
  link {name} type {kind} shared
  sysctl net.ipv4.conf.{name}.arp_filter = 1
  sysctl net.ipv6.conf.{name}.accept_ra = 0
  sysctl net.ipv6.conf.{name}.accept_dad = 0
  sysctl net.ipv6.conf.{name}.addr_gen_mode = 1
  sysctl net.ipv6.conf.{name}.disable_ipv6 = 0
  up {name}
  address 192.0.2.254/32 dev {name}
  address 2001:db8::fffe/128 dev {name}"""


def routes_by(name: str) -> str:
    return f"""\
  route 192.0.2.20 dev {name} src 192.0.2.254
  route 2001:db8::20 dev {name} src 2001:db8::fffe"""


def member(name: str) -> str:
    return f"  member 02:42:c0:00:02:14 on {name}"


def entrances(**admitted: str) -> str:
    """Write entrances, each as its link, where _ stands for a dot, and whom it admits."""
    return "".join(f"\n  entrance {link.replace('_', '.')} for {who}" for link, who in admitted.items())


MADE_VLAN = """\
  parent lan0
  link lan0.50 type vlan on lan0 id 50 shared
  sysctl net.ipv6.conf.lan0.50.disable_ipv6 = 1
  up lan0.50"""
LINK = "  link pncabababababab type"
MAC = "address 02:42:c0:00:02:14"
SHIM_MAC, VLAN_SHIM_MAC = "address 02:5d:4a:24:30:e4", "address 02:33:31:89:ba:46"
#: A network, its plan and that of an endpoint, without their owners.
PLANS: dict[str, tuple[Network, str, str]] = {
    "macvlan": (a_network(), "  parent lan0", f"{LINK} macvlan on lan0 mode 4 {MAC} moves"),
    "macvlan with all": (
        a_network(host_access="true", promiscuous="true", mtu="1400"),
        f"  promiscuous lan0\n  parent lan0\n{shim(SHIM, f'macvlan on lan0 mode 4 {SHIM_MAC}')}"
        + entrances(**{SHIM: "members"}),
        f"{LINK} macvlan on lan0 mode 4 mtu 1400 {MAC} moves\n{routes_by(SHIM)}\n{member(SHIM)}",
    ),
    "macvlan private": (
        a_network(macvlan_mode="private"),
        "  parent lan0",
        f"{LINK} macvlan on lan0 mode 1 {MAC} moves",
    ),
    "macvlan vepa": (
        a_network(macvlan_mode="vepa", host_access="true"),
        f"  parent lan0\n{shim(SHIM, f'macvlan on lan0 mode 4 {SHIM_MAC}')}" + entrances(**{SHIM: "members"}),
        f"{LINK} macvlan on lan0 mode 2 {MAC} moves\n{routes_by(SHIM)}\n{member(SHIM)}",
    ),
    "macvlan passthru": (
        a_network(macvlan_mode="passthru"),
        "  parent lan0",
        f"{LINK} macvlan on lan0 mode 8 moves",
    ),
    "macvlan on a VLAN that is to be made": (
        a_network(parent="lan0.50", host_access="true"),
        f"{MADE_VLAN}\n{shim(VLAN_SHIM, f'macvlan on lan0.50 mode 4 {VLAN_SHIM_MAC}')}"
        + entrances(lan0_50="link", **{VLAN_SHIM: "members"}),
        f"{LINK} macvlan on lan0.50 mode 4 {MAC} moves\n{routes_by(VLAN_SHIM)}\n{member(VLAN_SHIM)}",
    ),
    "macvlan on a VLAN that pynet made": (
        a_network(parent="lan0.50", links=(replace(VLAN, ours=True), LAN)),
        MADE_VLAN + entrances(lan0_50="link"),
        f"{LINK} macvlan on lan0.50 mode 4 {MAC} moves",
    ),
    "macvlan on a VLAN that was there": (
        a_network(parent="lan0.50", links=(VLAN, LAN)),
        "  parent lan0.50",
        f"{LINK} macvlan on lan0.50 mode 4 {MAC} moves",
    ),
    "macvlan by itself": (
        a_network(internal=True),
        "  link pn-9f9f9f9f9f9f type dummy mtu 1500 address 02:18:28:54:d3:f7",
        f"{LINK} macvlan on pn-9f9f9f9f9f9f mode 4 {MAC} moves",
    ),
    "ipvlan": (
        a_network("ipvlan", host_access="true"),
        f"  sysctl net.ipv4.conf.lan0.rp_filter = 2\n  parent lan0\n{shim(SHIM, 'ipvlan on lan0 mode 0 flags 0')}"
        + entrances(**{SHIM: "link"}),
        f"{LINK} ipvlan on lan0 mode 0 flags 0 moves\n{routes_by(SHIM)}",
    ),
    "ipvlan l3": (
        a_network("ipvlan", ipvlan_mode="l3", host_access="true"),
        f"  parent lan0\n{shim(SHIM, 'ipvlan on lan0 mode 1 flags 0')}" + entrances(**{SHIM: "link"}),
        f"{LINK} ipvlan on lan0 mode 1 flags 0 moves\n{routes_by(SHIM)}",
    ),
    "ipvlan l3s vepa": (
        a_network("ipvlan", ipvlan_mode="l3s", ipvlan_flag="vepa", parent="lan0.50"),
        MADE_VLAN + entrances(lan0_50="shims"),
        f"{LINK} ipvlan on lan0.50 mode 2 flags 2 moves",
    ),
    "ipvlan private by itself": (
        a_network("ipvlan", ipvlan_flag="private", internal=True, mtu="9000"),
        "  link pn-9f9f9f9f9f9f type dummy mtu 9000 address 02:18:28:54:d3:f7",
        f"{LINK} ipvlan on pn-9f9f9f9f9f9f mode 0 flags 1 mtu 9000 moves",
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_plans_are_what_they_were(case: str) -> None:
    """The same records come to the same plans, word for word, also after the store."""
    network, of_network, of_endpoint = PLANS[case]
    backend = backend_named(network.backend)
    assert str(backend.network_plan(network)).partition("\n")[2] == of_network
    endpoint = backend.admitted(network, an_endpoint())
    assert str(backend.endpoint_plan(network, endpoint)).partition("\n")[2] == of_endpoint
    again = decode(encode(network), Network)
    assert backend.network_plan(again) == backend.network_plan(network)


@pytest.mark.parametrize("case", PLANS)
def test_a_parent_that_takes_no_links_is_found_when_the_network_is_made(case: str) -> None:
    """By a link that is tried, unless the plan makes one on the parent anyhow."""
    plan = backend_named(PLANS[case][0].backend).network_plan(PLANS[case][0])
    assert (plan.trial is not None) == (not plan.links)


@pytest.mark.parametrize(
    ("options", "lease", "mtu"),
    [({}, 1400, "mtu 1400"), ({}, 9000, "mtu 1500"), ({"mtu": "1300"}, 1400, "mtu 1300"), ({}, None, "moves")],
)
def test_the_mtu_of_a_lease_holds_as_far_as_the_parent_goes(options: Any, lease: int | None, mtu: str) -> None:
    """The user's own goes before it."""
    plan = backend_named("macvlan").endpoint_plan(
        a_network(subnets=(), dhcp="true", **options), an_endpoint(lease=leased(mtu=lease), address6=None)
    )
    assert mtu in str(plan) and ("mtu" in str(plan)) == (mtu != "moves")


def test_a_leased_address_is_led_to_the_shim_from_the_hosts_own() -> None:
    """There is no pool from which the shim could have one."""
    network = a_network(subnets=(), dhcp="true", host_access="true")
    endpoint = an_endpoint(lease=leased(), address6=None)
    assert "address" not in str(backend_named("macvlan").network_plan(network)).replace(f"mode 4 {SHIM_MAC}", "")
    assert str(backend_named("macvlan").endpoint_plan(network, endpoint)).splitlines()[2:] == [
        f"  route 192.0.2.20 dev {SHIM} src 192.0.2.1",
        member(SHIM),
    ]


def test_join_leads_to_the_router_and_to_the_hosts_addresses() -> None:
    """The host's own link answers for its IPv4 addresses in the subnet; to others, and for IPv6, a route leads."""
    further = replace(LAN, addresses=(*LAN.addresses, IPNetwork("198.51.100.1/24")))
    network = a_network(links=(further,), host_access="true")
    found = backend_named("macvlan").attachment(network, an_endpoint())
    assert (found.link, found.gateway4, found.gateway6) == ("pncabababababab", V4.gateway, V6.gateway)
    assert found.routes == (
        StaticRoute(IPNetwork("198.51.100.1/32"), IPAddress("192.0.2.254")),
        StaticRoute(IPNetwork("2001:db8::1/128"), IPAddress("2001:db8::fffe")),
    )
    assert backend_named("macvlan").attachment(a_network(), an_endpoint()).routes == ()


def test_join_hands_over_what_the_server_gave() -> None:
    """Its gateway and classless routes, those on the link included."""
    routes = ((IPNetwork("10.0.0.0/8"), IPAddress("192.0.2.7")), (IPNetwork("10.1.0.0/16"), IPAddress("0.0.0.0")))
    lease = leased(gateway=IPAddress("192.0.2.9"), routes=routes)
    for name in ("macvlan", "ipvlan"):
        network = a_network(name, subnets=(), dhcp="true")
        found = backend_named(name).attachment(network, an_endpoint(lease=lease, address6=None))
        assert (found.gateway4, found.gateway6) == (IPAddress("192.0.2.9"), None)
        assert found.routes == (
            StaticRoute(IPNetwork("10.0.0.0/8"), IPAddress("192.0.2.7")),
            StaticRoute(IPNetwork("10.1.0.0/16")),
        )


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_l3_has_the_link_for_its_way_out_and_no_neighbours(mode: str) -> None:
    """No gateway is asked for or answered, nobody is asked for addresses; internal networks have no way out."""
    backend, network = backend_named("ipvlan"), a_network("ipvlan", ipvlan_mode=mode)
    found = backend.attachment(network, an_endpoint())
    assert (found.gateway4, found.gateway6, backend.lan(network)) == (None, None, None)
    assert found.routes == (StaticRoute(IPNetwork("0.0.0.0/0")), StaticRoute(IPNetwork("::/0")))
    assert backend.skipped_gateways({"ipvlan_mode": mode}, False) == {4, 6}
    assert not backend.attachment(a_network("ipvlan", ipvlan_mode=mode, internal=True), an_endpoint()).routes


@pytest.mark.parametrize("name", ["macvlan", "ipvlan"])
def test_the_lan_is_asked_unless_there_is_none(name: str) -> None:
    """The parent's LAN; not that of a network by itself, and not against the user's will."""
    backend = backend_named(name)
    assert backend.lan(a_network(name)) == Lan("lan0") and backend.lan(a_network(name, parent="lan0.50")) == Lan(
        "lan0.50"
    )
    assert backend.lan(a_network(name, conflict_check="false")) == Lan("lan0", asked=False)
    assert backend.lan(a_network(name, internal=True)) is None
    assert not backend.skipped_gateways({}, False) and backend.skipped_gateways({}, True) == {4, 6}


def test_clients_are_told_apart_by_mac_or_by_client_id() -> None:
    """macvlan: the container's MAC; ipvlan: the parent's, and a client id of its own."""
    endpoint = an_endpoint(address4=None, address6=None)
    macvlan = backend_named("macvlan").dhcp_client(a_network(subnets=(), dhcp="true"), endpoint)
    assert macvlan == DhcpClient("lan0", endpoint.mac, bytes.fromhex("010242c0000214"), "pynet-0242c0000214")
    network = a_network("ipvlan", subnets=(), dhcp="true")
    admitted = backend_named("ipvlan").admitted(network, endpoint)
    ipvlan = backend_named("ipvlan").dhcp_client(network, admitted)
    assert ipvlan == DhcpClient("lan0", LAN.mac, b"\0" + b"\xab" * 12, "pynet-abababababab")
    assert backend_named("macvlan").dhcp_client(a_network(), endpoint) is None


OTHER = "8e" * 32
V4_ELSEWHERE = (Subnet(IPNetwork("198.51.100.0/24")),)


def other(backend: str = "macvlan", **given: Any) -> Network:
    return a_network(backend, OTHER, **{"subnets": V4_ELSEWHERE, **given})


@pytest.mark.parametrize(
    ("network", "there", "said"),
    [
        (other(), a_network("ipvlan"), "carries ipvlan network 9f9f9f9f9f9f.* one kind.*parent=lan0.50"),
        (other("ipvlan", ipvlan_mode="l3"), a_network("ipvlan"), "is in ipvlan_mode=l2 with ipvlan_flag=bridge"),
        (other("ipvlan", ipvlan_flag="vepa"), a_network("ipvlan"), "has one of each for a parent; use the same"),
        (other(macvlan_mode="passthru"), a_network(), "carries network 9f9f9f9f9f9f.*passthru shares it with no"),
        (other(), a_network(macvlan_mode="passthru"), "passthru shares it with no other"),
        (other(subnets=(Subnet(IPNetwork("192.0.2.128/25")),)), a_network(), "overlaps 192.0.2.0/24 of network 9f9f"),
        (other("ipvlan", host_access="true", ipvlan_flag="private"), None, "contradicts ipvlan_flag=private"),
        (other(host_access="true", macvlan_mode="private"), None, "contradicts macvlan_mode=private"),
        (other("ipvlan", subnets=(), dhcp="true", ipvlan_mode="l3s"), None, "contradicts ipvlan_mode=l3s"),
        (
            other("ipvlan", links=(replace(LAN, up=False),), parent="lan0.50"),
            None,
            '"lan0" under "lan0.50" is down.*ip link set lan0 up',
        ),
        (other("ipvlan", links=(replace(LAN, master="bond0"),)), None, 'a port of "bond0".*parent=bond0'),
        (other("ipvlan", links=(replace(LAN, ours=True, kind="bridge"),)), None, "link of pynet's own"),
        (other("ipvlan", links=()), None, '"lan0" is not on this host.*choose one of eth0'),
        (other("ipvlan", mtu="1501"), None, "has MTU 1500.*cannot be 1501"),
    ],
)
def test_network_is_refused_when_it_clashes(network: Network, there: Network | None, said: str) -> None:
    """What the kernel or common sense refuses is refused before anything is made, and nothing else is."""
    networks = {there.id: there} if there else {}
    with pytest.raises(PynetError, match=said):
        backend_named(network.backend).check(network, networks, [("eth0", IPNetwork("10.0.0.1/8")), ("lo", V4.pool)])


@pytest.mark.parametrize(
    ("network", "there"),
    [
        (other(macvlan_mode="vepa"), a_network()),
        (other(macvlan_mode="passthru", parent="lan0.60"), a_network()),
        (other("ipvlan"), a_network("ipvlan")),
        (other("ipvlan", ipvlan_mode="l3", parent="lan0.60"), a_network("ipvlan")),
        (other("ipvlan", parent="lan0.60"), a_network()),
        (other(subnets=(V4,), parent="lan0.60"), a_network()),
        (other(subnets=(V4,)), a_network("bridge")),
    ],
)
def test_networks_share_a_parent_wherever_the_kernel_lets_them(network: Network, there: Network) -> None:
    """Modes of macvlan mix, and another VLAN is another parent."""
    backend_named(network.backend).check(network, {there.id: there}, [])


def test_ipvlan_has_no_macs_of_its_own() -> None:
    """A user's is refused with the reason; the engine is told none."""
    backend, network = backend_named("ipvlan"), a_network("ipvlan")
    with pytest.raises(InvalidRequest, match=r"share their parent's MAC.*or use macvlan"):
        backend.admitted(network, an_endpoint(mac_given=True))
    admitted = backend.admitted(network, an_endpoint())
    assert (admitted.mac, admitted.mac_given) == (LAN.mac, True)


@pytest.mark.parametrize("address", ["192.0.2.1/24", "192.0.2.254/24", "2001:db8::1/64", "2001:db8::fffe/64"])
def test_addresses_of_the_host_are_refused(address: str) -> None:
    """Those of the parent, and those of the host's own link on it."""
    member = {"address6" if ":" in address else "address4": IPNetwork(address)}
    for name in ("macvlan", "ipvlan"):
        with pytest.raises(Conflict, match="this host's own"):
            backend_named(name).admitted(a_network(name, host_access="true"), an_endpoint(**member))


def options_of(given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    return requested_options(wire.NetworkOptions(generic=dict(given)))


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        ({}, "bridge"),
        ({"backend": "bridge"}, "bridge"),
        ({"macvlan_mode": "vepa"}, "macvlan"),
        ({"ipvlan_mode": "l3"}, "ipvlan"),
        ({"ipvlan_flag": "private", "parent": "lan0"}, "ipvlan"),
        ({"backend": "macvlan", "macvlan_mode": "bridge", "parent": "lan0"}, "macvlan"),
    ],
)
def test_the_backend_is_named_or_implied(given: dict[str, str], backend: str) -> None:
    """By the options that only it has and that say what kind of link is meant."""
    assert options_of(given)[0] == backend and "backend" not in options_of(given)[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"macvlan_mode": "bridge", "ipvlan_mode": "l2"}, "ipvlan_mode .* and macvlan_mode .* contradict each other"),
        ({"backend": "bridge", "ipvlan_flag": "vepa"}, "backend=bridge and ipvlan_flag .backend ipvlan. contradict"),
        ({"parent": "lan0"}, '"parent" needs a backend: add -o backend=ipvlan or -o backend=macvlan'),
        ({"host_access": "true"}, '"host_access" needs a backend'),
        ({"promiscuous": "true"}, "belongs to backend macvlan, not to bridge"),
        ({"ipvlan_mode": "l2", "promiscuous": "true"}, "belongs to backend macvlan, not to ipvlan"),
        ({"backend": "macvlan", "com.docker.network.bridge.name": "br0"}, "belongs to backend bridge, not to macvlan"),
        ({"backend": "vxlan"}, '"backend" cannot be "vxlan"; allowed: bridge, ipvlan, macvlan'),
        ({"macvlan_mode": "l2"}, "allowed: bridge, private, vepa, passthru"),
        ({"ipvlan_mode": "bridge"}, "allowed: l2, l3, l3s"),
        ({"ipvlan_flag": "passthru"}, "allowed: bridge, private, vepa"),
        ({"macvlan_mod": "bridge"}, 'unknown network option "macvlan_mod"'),
        ({"macvlan_mode": "bridge", "host_access": "10.0.0.1/24"}, "true, false or an address"),
        ({"macvlan_mode": "bridge", "parent": "a" * 16}, "1 to 15"),
        ({"macvlan_mode": "bridge", "promiscuous": "perhaps"}, "true, false"),
    ],
)
def test_options_of_the_wrong_backend_are_refused(given: dict[str, str], said: str) -> None:
    """Naming the option, and where it belongs."""
    with pytest.raises(InvalidOption, match=said):
        options_of(given)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("false", {}), ("true", {4: None, 6: None}), ("192.0.2.77", {4: "192.0.2.77", 6: None}), ("0", {})],
)
def test_host_access_is_a_truth_or_an_address(value: str, wanted: dict[int, str | None]) -> None:
    """The other family has an address of the pool then."""
    network = a_network(host_access=value, subnets=(replace(V4, host=None), replace(V6, host=None)))
    found = backend_named("macvlan").host_addresses(network)
    assert {pool.version: str(one) if one else None for pool, one in found.items()} == wanted


@pytest.mark.parametrize("value", ["10.0.0.1", "192.0.2.0", "192.0.2.255", "192.0.2.2", "2001:db8::2"])
def test_host_access_is_refused_when_the_address_is_not_free(value: str) -> None:
    """Outside, the network's or broadcast address, or the gateway."""
    for name in ("macvlan", "ipvlan"):
        with pytest.raises(InvalidOption, match=f"host_access={value} is no free address"):
            backend_named(name).host_addresses(a_network(name, host_access=value))


@pytest.mark.parametrize("host", ["10.0.0.1", "192.0.2.0", "192.0.2.255", "192.0.2.2"])
def test_the_auxiliary_address_of_the_host_is_checked_as_well(host: str) -> None:
    """Only a free host address of its own subnet does."""
    network = a_network(host_access="true", subnets=(replace(V4, host=IPAddress(host)),))
    with pytest.raises(InvalidOption, match=f"--aux-address host={host} is no free address"):
        backend_named("macvlan").host_addresses(network)


@pytest.mark.parametrize("value", ["0.0.0.0", "::"])
def test_no_address_is_no_host_access(value: str) -> None:
    """Neither yes, nor no, nor an address."""
    with pytest.raises(InvalidOption, match="true, false or an address"):
        backend_named("macvlan").host_addresses(a_network(host_access=value))
