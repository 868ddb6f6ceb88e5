"""A Linux bridge per network, a veth pair per endpoint; what the engine's own bridge driver makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import (
    IPV6_MINIMUM_MTU,
    Attachment,
    EngineOptions,
    Lan,
    Publishing,
    check_dhcp,
    check_mtu,
    conflict_check_option,
    dhcp_option,
    dhcp_station,
    gateways,
    has_ipv6,
    leased_routes,
    mac_client_id,
    mtu_option,
    prefix_option,
)
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, NetworkInTheWay
from pynetdriver.model import Endpoint, Link, Network, Station, Subnet
from pynetdriver.names import ENGINE_BRIDGE, OUR_NAMES, bridge_name, container_link, host_link, network_mac
from pynetdriver.options import option, parse_options
from pynetdriver.plan import (
    Address,
    Adopted,
    Bridge,
    Crossing,
    Forwarding,
    Guard,
    Hairpin,
    HostSetting,
    Intent,
    LinkSysctl,
    Object,
    Opening,
    Owner,
    Plan,
    Publication,
    Relaying,
    Resident,
    Segment,
    Veth,
)
from pynetdriver.pool import overlap
from pynetdriver.portmap import broadcasts_to, translated_to

#: Gateway modes, and what each lets in from elsewhere.
_ADMITS: dict[str, Literal["published", "open", "all"]] = {
    "nat": "published",
    "nat-unprotected": "all",
    "routed": "open",
    "isolated": "published",
}
_mode = kinds.choice(*_ADMITS)
#: Addresses of which are each link's own (RFC 4291, section 2.5.6), so that the host has others in it elsewhere.
_LINK_LOCAL6 = IPNetwork("fe80::/64")
_MULTICAST6 = IPNetwork("ff00::/8")


def _parse_default_bridge(text: str) -> bool:
    if kinds.boolean.parse(text):
        raise ValueError
    return False


@dataclass(frozen=True)
class Options(EngineOptions):
    """`docker network create -o`; names and meanings as in the engine's bridge driver."""

    mtu: int | None = mtu_option("that of the default-route link")
    prefix: str = prefix_option()
    bridge: str | None = option(
        "com.docker.network.bridge.name",
        kind=kinds.link_name,
        meaning="name of the bridge; one that exists is adopted, and stays when the network goes",
        default=None,
        shown="`pn-` and 12 characters of the network's id",
        unset="",
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
        kind=kinds.any_address,
        meaning="where `-p` without an address publishes, IPv4; one of IPv6 publishes there alone",
        default=IPAddress("0.0.0.0"),
    )
    host_binding6: IPAddress | None = option(
        "com.docker.network.bridge.host_binding_ipv6",
        kind=kinds.address(6),
        meaning="where `-p` without an address publishes, IPv6",
        default=None,
        shown="`::`, nowhere if the other host binding is given",
    )
    inhibit4: bool = option(
        "com.docker.network.bridge.inhibit_ipv4",
        kind=kinds.boolean,
        meaning="the bridge gets no IPv4 address; containers take the gateway's for that of somebody else",
        default=False,
    )
    mode4: str = option(
        "com.docker.network.bridge.gateway_mode_ipv4",
        kind=_mode,
        meaning="`nat`: published ports lead in; `nat-unprotected`: for other machines so do container addresses, "
        "on all ports; `routed`: container addresses do on published ports, and nothing is translated; "
        "`isolated`: with `--internal`, not even the host",
        default="nat",
    )
    mode6: str = option(
        "com.docker.network.bridge.gateway_mode_ipv6", kind=_mode, meaning="the same for IPv6", default="nat"
    )
    trusted: tuple[str, ...] = option(
        "com.docker.network.bridge.trusted_host_interfaces",
        kind=kinds.link_names,
        meaning="from these links published ports are also reached at the container's address",
        default=(),
        shown="none",
    )
    source4: IPAddress | None = option(
        "com.docker.network.host_ipv4",
        kind=kinds.address(4),
        meaning="address of this host that outgoing IPv4 traffic takes",
        default=None,
        shown="that of the link it leaves by",
    )
    source6: IPAddress | None = option(
        "com.docker.network.host_ipv6",
        kind=kinds.address(6),
        meaning="address of this host that outgoing IPv6 traffic takes",
        default=None,
        shown="that of the link it leaves by",
    )
    default_bridge: bool = option(
        "com.docker.network.bridge.default_bridge",
        kind=kinds.Kind(_parse_default_bridge, "false: docker0 stays the engine's"),
        meaning="the engine's own network",
        default=False,
    )
    dhcp: bool = dhcp_option(
        "the LAN's DHCP server gives containers their addresses, gateway and routes; with `--ipam-driver null`, on a "
        "bridge that was adopted with its uplink"
    )
    conflict_check: bool = conflict_check_option("only on a bridge that was adopted, since no other leads to a LAN")
    anti_spoof: bool = option(
        "anti_spoof",
        kind=kinds.boolean,
        meaning="containers send nothing out with a source address that is not of the network's subnets, nor, "
        "on an adopted bridge, with another MAC than theirs",
        default=True,
    )
    ra_guard: bool = option(
        "ra_guard",
        kind=kinds.boolean,
        meaning="on an adopted bridge, nobody gets router advertisements or redirects of containers",
        default=True,
    )
    dhcp_guard: bool = option(
        "dhcp_guard",
        kind=kinds.boolean,
        meaning="on an adopted bridge, nobody gets answers of DHCP servers in containers; `false` for a network whose "
        "containers are to serve the LAN",
        default=True,
    )


