"""What networks have in common whose containers are ports of a bridge of this host: gateway, edge, pairs, ports."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeVar

from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import (
    IPV6_MINIMUM_MTU,
    Attachment,
    Backend,
    EngineOptions,
    Publishing,
    backend_named,
    check_mtu,
    check_subnets,
    gateways,
    has_ipv6,
    leased_routes,
    mtu_option,
    prefix_option,
)
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, NetworkInTheWay
from pynetdriver.model import Endpoint, Network, Subnet
from pynetdriver.names import bridge_name, container_link, host_link, network_mac
from pynetdriver.options import option
from pynetdriver.plan import (
    Address,
    Bridge,
    Crossing,
    Forwarding,
    Hairpin,
    Intent,
    LinkSysctl,
    OpenPort,
    Owner,
    Plan,
    PortForward,
    Relaying,
    Segment,
    Veth,
)
from pynetdriver.pool import overlap
from pynetdriver.portmap import broadcasts_to, translated_to

#: What a network lets in from elsewhere; see `plan.Crossing`.
Admits = Literal["published", "open", "all"]

#: Addresses of which are each link's own (RFC 4291, section 2.5.6), so that the host has others in it elsewhere.
_LINK_LOCAL6 = IPNetwork("fe80::/64")
_MULTICAST6 = IPNetwork("ff00::/8")


@dataclass(frozen=True)
class BridgedOptions(EngineOptions):
    """Options of every network on a bridge; names and meanings as in the engine's bridge driver."""

    mtu: int | None = mtu_option("that of the default-route link")
    prefix: str = prefix_option()
    #: The bridge if it is not named after the network; users choose it only where a subclass makes it an option.
    bridge: str | None = None
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


B = TypeVar("B", bound=BridgedOptions)


