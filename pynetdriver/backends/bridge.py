"""A Linux bridge per network, a veth pair per endpoint; what the engine's own bridge driver makes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import Attachment
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, NetworkInTheWay
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import bridge_name, container_link, host_link, network_mac
from pynetdriver.options import option, parse_options
from pynetdriver.plan import (
    Address,
    Bridge,
    Forwarding,
    Hairpin,
    Intent,
    LinkSysctl,
    Object,
    Plan,
    Publication,
    Segment,
    Veth,
)
from pynetdriver.pool import overlap
from pynetdriver.portmap import translated_to

#: RFC 8200, section 5.
IPV6_MINIMUM_MTU = 1280


@dataclass(frozen=True)
class Options:
    """`docker network create -o`; names and meanings as in the engine's bridge driver."""

    mtu: int | None = option(
        "com.docker.network.driver.mtu",
        "mtu",
        kind=kinds.integer(68, 65535),
        meaning="MTU of every link of the network in bytes; at least 1280 with IPv6",
        default=None,
        shown="that of the default-route link",
    )
    prefix: str = option(
        "com.docker.network.container_iface_prefix",
        kind=kinds.link_prefix,
        meaning="name of the interface in the container, before its number",
        default="eth",
    )
    bridge: str | None = option(
        "com.docker.network.bridge.name",
        kind=kinds.link_name,
        meaning="name of the bridge; refused if a link of that name exists",
        default=None,
        shown="`pn-` and 12 characters of the network's id",
    )
    icc: bool = option(
        "com.docker.network.bridge.enable_icc",
        kind=kinds.boolean,
        meaning="containers of the network reach each other",
        default=True,
    )
    masquerade: bool = option(
        "com.docker.network.bridge.enable_ip_masquerade",
        kind=kinds.boolean,
        meaning="traffic that leaves the network takes the host's address",
        default=True,
    )
    host_binding4: IPAddress = option(
        "com.docker.network.bridge.host_binding_ipv4",
        kind=kinds.address(4),
        meaning="where `-p` without an address publishes, IPv4",
        default=IPAddress("0.0.0.0"),
    )
    host_binding6: IPAddress = option(
        "com.docker.network.bridge.host_binding_ipv6",
        kind=kinds.address(6),
        meaning="where `-p` without an address publishes, IPv6",
        default=IPAddress("::"),
    )


def check(
    network: Network, networks: Mapping[str, Network], links: Collection[str], addresses: Iterable[IPNetwork]
) -> None:
    """Refuse a taken bridge name, a subnet that overlaps or holds an address of the host, a small MTU for IPv6."""
    options = parse_options(Options, network.options)
    if options.mtu is not None and options.mtu < IPV6_MINIMUM_MTU and _has_ipv6(network):
        raise InvalidOption.value(
            "com.docker.network.driver.mtu", str(options.mtu), f"{IPV6_MINIMUM_MTU} to 65535 with IPv6"
        )
    for other in networks.values():
        if _bridge(other) == _bridge(network):
            raise Conflict(f'bridge "{_bridge(network)}" belongs to network {other.id[:12]}; choose another name')
        for ours, theirs in product(network.subnets, other.subnets):
            if overlap(ours.pool, theirs.pool):
                raise NetworkInTheWay(
                    f"subnet {ours.pool} overlaps {theirs.pool} of network {other.id[:12]}; choose another --subnet",
                    other.id,
                )
    if _bridge(network) in links:
        raise Conflict(f'a link named "{_bridge(network)}" exists on this host already; choose another name')
    for one, other_one in combinations(network.subnets, 2):
        if overlap(one.pool, other_one.pool):
            raise InvalidRequest(f"subnet {one.pool} overlaps {other_one.pool}, both of this network; choose others")
    for subnet in network.subnets:
        for address in addresses:
            if address.ip in subnet.pool:
                raise Conflict(f"subnet {subnet.pool} holds this host's address {address.ip}; choose another --subnet")


def network_plan(network: Network) -> Plan:
    """A bridge with its gateway addresses."""
    options = parse_options(Options, network.options)
    name = _bridge(network)
    objects: list[Object] = [Bridge(name, network_mac(network.id), _mtu(network))]
    # 127.0.0.1:port on the host leads into the network; the ruleset drops foreign packets to 127/8.
    objects.append(LinkSysctl("ipv4", name, "route_localnet", "1"))
    if _has_ipv6(network):
        objects.append(LinkSysctl("ipv6", name, "disable_ipv6", "0"))
        objects.append(LinkSysctl("ipv6", name, "accept_ra", "0"))
        # The link-local address is the source of forwarded neighbour solicitations: with duplicate
        # address detection the first container of a network would be out of reach for two seconds.
        objects.append(LinkSysctl("ipv6", name, "accept_dad", "0"))
    else:
        objects.append(LinkSysctl("ipv6", name, "disable_ipv6", "1"))
    objects += [
        Address(name, IPNetwork(f"{subnet.gateway}/{subnet.pool.prefixlen}"))
        for subnet in network.subnets
        if subnet.gateway is not None
    ]
    versions = sorted({subnet.pool.version for subnet in network.subnets})
    return Plan(
        owner=f"network:{network.id}",
        settings=() if network.internal else tuple(Forwarding(version) for version in versions),
        objects=tuple(objects),
        intents=(
            Segment(
                link=name,
                subnets=tuple(subnet.pool for subnet in network.subnets),
                masquerade=options.masquerade and not network.internal,
                internal=network.internal,
                isolated=not options.icc,
            ),
        ),
    )


def endpoint_plan(network: Network, endpoint: Endpoint) -> Plan:
    """A veth pair whose host end is a port of the bridge, and its published ports."""
    options = parse_options(Options, network.options)
    publications: list[Intent] = [
        Publication(port.protocol, port.host_address, port.host_port, address, port.port)
        for port in endpoint.ports
        if (address := translated_to(port, endpoint)) is not None
    ]
    link = host_link(endpoint.id)
    veth = Veth(
        name=link,
        peer=container_link(endpoint.id),
        peer_mac=endpoint.mac,
        mtu=_mtu(network),
        bridge=_bridge(network),
        isolated=not options.icc,
    )
    return Plan(
        owner=f"endpoint:{endpoint.id}",
        objects=(veth, Hairpin(link)) if publications else (veth,),
        intents=tuple(publications),
    )


def publish_addresses(network: Network) -> tuple[IPAddress, IPAddress]:
    """The two host bindings."""
    options = parse_options(Options, network.options)
    return options.host_binding4, options.host_binding6


def attachment(network: Network, endpoint: Endpoint) -> Attachment:
    """The veth's other end, and the bridge's addresses as gateways unless the network is internal."""
    gateways: dict[int, IPAddress] = {}
    for given in (endpoint.address4, endpoint.address6):
        for subnet in network.subnets:
            if given is not None and given.ip in subnet.pool and subnet.gateway and not network.internal:
                gateways[given.version] = subnet.gateway
    options = parse_options(Options, network.options)
    return Attachment(container_link(endpoint.id), options.prefix, gateways.get(4), gateways.get(6))


def _bridge(network: Network) -> str:
    return parse_options(Options, network.options).bridge or bridge_name(network.id)


def _mtu(network: Network) -> int:
    mtu = parse_options(Options, network.options).mtu or network.facts.uplink_mtu
    return max(mtu, IPV6_MINIMUM_MTU) if _has_ipv6(network) else mtu


def _has_ipv6(network: Network) -> bool:
    return any(subnet.pool.version == 6 for subnet in network.subnets)