IMPLIED_BY: tuple[str, ...] = ()
FOLLOWS_HOST = False


def named_links(network: Network, uplink: str | None) -> tuple[str, ...]:
    """The bridge, if the user named one: it may exist."""
    name = parse_options(Options, network.options).bridge
    return (name,) if name else ()


def skipped_gateways(given: Mapping[str, str], internal: bool) -> frozenset[int]:
    """Families whose gateway address would be on no link."""
    options = parse_options(Options, given)
    skipped = {version for version, mode in _modes(options).items() if mode == "isolated"}
    return frozenset(skipped | ({4} if options.inhibit4 and internal else set()))


def check(network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]) -> None:
    """Refuse contradictions, a taken bridge, a subnet that overlaps or holds an address of the host."""
    options = parse_options(Options, network.options)
    addresses = list(addresses)
    _check_options(network, options, {address.ip for _, address in addresses})
    name = _bridge(network)
    for other in networks.values():
        if other.backend != network.backend:
            continue
        if _bridge(other) == name:
            raise Conflict(f'bridge "{name}" belongs to network {other.id[:12]}; choose another name')
        for ours, theirs in product(network.subnets, other.subnets):
            if overlap(ours.pool, theirs.pool):
                raise NetworkInTheWay(
                    f"subnet {ours.pool} overlaps {theirs.pool} of network {other.id[:12]}; choose another --subnet",
                    other.id,
                )
    link = _found(network)
    if link is not None and (link.kind != Bridge.kind or link.master):
        what = f'a port of "{link.master}"' if link.master else f"a {link.kind}, not a bridge"
        raise Conflict(f'"{name}" exists on this host and is {what}; choose another name')
    if ENGINE_BRIDGE.fullmatch(name):
        raise Conflict(f'"{name}" is a name that the engine gives to bridges of its own; choose another one')
    if OUR_NAMES.fullmatch(name) and name != bridge_name(network.id):
        raise Conflict(f'"{name}" is a name that pynet gives to links of its own; choose another one')
    for one, other_one in combinations(network.subnets, 2):
        if overlap(one.pool, other_one.pool):
            raise InvalidRequest(f"subnet {one.pool} overlaps {other_one.pool}, both of this network; choose others")
    for subnet in network.subnets:
        if subnet.pool in _MULTICAST6 or (subnet.pool != _LINK_LOCAL6 and overlap(subnet.pool, _LINK_LOCAL6)):
            raise InvalidRequest(
                f"subnet {subnet.pool} holds no addresses of containers: it is multicast, or a part of {_LINK_LOCAL6};"
                " choose another --subnet"
            )
        for owner, address in addresses:
            if address.ip in subnet.pool and owner != name and subnet.pool != _LINK_LOCAL6:
                raise Conflict(f"subnet {subnet.pool} holds this host's address {address.ip}; choose another --subnet")


