"""What macvlan and ipvlan networks have in common: links that stand on a link of the host, their parent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, TypeVar

from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import (
    IPV6_MINIMUM_MTU,
    OWN_ADDRESS,
    Attachment,
    Backend,
    EngineOptions,
    Lan,
    check_dhcp,
    check_mtu,
    check_subnets,
    client_on,
    conflict_check_option,
    dhcp_option,
    gateways,
    has_ipv6,
    leased_routes,
    mtu_option,
    prefix_option,
)
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, NetworkInTheWay
from pynetdriver.model import DhcpClient, Endpoint, Link, Network
from pynetdriver.names import OUR_NAMES, VLAN_NAME, bridge_name, container_link, network_mac, shim_link, shim_mac
from pynetdriver.options import option
from pynetdriver.plan import (
    Address,
    Dummy,
    Entrance,
    Intent,
    LinkSysctl,
    Member,
    Object,
    Owner,
    Parent,
    Plan,
    Route,
    StaticRoute,
    Up,
    Upper,
)
from pynetdriver.pool import is_host_address, overlap, parse_address

_VLAN_IDS = range(1, 4095)


_NOT_FREE = "{} is no free address of the network's subnets; give one of them"


def _parse_host_access(text: str) -> bool | IPAddress:
    try:
        return bool(kinds.boolean.parse(text))
    except ValueError:
        pass
    try:
        address = parse_address(text, "")
    except InvalidRequest:
        raise ValueError from None
    if not int(address):
        raise ValueError
    return address


#: Backends of which the kernel takes one on a parent.
KINDS = ("macvlan", "ipvlan")


@dataclass(frozen=True)
class Attributes:
    """What tells the links of one network from those of another kind or mode; see `plan.Upper`."""

    kind: str
    container: tuple[tuple[str, int], ...]
    shim: tuple[tuple[str, int], ...]
    #: Whether each link has a MAC of its own.
    own_mac: bool


@dataclass(frozen=True)
class ParentOptions(EngineOptions):
    """Options of every network that stands on a parent."""

    mtu: int | None = mtu_option("that of the parent")
    prefix: str = prefix_option()
    parent: str | None = option(
        "parent",
        kind=kinds.link_name,
        meaning="link of the host on which the network stands; `eth0.50` is made as an 802.1Q sub-interface of `eth0` "
        "if it is not there, and goes with the last network on it",
        default=None,
        shown="the default-route link",
        unset="",
    )
    host_access: bool | IPAddress = option(
        "host_access",
        kind=kinds.Kind(_parse_host_access, "true, false or an address"),
        meaning="host and containers reach each other: the host gets a link of its own on the parent, with the given "
        "address, the auxiliary address named `host`, or one of the pool",
        default=False,
    )
    dhcp: bool = dhcp_option(
        "the LAN's DHCP server gives containers their addresses, gateway and routes; with `--ipam-driver null`, "
        "not in ipvlan's l3 modes"
    )
    conflict_check: bool = conflict_check_option("not in ipvlan's l3 modes, where nobody else is in the subnet")


P = TypeVar("P", bound=ParentOptions)


def parent_name(network: Network) -> str | None:
    """Name the parent; a network that is to be kept in, and was given none, has one of its own that leads nowhere."""
    given = network.options.get("parent")
    return given or (bridge_name(network.id) if network.internal else network.facts.uplink)


def lower(network: Network) -> Link | None:
    """Find what the network stands on: the parent, or the link under a VLAN that is to be made; both have one MAC."""
    return next(iter(network.facts.links), None)


class ParentBackend(Backend[P]):
    """Links on a parent. A subclass says what tells them from those of another kind or mode."""

    FOLLOWS_HOST: ClassVar[bool] = True

    @abstractmethod
    def attributes(self, options: P) -> Attributes:
        """Tell what the links of a network of these options are."""

    @abstractmethod
    def client_id(self, endpoint: Endpoint) -> bytes:
        """Tell whom a DHCP server takes a new endpoint for (option 61, its type byte first)."""

    def named_links(self, network: Network, uplink: str | None) -> tuple[str, ...]:
        """The parent, and the link under it if it can be made on that."""
        given = network.options.get("parent")
        parent = given or (None if network.internal else uplink)
        if parent is None:
            return ()
        vlan = VLAN_NAME.fullmatch(parent)
        return (parent, vlan["lower"]) if vlan and given else (parent,)

    def skipped_gateways(self, given: Mapping[str, str], internal: bool) -> frozenset[int]:
        """Those of an internal network, which has no way out."""
        return frozenset({4, 6}) if internal else frozenset()

    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse a parent that cannot carry the network, an MTU that it has not, and other networks in the way."""
        options = self.options(network)
        check_mtu(network, options.mtu)
        name = parent_name(network)
        if name is None:
            raise InvalidRequest("this host has no default route to take the parent from; give one with -o parent=LINK")
        if not _is_own(network, options):
            choices = {owner for owner, _ in addresses} - {"", "lo"}
            parent = _check_parent(network, name, sorted(one for one in choices if not OUR_NAMES.fullmatch(one)))
            if options.mtu is not None and options.mtu > parent.mtu:
                raise InvalidOption(
                    f'parent "{parent.name}" has MTU {parent.mtu}, so mtu cannot be {options.mtu}; raise it'
                )
            if options.mtu is None and parent.mtu < IPV6_MINIMUM_MTU and has_ipv6(network):
                raise InvalidRequest(
                    f'parent "{parent.name}" has MTU {parent.mtu}, and IPv6 needs {IPV6_MINIMUM_MTU}; raise it'
                )
        if options.dhcp:
            check_dhcp(network)
            if _is_own(network, options):
                raise InvalidOption("dhcp=true contradicts --internal without a parent, which leads to no DHCP server")
        if options.host_access and network.internal:
            raise InvalidOption("host_access contradicts --internal, which lets nothing in or out; leave one out")
        check_subnets(network)
        for there in networks.values():
            if there.backend not in KINDS or parent_name(there) != name:
                continue
            if there.backend != network.backend:
                raise Conflict(
                    f'parent "{name}" carries {there.backend} network {there.id[:12]}, and the kernel takes one kind on'
                    f" a link; use backend={there.backend}, a VLAN like parent={name}.50, or another parent"
                )
            for ours, theirs in product(network.subnets, there.subnets):
                if overlap(ours.pool, theirs.pool):
                    raise NetworkInTheWay(
                        f'subnet {ours.pool} overlaps {theirs.pool} of network {there.id[:12]} on parent "{name}";'
                        " choose another --subnet",
                        there.id,
                    )

    def network_plan(self, network: Network) -> Plan:
        """The parent if it is to be made, and the host's own link on it if host and containers reach each other."""
        options = self.options(network)
        attributes = self.attributes(options)
        parent = parent_name(network) or ""
        there = network.facts.link(parent)
        vlan = VLAN_NAME.fullmatch(parent)
        objects: list[Object] = []
        entrances: list[Intent] = []
        if _is_own(network, options):
            objects += [Dummy(parent, network_mac(network.id), options.mtu or network.facts.uplink_mtu)]
        elif vlan and (there is None or there.ours):
            objects += [
                Parent(vlan["lower"]),
                Upper("vlan", parent, vlan["lower"], (("id", int(vlan["id"])),), shared=True),
                # The host itself has no business there: it would take an address and a default route from any router.
                LinkSysctl("ipv6", parent, "disable_ipv6", "1"),
                Up(parent),
            ]
            entrances.append(Entrance(parent, "link" if attributes.own_mac else "shims"))
        else:
            objects += [Parent(parent)]
        if options.host_access:
            objects += _shim(network, parent, attributes)
            entrances.append(Entrance(shim_link(parent), "members" if attributes.own_mac else "link"))
        # Without a link of the network's own nothing would tell that the parent takes none, until a container starts.
        trial = Upper(attributes.kind, container_link(network.id), parent, attributes.container)
        return Plan(
            Owner.network(network.id),
            objects=tuple(objects),
            intents=tuple(entrances),
            trial=trial if objects == [Parent(parent)] else None,
        )

    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """A link that moves into the sandbox, and the host's routes to it."""
        options = self.options(network)
        attributes = self.attributes(options)
        parent = parent_name(network) or ""
        link = Upper(
            attributes.kind,
            container_link(endpoint.id),
            parent,
            attributes.container,
            mac=endpoint.mac if attributes.own_mac else None,
            mtu=_mtu(network, endpoint, options),
            moves=True,
        )
        routes = []
        members = [Member(shim_link(parent), endpoint.mac)] if options.host_access and attributes.own_mac else []
        if options.host_access:
            given = [one for one in (endpoint.address4, endpoint.address6) if one is not None]
            routes = [Route(shim_link(parent), one.ip, _source(network, one)) for one in given]
        return Plan(Owner.endpoint(endpoint.id), objects=(link, *routes), intents=tuple(members))

    def admitted(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Refuse the addresses that the host has on the parent."""
        taken = {one.host for one in network.subnets} if self.options(network).host_access else set()
        taken |= _own_addresses(network)
        for address in endpoint.addresses.values():
            if address in taken:
                raise Conflict(OWN_ADDRESS.format(address))
        return endpoint

    def dhcp_client(self, network: Network, endpoint: Endpoint) -> DhcpClient | None:
        """The container, on the parent."""
        if not self.options(network).dhcp:
            return None
        return client_on(parent_name(network) or "", endpoint, self.client_id(endpoint))

    def lan(self, network: Network) -> Lan | None:
        """The parent, unless it is the network's own."""
        options = self.options(network)
        return None if _is_own(network, options) else Lan(parent_name(network) or "", options.conflict_check)

    def host_addresses(self, network: Network) -> dict[IPNetwork, IPAddress | None]:
        """Tell the address that the host's own link has in each subnet, if the user named it."""
        given = self.options(network).host_access
        if not given:
            return {}
        named = {one.pool: one.host for one in network.subnets}
        if isinstance(given, IPAddress):
            pool = next((one.pool for one in network.subnets if given in one.pool), None)
            if pool is None:
                raise InvalidOption(_NOT_FREE.format(f"host_access={given}"))
            named[pool] = given
        for subnet in network.subnets:
            address = named[subnet.pool]
            if address is None:
                continue
            if address not in subnet.pool or not is_host_address(address, subnet.pool) or address == subnet.gateway:
                who = f"host_access={address}" if address == given else f"--aux-address host={address}"
                raise InvalidOption(_NOT_FREE.format(who))
            if address in _own_addresses(network):
                raise InvalidOption(f"the host has {address} already; name an address of its own for the network")
        return named

    def attachment(self, network: Network, endpoint: Endpoint) -> Attachment:
        """The link, the LAN's router, and routes to addresses of the host for which its own link does not answer."""
        options = self.options(network)
        ways = gateways(network, endpoint)
        routes = leased_routes(network, endpoint) + (_routes_to_host(network, endpoint) if options.host_access else ())
        return Attachment(container_link(endpoint.id), options.prefix, ways.get(4), ways.get(6), routes)


def _check_parent(network: Network, name: str, choices: list[str]) -> Link:
    """Find what the network stands on in the end: the parent, or what its VLAN is to be made on."""
    parent = network.facts.link(name)
    if OUR_NAMES.fullmatch(name) or (parent is not None and parent.ours and parent.kind != "vlan"):
        raise Conflict(f'"{name}" is a link of pynet\'s own or of a container; choose another parent')
    if parent is None or parent.ours:
        vlan = VLAN_NAME.fullmatch(name)
        parent = network.facts.link(vlan["lower"]) if vlan else None
        if vlan is None or parent is None:
            missing = f'"{name}"' if vlan is None else f'"{vlan["lower"]}" under "{name}"'
            raise InvalidRequest(
                f"parent {missing} is not on this host; choose one of {', '.join(choices) or 'its links'}"
            )
        if parent.ours:
            raise Conflict(
                f'"{parent.name}" under "{name}" is a link that pynet made and will remove; make "{name}" yourself, or'
                " choose another parent"
            )
        if int(vlan["id"]) not in _VLAN_IDS:
            raise InvalidOption.value("parent", name, f"LINK.1 to LINK.{_VLAN_IDS[-1]} for a VLAN that is to be made")
        if not parent.up:  # the kernel brings no VLAN link up there (net/8021q/vlan_dev.c)
            raise Conflict(f'"{parent.name}" under "{name}" is down; bring it up first: ip link set {parent.name} up')
    if parent.name == "lo":
        raise InvalidRequest('parent "lo" reaches no other machine and carries no such links; choose another')
    if parent.master:
        raise Conflict(
            f'parent "{parent.name}" is a port of "{parent.master}", so the kernel puts nothing on it;'
            f" use parent={parent.master}"
        )
    return parent


def _shim(network: Network, parent: str, attributes: Attributes) -> list[Object]:
    """The host's own link on the parent, of the same kind as containers': the parent itself they do not reach."""
    name = shim_link(parent)
    stands_on = lower(network)
    mac = shim_mac(parent, stands_on.mac) if attributes.own_mac and stands_on else None
    sysctls = [
        # It answers for the host's addresses, but not to machines that reach these by the parent.
        LinkSysctl("ipv4", name, "arp_filter", "1"),
        LinkSysctl("ipv6", name, "accept_ra", "0"),
        LinkSysctl("ipv6", name, "accept_dad", "0"),
        # No link-local address (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h): by it everybody on the LAN would reach the
        # host on a link that is there for these containers.
        LinkSysctl("ipv6", name, "addr_gen_mode", "1"),
    ]
    if has_ipv6(network):
        sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "0"))
    addresses = [subnet.host for subnet in network.subnets if subnet.host]
    return [
        Upper(attributes.kind, name, parent, attributes.shim, mac=mac, shared=True),
        *sysctls,
        Up(name),
        # Without the rest of the subnet, to which the host keeps the route that it has.
        *(Address(name, IPNetwork(address), stays=True) for address in addresses),
    ]


