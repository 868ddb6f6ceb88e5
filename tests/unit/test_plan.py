"""What networks and endpoints come to, as text."""

from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.backends import backend_named
from pynetdriver.errors import PynetError
from pynetdriver.model import Endpoint, Facts, Network, PortMapping, Subnet, decode, encode

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
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 masquerade""",
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
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 fd00:9::/64 masquerade""",
    ),
    "internal": (
        a_network(internal=True),
        f"""\
network:{"9f" * 32}
  link pn-9f9f9f9f9f9f type bridge mtu 1500 address MAC
  sysctl net.ipv4.conf.pn-9f9f9f9f9f9f.route_localnet = 1
  sysctl net.ipv6.conf.pn-9f9f9f9f9f9f.disable_ipv6 = 1
  address 10.9.0.1/24 dev pn-9f9f9f9f9f9f
  segment pn-9f9f9f9f9f9f 10.9.0.0/24 internal""",
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
  segment web0 10.9.0.0/24 isolated""",
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


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (a_network("8" * 64), "overlaps"),
        (a_network("8" * 64, subnets=(Subnet(IPNetwork("10.0.0.0/8")),)), "overlaps"),
        (a_network("8" * 64, subnets=(), options={"com.docker.network.bridge.name": "pn-9f9f9f9f9f9f"}), "belongs to"),
        (a_network("8" * 64, subnets=(), options={"com.docker.network.bridge.name": "taken"}), "exists on this host"),
        (a_network("9f" * 6 + "8" * 52, subnets=()), "belongs to"),
        (a_network("8" * 64, subnets=(Subnet(IPNetwork("192.0.2.0/25")),)), "holds this host's address 192.0.2.1"),
        (a_network("8" * 64, subnets=(V6,), options={"mtu": "1279"}), "1280"),
        (a_network("8" * 64, subnets=(Subnet(IPNetwork("10.8.0.0/24")), Subnet(IPNetwork("10.8.0.0/25")))), "overlaps"),
    ],
)
def test_network_is_refused_when_it_clashes(network: Network, said: str) -> None:
    """A network that cannot stand beside what is there is refused before anything is made."""
    with pytest.raises(PynetError, match=said):
        BRIDGE.check(network, {"9f" * 32: a_network()}, {"lo", "taken"}, [IPNetwork("192.0.2.1/24")])


@pytest.mark.parametrize("case", PLANS)
def test_network_survives_the_store(case: str) -> None:
    """A record read back is the record that was written."""
    network = PLANS[case][0]
    assert decode(encode(network), Network) == network


def test_endpoint_survives_the_store() -> None:
    """A record read back is the record that was written."""
    ports = (PortMapping("tcp", ANY6, 8080, 80),)
    endpoint = an_endpoint(
        ports=ports, address6=IPNetwork("fd00:9::2/64"), sandbox="/x", ifname="web", phase="deleting"
    )
    assert decode(encode(endpoint), Endpoint) == endpoint