def _check_options(network: Network, options: Options, addresses: set[IPAddress]) -> None:
    check_mtu(network, options.mtu)
    link = _found(network)
    if link is not None and options.mtu is None and link.mtu < IPV6_MINIMUM_MTU and has_ipv6(network):
        raise InvalidRequest(
            f'bridge "{_bridge(network)}" has MTU {link.mtu}, and IPv6 needs {IPV6_MINIMUM_MTU}; raise it'
        )
    if options.host_binding4.version == 6 and options.host_binding6 is not None:
        raise InvalidOption(
            f"host_binding_ipv4={options.host_binding4} and host_binding_ipv6={options.host_binding6} are both of IPv6;"
            " give one"
        )
    if options.dhcp:
        check_dhcp(network)
        if not _adopted(network):
            raise InvalidOption(
                "dhcp=true needs a bridge that leads to the LAN: name one that exists with"
                " com.docker.network.bridge.name, or use backend=macvlan"
            )
    for version, mode in _modes(options).items():
        if mode == "isolated" and not network.internal:
            raise InvalidOption(f"gateway_mode_ipv{version}=isolated needs --internal, or choose another mode")
        source = _sources(options)[version]
        if source is None:
            continue
        if not options.masquerade or mode == "routed":
            other = f"gateway_mode_ipv{version}=routed" if mode == "routed" else "enable_ip_masquerade=false"
            raise InvalidOption(f"host_ipv{version}={source} contradicts {other}, which keeps addresses; give one")
        if source not in addresses:
            raise InvalidOption(f"host_ipv{version}={source} is no address of this host; give one that it has")


def network_plan(network: Network) -> Plan:
    """A bridge with its gateway addresses; of one that was there before, only the addresses that it lacks."""
    options = parse_options(Options, network.options)
    name, adopted = _bridge(network), _adopted(network)
    versions = sorted({subnet.pool.version for subnet in network.subnets})
    # 127.0.0.1:port on the host leads into the network; the ruleset drops foreign packets to 127/8.
    sysctls = [LinkSysctl("ipv4", name, "route_localnet", "1")]
    if 6 in versions:
        sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "0"))
        if not adopted:
            sysctls.append(LinkSysctl("ipv6", name, "accept_ra", "0"))
            # The link-local address is the source of forwarded neighbour solicitations: with duplicate
            # address detection the first container of a network would be out of reach for two seconds.
            sysctls.append(LinkSysctl("ipv6", name, "accept_dad", "0"))
            if options.mode6 == "isolated":
                # No link-local address either (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h): containers would reach
                # the host by it. It would come with the first port, so this comes in time.
                sysctls.append(LinkSysctl("ipv6", name, "addr_gen_mode", "1"))
    elif not adopted:
        sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "1"))
    settings: list[HostSetting] = [] if network.internal else [Forwarding(version) for version in versions]
    objects: list[Object] = []
    found = _found(network)
    if adopted and found:
        objects.append(Adopted(name, found.mtu, found.up))
        # Without it the kernel would take the user's addresses along with a gateway that came before them.
        settings += [*sysctls, LinkSysctl("ipv4", name, "promote_secondaries", "1")]
    else:
        objects += [Bridge(name, network_mac(network.id), _mtu(network)), *sysctls]
    there = {one.ip for one in found.addresses} if found and adopted else set()
    objects += [
        Address(name, IPNetwork(f"{subnet.gateway}/{subnet.pool.prefixlen}"), stays=adopted)
        for subnet in network.subnets
        if _is_on_bridge(subnet, options) and subnet.gateway not in there
    ]
    modes, sources = _modes(options), _sources(options)
    segment = Segment(
        link=name,
        subnets=tuple(subnet.pool for subnet in network.subnets),
        crossings=tuple(
            Crossing(
                version,
                _ADMITS[modes[version]],
                (sources[version] or "link") if options.masquerade and modes[version] != "routed" else None,
            )
            for version in versions
        ),
        internal=network.internal,
        isolated=not options.icc,
        anti_spoof=options.anti_spoof,
        trusted=options.trusted,
        shared=adopted,
        hostless=tuple(version for version in versions if modes[version] == "isolated"),
    )
    return Plan(Owner.network(network.id), tuple(settings), tuple(objects), (segment,))


