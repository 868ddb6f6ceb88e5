"""What networks and endpoints come to, as text."""

from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.backends import backend_named
from pynetdriver.errors import PynetError
from pynetdriver.model import Endpoint, Facts, Link, Network, PortMapping, Subnet, decode, encode
from pynetdriver.plan import Relaying

BRIDGE = backend_named("bridge")
V4 = Subnet(IPNetwork("10.9.0.0/24"), IPAddress("10.9.0.1"))
V6 = Subnet(IPNetwork("fd00:9::/64"), IPAddress("fd00:9::1"))
ANY4, ANY6 = IPAddress("0.0.0.0"), IPAddress("::")


def a_network(id: str = "9f" * 32, **changes: Any) -> Network:
    settings: dict[str, Any] = {"backend": "bridge", "options": {}, "subnets": (V4,), **changes}
    return Network(id=id, **settings)


def an_endpoint(**changes: Any) -> Endpoint:
    settings: dict[str, Any] = {"mac": "02:42:0a:09:00:02", "mac_given": False, "address4": IPNetwork("10.9.0.2/24")}
    return Endpoint(id="ab" * 32, network_id="9f" * 32, **(settings | changes))


BRIDGE_OPTION = "com.docker.network.bridge"
MAC = "02:18:28:54:d3:f7"
PLANS = {
    "plain": (
        a_network(),
        f"""\
network:{"9f" * 32}
  forwarding ipv4
  link pn-9f9f9f9f9f9f type bridge mtu 1500 address MAC
  sysctl net.ipv4.conf.pn-9f9f9f9f9f9f.route_localnet = 1
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.disable_ipv6 = 1
  address 10.9.0.1/24 dev pn-9f9f9f9f9f9f
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 anti-spoof (ipv4 in published out as link)""",
    ),
    "dual stack": (
        a_network(subnets=(V4, V6), facts=Facts(9000)),
        f"""\
network:{"9f" * 32}
  forwarding ipv4
  forwarding ipv6
  link pn-9f9f9f9f9f9f type bridge mtu 9000 address MAC
  sysctl net.ipv4.conf.pn-9f9f9f9f9f9f.route_localnet = 1
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.disable_ipv6 = 0
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.accept_ra = 0
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.accept_dad = 0
  address 10.9.0.1/24 dev pn-9f9f9f9f9f9f
  address fd00:9::1/64 dev pn-9f9f9f9f9f9f
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 fd00:9::/64 anti-spoof (ipv4 in published out as link) (ipv6 in published out as link)""",  # noqa: E501
    ),
    "internal": (
        a_network(internal=True),
        f"""\
network:{"9f" * 32}
  link pn-9f9f9f9f9f9f type bridge mtu 1500 address MAC
  sysctl net.ipv4.conf.pn-9f9f9f9f9f9f.route_localnet = 1
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.disable_ipv6 = 1
  address 10.9.0.1/24 dev pn-9f9f9f9f9f9f
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 internal anti-spoof""",
    ),
    "icc off, named, no masquerade": (
        a_network(
            options={
                "com.docker.network.bridge.enable_icc": "false",
                "com.docker.network.bridge.enable_ip_masquerade": "false",
                "com.docker.network.bridge.name": "web0",
                "mtu": "1400",
            }
        ),
        f"""\
network:{"9f" * 32}
  forwarding ipv4
  link web0 type bridge mtu 1400 address MAC
  sysctl net.ipv4.conf.web0.route_localnet = 1
  sysctl net.ipv6.conf.web0.disable_ipv6 = 1
  address 10.9.0.1/24 dev web0
  segment web0 10.9.0.0/24 isolated anti-spoof (ipv4 in published out as itself)""",
    ),
    "adopted, several modes": (
        a_network(
            subnets=(V4, V6),
            options={
                f"{BRIDGE_OPTION}.name": "br0",
                f"{BRIDGE_OPTION}.gateway_mode_ipv4": "nat-unprotected",
                f"{BRIDGE_OPTION}.gateway_mode_ipv6": "routed",
                f"{BRIDGE_OPTION}.trusted_host_interfaces": "lan0::wg0",
                "com.docker.network.host_ipv4": "192.0.2.1",
                "anti_spoof": "false",
            },
            facts=Facts(links=(Link("br0", "bridge", 1450, addresses=(IPNetwork("fd00:9::1/64"),)),)),
        ),
        f"""\
network:{"9f" * 32}
  forwarding ipv4
  forwarding ipv6
  sysctl net.ipv4.conf.br0.route_localnet = 1
  sysctl net.ipv6.conf.br0.disable_ipv6 = 0
  sysctl net.ipv4.conf.br0.promote_secondaries = 1
  adopt br0 mtu 1450 up
  address 10.9.0.1/24 dev br0
  segment br0 10.9.0.0/24 fd00:9::/64 shared (ipv4 in all out as 192.0.2.1) (ipv6 in open out as itself) trusted lan0 trusted wg0""",  # noqa: E501
    ),
    "no address on the bridge": (
        a_network(subnets=(V4,), options={f"{BRIDGE_OPTION}.inhibit_ipv4": "true"}),
        f"""\
network:{"9f" * 32}
  forwarding ipv4
  link pn-9f9f9f9f9f9f type bridge mtu 1500 address MAC
  sysctl net.ipv4.conf.pn-9f9f9f9f9f9f.route_localnet = 1
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.disable_ipv6 = 1
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 anti-spoof (ipv4 in published out as link)""",
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_network_plan_is_what_it_was(case: str) -> None:
    """The same network comes to the same plan, word for word."""
    network, text = PLANS[case]
    assert str(BRIDGE.network_plan(network)) == text.replace("MAC", MAC)


def test_endpoint_plan_is_a_pair_on_the_bridge() -> None:
    """An endpoint is a pair whose host end is a port of its network's bridge."""
    assert str(BRIDGE.endpoint_plan(a_network(), an_endpoint())) == (
        f"endpoint:{'ab' * 32}\n  link pnhabababababab type veth mtu 1500 master pn-9f9f9f9f9f9f peer pncabababababab"
    )


def test_endpoint_plan_is_isolated_when_containers_do_not_talk() -> None:
    """`enable_icc=false` keeps the ports of the bridge apart."""
    network = PLANS["icc off, named, no masquerade"][0]
    assert "type veth mtu 1400 master web0 isolated peer" in str(BRIDGE.endpoint_plan(network, an_endpoint()))


def test_endpoint_plan_names_published_ports() -> None:
    """Published ports lead to the container's address of the same family."""
    ports = (
        PortMapping("tcp", ANY4, 8080, 80),
        PortMapping("tcp", ANY6, 8080, 80),
        PortMapping("udp", IPAddress("127.0.0.1"), 53, 53),
    )
    endpoint = an_endpoint(ports=ports, address6=IPNetwork("fd00:9::2/64"))
    assert str(BRIDGE.endpoint_plan(a_network(subnets=(V4, V6)), endpoint)).splitlines()[2:] == [
        "  hairpin pnhabababababab",
        "  publish tcp 0.0.0.0:8080 -> 10.9.0.2:80",
        "  publish tcp [::]:8080 -> [fd00:9::2]:80",
        "  publish udp 127.0.0.1:53 -> 10.9.0.2:53",
    ]


def test_network_with_ipv6_has_at_least_its_minimum_mtu() -> None:
    """A small uplink does not take IPv6 from a network (RFC 8200)."""
    network = a_network(subnets=(V4, V6), facts=Facts(576))
    assert "mtu 1280 " in str(BRIDGE.network_plan(network))


def test_attachment_has_no_gateway_when_internal() -> None:
    """An internal network has no way out."""
    dual = a_network(subnets=(V4, V6))
    endpoint = an_endpoint(address6=IPNetwork("fd00:9::2/64"))
    attachment = BRIDGE.attachment(dual, endpoint)
    assert (attachment.gateway4, attachment.gateway6) == (V4.gateway, V6.gateway)
    attachment = BRIDGE.attachment(a_network(subnets=(V4, V6), internal=True), endpoint)
    assert (attachment.gateway4, attachment.gateway6) == (None, None)
    assert attachment.link == "pncabababababab"


def test_routed_ports_are_opened_at_the_container() -> None:
    """A port without a host port is open at the container's address; from trusted links so is a translated one."""
    ports = (PortMapping("tcp", ANY4, 0, 80), PortMapping("udp", ANY6, 5353, 53))
    endpoint = an_endpoint(ports=ports, address6=IPNetwork("fd00:9::2/64"))
    options = {f"{BRIDGE_OPTION}.gateway_mode_ipv4": "routed", f"{BRIDGE_OPTION}.trusted_host_interfaces": "lan0"}
    network = a_network(subnets=(V4, V6), options=options)
    assert str(BRIDGE.endpoint_plan(network, endpoint)).splitlines()[3:] == [
        "  publish udp [::]:5353 -> [fd00:9::2]:53",
        "  open tcp 10.9.0.2:80",
        "  open udp [fd00:9::2]:53",
    ]


def other(**changes: Any) -> Network:
    return a_network("8" * 64, **{"subnets": (), **changes})


def bridge_options(**given: str) -> dict[str, str]:
    return {f"{BRIDGE_OPTION}.{name}": value for name, value in given.items()}


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (other(subnets=(V4,)), "overlaps"),
        (other(subnets=(Subnet(IPNetwork("10.0.0.0/8")),)), "overlaps"),
        (other(options=bridge_options(name="pn-9f9f9f9f9f9f")), "belongs to"),
        (
            other(options=bridge_options(name="eth0"), facts=Facts(links=(Link("eth0", "device", 1500),))),
            "not a bridge",
        ),
        (
            other(options=bridge_options(name="b"), facts=Facts(links=(Link("b", "bridge", 1500, master="up"),))),
            'a port of "up"',
        ),
        (
            other(options=bridge_options(name="docker0"), facts=Facts(links=(Link("docker0", "bridge", 1500),))),
            "the engine gives",
        ),
        (other(options=bridge_options(name="br-0123456789ab")), "that the engine gives"),
        (other(options=bridge_options(name="pnh0123456789ab")), "that pynet gives"),
        (a_network("9f" * 6 + "8" * 52, subnets=()), "belongs to"),
        (other(subnets=(Subnet(IPNetwork("192.0.2.0/25")),)), "holds this host's address 192.0.2.1"),
        (other(subnets=(V6,), options={"mtu": "1279"}), "1280"),
        (other(subnets=(Subnet(IPNetwork("10.8.0.0/24")), Subnet(IPNetwork("10.8.0.0/25")))), "overlaps"),
        (other(options=bridge_options(gateway_mode_ipv6="isolated")), "needs --internal"),
        (other(options={"com.docker.network.host_ipv4": "192.0.2.9"}), "no address of this host"),
        (
            other(
                options={"com.docker.network.host_ipv4": "192.0.2.1", **bridge_options(enable_ip_masquerade="false")}
            ),
            "contradicts enable_ip_masquerade=false",
        ),
        (
            other(options={"com.docker.network.host_ipv4": "192.0.2.1", **bridge_options(gateway_mode_ipv4="routed")}),
            "contradicts gateway_mode_ipv4=routed",
        ),
    ],
)
def test_network_is_refused_when_it_clashes(network: Network, said: str) -> None:
    """A network that cannot stand beside what is there is refused before anything is made."""
    with pytest.raises(PynetError, match=said):
        BRIDGE.check(network, {"9f" * 32: a_network()}, [("eth0", IPNetwork("192.0.2.1/24"))])