class BridgedBackend(Backend[B]):
    """A bridge per network that has the gateways' addresses, a veth pair per endpoint, ports that are translated.

    A subclass checks its options, and overrides what it decides otherwise: which bridge, what it lets in, its MTU.
    """

    def bridge(self, network: Network, options: B) -> str:
        """Name the network's bridge."""
        return options.bridge or bridge_name(network.id)

    def admits(self, options: B) -> Mapping[int, Admits]:
        """Tell by IP version what comes in from elsewhere."""
        return {4: "published", 6: "published"}

    def source(self, options: B, version: int) -> IPAddress | Literal["link"] | None:
        """Tell the address that outgoing packets take; see `plan.Crossing`."""
        return "link" if options.masquerade and self.admits(options)[version] != "open" else None

    def reached_by_trusted(self, options: B) -> frozenset[int]:
        """Tell the IP versions in which trusted links reach translated ports at the container's own address too."""
        return frozenset()

    def default_mtu(self, network: Network, options: B) -> int:
        """Tell the MTU of a network that was given none."""
        return network.facts.uplink_mtu

    def mtu(self, network: Network, options: B) -> int:
        """Tell the MTU of the network's links in bytes."""
        mtu = self.default_mtu(network, options) if options.mtu is None else options.mtu
        return max(mtu, IPV6_MINIMUM_MTU) if has_ipv6(network) else mtu

    def has_gateway(self, subnet: Subnet, options: B) -> bool:
        """Tell whether the bridge itself takes a subnet's gateway address."""
        return subnet.gateway is not None

    def segment(self, network: Network, options: B) -> Segment:
        """Tell the edge of the network."""
        admits = self.admits(options)
        return Segment(
            link=self.bridge(network, options),
            subnets=tuple(subnet.pool for subnet in network.subnets),
            crossings=tuple(Crossing(one, admits[one], self.source(options, one)) for one in versions(network)),
            internal=network.internal,
            isolated=not options.icc,
            anti_spoof=True,
        )

    @abstractmethod
    def check_options(self, network: Network, options: B, addresses: set[IPAddress]) -> None:
        """Refuse options that contradict each other, the network, or the host's addresses."""

    def check_bridge(self, network: Network, options: B) -> None:
        """Refuse a bridge that cannot be the network's."""

    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse contradictions, a taken bridge, a subnet that overlaps or holds an address of the host."""
        addresses, options = list(addresses), self.options(network)
        check_mtu(network, options.mtu)
        self.check_options(network, options, {address.ip for _, address in addresses})
        name = self.bridge(network, options)
        for other in networks.values():
            theirs = backend_named(other.backend)
            if isinstance(theirs, BridgedBackend):
                _check_other(network, name, other, theirs.bridge(other, theirs.options(other)))
        self.check_bridge(network, options)
        check_subnets(network)
        for subnet in network.subnets:
            if subnet.pool in _MULTICAST6 or (subnet.pool != _LINK_LOCAL6 and overlap(subnet.pool, _LINK_LOCAL6)):
                raise InvalidRequest(
                    f"subnet {subnet.pool} holds no addresses of containers: it is multicast, or a part of"
                    f" {_LINK_LOCAL6}; choose another --subnet"
                )
            for owner, address in addresses:
                if address.ip in subnet.pool and owner != name and subnet.pool != _LINK_LOCAL6:
                    raise Conflict(
                        f"subnet {subnet.pool} holds this host's address {address.ip}; choose another --subnet"
                    )

    def network_plan(self, network: Network) -> Plan:
        """A bridge with its gateway addresses."""
        options = self.options(network)
        segment = self.segment(network, options)
        name = segment.link
        sysctls = [localnet(name)]
        if has_ipv6(network):
            sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "0"))
            sysctls.append(LinkSysctl("ipv6", name, "accept_ra", "0"))
            # The link-local address is the source of forwarded neighbour solicitations: with duplicate
            # address detection the first container of a network would be out of reach for two seconds.
            sysctls.append(LinkSysctl("ipv6", name, "accept_dad", "0"))
            if 6 in segment.hostless:
                # No link-local address either (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h): containers would reach
                # the host by it. It would come with the first port, so this comes in time.
                sysctls.append(LinkSysctl("ipv6", name, "addr_gen_mode", "1"))
        else:
            sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "1"))
        addresses = [Address(name, gateway_address(one)) for one in network.subnets if self.has_gateway(one, options)]
        return Plan(
            Owner.network(network.id),
            forwarding(network),
            (Bridge(name, network_mac(network.id), self.mtu(network, options)), *sysctls, *addresses),
            (segment,),
        )

    def pair(self, network: Network, endpoint: Endpoint, options: B) -> Veth:
        """Tell the endpoint's pair, whose host end is a port of the bridge."""
        return Veth(
            name=host_link(endpoint.id),
            peer=container_link(endpoint.id),
            peer_mac=endpoint.mac,
            mtu=self.mtu(network, options),
            bridge=self.bridge(network, options),
            isolated=not options.icc,
        )

    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """A pair, and its published ports."""
        options = self.options(network)
        pair, ports = self.pair(network, endpoint, options), self._ports(network, endpoint, options)
        hairpin = not pair.isolated and any(isinstance(one, PortForward) for one in ports)
        return Plan(
            Owner.endpoint(endpoint.id), objects=(pair, Hairpin(pair.name)) if hairpin else (pair,), intents=ports
        )

    def _ports(self, network: Network, endpoint: Endpoint, options: B) -> tuple[Intent, ...]:
        """Tell what leads into the container: translated, relayed by the daemon, or at its own address."""
        addresses, trusted = endpoint.addresses, self.reached_by_trusted(options)
        but_from = None if options.icc else self.bridge(network, options)
        intents: list[Intent] = []
        open_ports: dict[OpenPort, None] = {}
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
                intents.append(PortForward(*to, but_from=but_from))
            if not port.host_port or address.version in trusted:
                open_ports[OpenPort(port.protocol, address, port.port)] = None
        return (*intents, *open_ports)

    def publishing(self, network: Network) -> Publishing:
        """On the host bindings; one that is given alone leaves out the other family, as in the engine's own driver."""
        options = self.options(network)
        if options.host_binding6 is not None:
            addresses: tuple[IPAddress, ...] = (options.host_binding4, options.host_binding6)
        elif int(options.host_binding4) or options.host_binding4.version == 6:
            addresses = (options.host_binding4,)
        else:
            addresses = (options.host_binding4, IPAddress("::"))
        untranslated = frozenset(version for version, what in self.admits(options).items() if what == "open")
        return Publishing(addresses, untranslated, isolated=not options.icc)

    def attachment(self, network: Network, endpoint: Endpoint) -> Attachment:
        """The veth's other end, and the bridge's addresses as gateways unless the network is internal."""
        ways, prefix = gateways(network, endpoint), self.options(network).prefix
        return Attachment(
            container_link(endpoint.id), prefix, ways.get(4), ways.get(6), leased_routes(network, endpoint)
        )


def check_host_bindings(options: BridgedOptions) -> None:
    """Refuse host bindings of one family. Raises InvalidOption."""
    if options.host_binding4.version == 6 and options.host_binding6 is not None:
        raise InvalidOption(
            f"host_binding_ipv4={options.host_binding4} and host_binding_ipv6={options.host_binding6} are both of IPv6;"
            " give one"
        )


def _check_other(network: Network, bridge: str, other: Network, other_bridge: str) -> None:
    if other_bridge == bridge:
        raise Conflict(f'bridge "{bridge}" belongs to network {other.id[:12]}; choose another name')
    for ours, theirs in product(network.subnets, other.subnets):
        if overlap(ours.pool, theirs.pool):
            raise NetworkInTheWay(
                f"subnet {ours.pool} overlaps {theirs.pool} of network {other.id[:12]}; choose another --subnet",
                other.id,
            )


def versions(network: Network) -> list[int]:
    """List the IP versions of a network's subnets."""
    return sorted({subnet.pool.version for subnet in network.subnets})


def forwarding(network: Network) -> tuple[Forwarding, ...]:
    """Have the host route for a network, unless it is internal."""
    return () if network.internal else tuple(map(Forwarding, versions(network)))


def localnet(bridge: str) -> LinkSysctl:
    """Have 127.0.0.1:port on the host lead into the network; the ruleset drops foreign packets to 127/8."""
    return LinkSysctl("ipv4", bridge, "route_localnet", "1")


def gateway_address(subnet: Subnet) -> IPNetwork:
    """Tell the address that the bridge takes in a subnet, with its prefix length."""
    return IPNetwork(f"{subnet.gateway}/{subnet.pool.prefixlen}")