def _source(network: Network, given: IPNetwork) -> IPAddress | None:
    """Tell by which of its addresses the host turns to a container: its own in that subnet, or the parent's."""
    own = [one.host for one in network.subnets if one.host and given.ip in one.pool]
    parents = [one.ip for link in network.facts.links for one in link.addresses if one.ip in given.cidr]
    return next(iter([*own, *parents]), None)


def _mtu(network: Network, endpoint: Endpoint, options: ParentOptions) -> int | None:
    """The MTU that the user named, or else the DHCP server, but not one that the parent has not."""
    leased = endpoint.lease.mtu if endpoint.lease else None
    if options.mtu is not None or leased is None:
        return options.mtu
    parent = lower(network)
    return min(leased, parent.mtu) if parent else leased


def _own_addresses(network: Network) -> set[IPAddress]:
    return {one.ip for link in network.facts.links for one in link.addresses}


def _routes_to_host(network: Network, endpoint: Endpoint) -> tuple[StaticRoute, ...]:
    """Lead the host's addresses on the parent by its own link there.

    For IPv4 that link answers for all of them (ARP, net/ipv4/arp.c), so only those outside of the container's subnet
    need a route; for IPv6 it answers for its own alone (net/ipv6/ndisc.c).
    """
    found = []
    for given in (endpoint.address4, endpoint.address6):
        next_hop = next((one.host for one in network.subnets if given and given.ip in one.pool), None)
        for one in (address for link in network.facts.links for address in link.addresses):
            if next_hop is None or given is None or one.version != given.version or one.ip.is_link_local():
                continue
            if one.version == 6 or one.ip not in given.cidr:
                found.append(StaticRoute(IPNetwork(one.ip), next_hop))
    return tuple(dict.fromkeys(found))


def _is_own(network: Network, options: ParentOptions) -> bool:
    return network.internal and options.parent is None