def test_an_adopted_bridge_may_have_the_subnet_already() -> None:
    """Its own addresses are no clash."""
    link = Link("br0", "bridge", 1500, addresses=(IPNetwork("192.0.2.1/24"),))
    network = other(
        subnets=(Subnet(IPNetwork("192.0.2.0/24")),), options=bridge_options(name="br0"), facts=Facts(links=(link,))
    )
    BRIDGE.check(network, {}, [("br0", IPNetwork("192.0.2.1/24"))])


@pytest.mark.parametrize(
    ("options", "addresses"),
    [
        ({}, ["0.0.0.0", "::"]),
        ({"host_binding_ipv4": "127.0.0.1"}, ["127.0.0.1"]),
        ({"host_binding_ipv4": "192.0.2.1", "host_binding_ipv6": "2001:db8::1"}, ["192.0.2.1", "2001:db8::1"]),
        ({"host_binding_ipv6": "2001:db8::1"}, ["0.0.0.0", "2001:db8::1"]),
        ({"host_binding_ipv4": "::"}, ["::"]),
        ({"host_binding_ipv4": "::1"}, ["::1"]),
        ({"host_binding_ipv4": "::ffff:127.0.0.1"}, ["127.0.0.1"]),
    ],
)
def test_one_host_binding_leaves_out_the_other_family(options: dict[str, str], addresses: list[str]) -> None:
    """Who binds to 127.0.0.1 does not mean all IPv6 addresses."""
    network = a_network(options=bridge_options(**options))
    publishing = BRIDGE.publishing(network)
    assert publishing is not None and publishing.addresses == tuple(map(IPAddress, addresses))