def endpoint_plan(network: Network, endpoint: Endpoint) -> Plan:
    """A veth pair whose host end is a port of the bridge, and its published ports."""
    options = parse_options(Options, network.options)
    link = host_link(endpoint.id)
    intents: list[Intent] = []
    if _adopted(network):
        intents.append(Resident(_bridge(network), endpoint.mac))
        intents += [Guard(link, "ra")] if options.ra_guard else []
        intents += [Guard(link, "dhcp")] if options.dhcp_guard else []
    openings: dict[Opening, None] = {}
    addresses, translated = endpoint.addresses, False
    for port in endpoint.ports:
        address = translated_to(port, addresses)
        if address is None:
            if not port.host_address.is_loopback():
                intents.append(Relaying(port.protocol, port.host_port))
            continue
        if broadcasts_to(port, addresses):
            intents.append(Relaying(port.protocol, port.host_port))
        if port.host_port:
            to = (port.protocol, port.host_address, port.host_port, address, port.port)
            intents.append(Publication(*to, but_from=None if options.icc else _bridge(network)))
            translated = options.icc
        if not port.host_port or (options.trusted and _modes(options)[address.version] == "nat"):
            openings[Opening(port.protocol, address, port.port)] = None
    veth = Veth(
        name=link,
        peer=container_link(endpoint.id),
        peer_mac=endpoint.mac,
        mtu=_mtu(network),
        bridge=_bridge(network),
        isolated=not options.icc,
        locked=_adopted(network) and (options.anti_spoof or network.internal),
        peer_mtu=_leased_mtu(network, endpoint),
    )
    return Plan(
        owner=Owner.endpoint(endpoint.id),
        objects=(veth, Hairpin(link)) if translated else (veth,),
        intents=(*intents, *openings),
    )


def admitted(network: Network, endpoint: Endpoint) -> Endpoint:
    """Any endpoint; one whose MAC was given is itself for a DHCP server."""
    if parse_options(Options, network.options).dhcp and endpoint.mac_given:
        return replace(endpoint, client_id=mac_client_id(endpoint.mac).hex())
    return endpoint


def station(network: Network, endpoint: Endpoint) -> Station | None:
    """The container's MAC on the bridge; what is for that alone passes at the host's end of its pair."""
    if not parse_options(Options, network.options).dhcp:
        return None
    return dhcp_station(_bridge(network), endpoint, mac_client_id(endpoint.mac), (host_link(endpoint.id),))


def lan(network: Network) -> Lan | None:
    """The bridge if it was adopted; on one of its own a network is by itself."""
    return Lan(_bridge(network), parse_options(Options, network.options).conflict_check) if _adopted(network) else None


def host_addresses(network: Network) -> dict[IPNetwork, IPAddress | None]:
    """None: the bridge has the gateway's address."""
    return {}


def publishing(network: Network) -> Publishing:
    """On the host bindings; one that is given alone leaves out the other family, as in the engine's own driver."""
    options = parse_options(Options, network.options)
    if options.host_binding6 is not None:
        addresses: tuple[IPAddress, ...] = (options.host_binding4, options.host_binding6)
    elif int(options.host_binding4) or options.host_binding4.version == 6:
        addresses = (options.host_binding4,)
    else:
        addresses = (options.host_binding4, IPAddress("::"))
    untranslated = frozenset(version for version, mode in _modes(options).items() if mode == "routed")
    return Publishing(addresses, untranslated, apart=not options.icc)


def attachment(network: Network, endpoint: Endpoint) -> Attachment:
    """The veth's other end, and the bridge's addresses as gateways unless the network is internal."""
    options = parse_options(Options, network.options)
    ways = gateways(network, endpoint)
    return Attachment(
        container_link(endpoint.id), options.prefix, ways.get(4), ways.get(6), leased_routes(network, endpoint)
    )


def _modes(options: Options) -> dict[int, str]:
    return {4: options.mode4, 6: options.mode6}


def _sources(options: Options) -> dict[int, IPAddress | None]:
    return {4: options.source4, 6: options.source6}


def _is_on_bridge(subnet: Subnet, options: Options) -> bool:
    """Tell whether the bridge itself takes the gateway address."""
    version = subnet.pool.version
    inhibited = version == 4 and options.inhibit4
    return subnet.gateway is not None and not inhibited and _modes(options)[version] != "isolated"


def _found(network: Network) -> Link | None:
    return network.facts.link(_bridge(network))


def _adopted(network: Network) -> bool:
    link = _found(network)
    return link is not None and not link.ours


def _bridge(network: Network) -> str:
    return parse_options(Options, network.options).bridge or bridge_name(network.id)


def _leased_mtu(network: Network, endpoint: Endpoint) -> int | None:
    """The MTU that a DHCP server names, unless the user did or the bridge has less."""
    leased = endpoint.lease.mtu if endpoint.lease else None
    named = parse_options(Options, network.options).mtu
    return leased if leased is not None and named is None and leased < _mtu(network) else None


def _mtu(network: Network) -> int:
    mtu = parse_options(Options, network.options).mtu
    if mtu is None:
        link = _found(network)
        mtu = link.mtu if link and not link.ours else network.facts.uplink_mtu
    return max(mtu, IPV6_MINIMUM_MTU) if has_ipv6(network) else mtu