@pytest.mark.parametrize(
    ("options", "internal", "skipped"),
    [
        ({}, True, set()),
        ({"gateway_mode_ipv4": "isolated"}, True, {4}),
        ({"gateway_mode_ipv4": "isolated", "gateway_mode_ipv6": "isolated"}, True, {4, 6}),
        ({"inhibit_ipv4": "true"}, True, {4}),
        ({"inhibit_ipv4": "true"}, False, set()),
    ],
)
def test_gateways_that_nobody_needs_are_skipped(options: dict[str, str], internal: bool, skipped: set[int]) -> None:
    """As in the engine's own driver."""
    assert BRIDGE.skipped_gateways(bridge_options(**options), internal) == skipped


@pytest.mark.parametrize("case", PLANS)
def test_network_survives_the_store(case: str) -> None:
    """A record read back is the record that was written."""
    network = PLANS[case][0]
    assert decode(encode(network), Network) == network


def test_the_default_gateway_of_a_stored_subnet_has_the_name_of_0_2_0() -> None:
    """Records of 0.2.0 load, and those of today are written as theirs."""
    stored = b'{"pool":"10.9.0.0/24","gateway":"10.9.0.1","way_out":"10.9.0.254"}'
    subnet = Subnet(V4.pool, V4.gateway, default_gateway=IPAddress("10.9.0.254"))
    assert decode(stored, Subnet) == subnet and encode(subnet) == stored


def test_endpoint_survives_the_store() -> None:
    """A record read back is the record that was written."""
    ports = (PortMapping("tcp", ANY6, 8080, 80),)
    endpoint = an_endpoint(
        ports=ports, address6=IPNetwork("fd00:9::2/64"), sandbox="/x", ifname="web", phase="deleting"
    )
    assert decode(encode(endpoint), Endpoint) == endpoint


def test_every_port_that_is_relayed_is_known_to_the_rules() -> None:
    """Also one that is published on a single address, so that internal networks are kept from it; of ::1 they are."""
    addresses = (ANY6, IPAddress("fd00:1::1"), IPAddress("::1"))
    ports = tuple(PortMapping("tcp", address, 8080 + number, 80) for number, address in enumerate(addresses))
    intents = BRIDGE.endpoint_plan(a_network(), an_endpoint(ports=ports)).intents
    assert intents == (Relaying("tcp", 8080), Relaying("tcp", 8081))
