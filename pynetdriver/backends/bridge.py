"""A Linux bridge per network, a veth pair per endpoint; what the engine's own bridge driver makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from netaddr import IPAddress

from pynetdriver import options as kinds
from pynetdriver.backends import (
    IPV6_MINIMUM_MTU,
    Lan,
    check_dhcp,
    client_on,
    conflict_check_option,
    dhcp_option,
    has_ipv6,
    mac_client_id,
    with_mac_client_id,
)
from pynetdriver.backends._bridged import (
    Admits,
    BridgedBackend,
    BridgedOptions,
    check_host_bindings,
    forwarding,
    gateway_address,
    localnet,
)
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest
from pynetdriver.model import DhcpClient, Endpoint, Link, Network, Subnet
from pynetdriver.names import ENGINE_BRIDGE, OUR_NAMES, bridge_name, host_link
from pynetdriver.options import option, parse_options
from pynetdriver.plan import Address, Adopted, Bridge, Guard, Intent, LinkSysctl, Member, Owner, Plan, Segment, Veth

#: Gateway modes, and what each lets in from elsewhere.
_ADMITS: dict[str, Admits] = {
    "nat": "published",
    "nat-unprotected": "all",
    "routed": "open",
    "isolated": "published",
}
_mode = kinds.choice(*_ADMITS)


def _parse_default_bridge(text: str) -> bool:
    if kinds.boolean.parse(text):
        raise ValueError
    return False


@dataclass(frozen=True)
class BridgeOptions(BridgedOptions):
    """`docker network create -o`; names and meanings as in the engine's bridge driver."""

    bridge: str | None = option(
        "com.docker.network.bridge.name",
        kind=kinds.link_name,
        meaning="name of the bridge; one that exists is adopted, and stays when the network goes",
        default=None,
        shown="`pn-` and 12 characters of the network's id",
        unset="",
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


class BridgeBackend(BridgedBackend[BridgeOptions]):
    """A bridge of the network's own, or one that was there and is adopted: then it leads to a LAN."""

    Options = BridgeOptions

    def named_links(self, network: Network, uplink: str | None) -> tuple[str, ...]:
        """The bridge, if the user named one: it may exist."""
        name = self.options(network).bridge
        return (name,) if name else ()

    def skipped_gateways(self, given: Mapping[str, str], internal: bool) -> frozenset[int]:
        """Families whose gateway address would be on no link."""
        options = parse_options(self.Options, given)
        return frozenset({*_hostless(options), *((4,) if options.inhibit4 and internal else ())})

    def admits(self, options: BridgeOptions) -> Mapping[int, Admits]:
        """What the gateway modes say."""
        return {version: _ADMITS[mode] for version, mode in _modes(options).items()}

    def source(self, options: BridgeOptions, version: int) -> IPAddress | Literal["link"] | None:
        """The address of the host that the user named, if one is taken at all."""
        source = super().source(options, version)
        return source and (_sources(options)[version] or source)

    def reached_by_trusted(self, options: BridgeOptions) -> frozenset[int]:
        """Those in which ports are the only way in."""
        modes = _modes(options).items() if options.trusted else ()
        return frozenset(version for version, mode in modes if mode == "nat")

    def default_mtu(self, network: Network, options: BridgeOptions) -> int:
        """That of an adopted bridge."""
        adopted = self._adopted(network, options)
        return adopted.mtu if adopted else super().default_mtu(network, options)

    def has_gateway(self, subnet: Subnet, options: BridgeOptions) -> bool:
        """Not if that is inhibited, nor in an isolated network."""
        version = subnet.pool.version
        inhibited = (options.inhibit4 and version == 4) or version in _hostless(options)
        return super().has_gateway(subnet, options) and not inhibited

    def segment(self, network: Network, options: BridgeOptions) -> Segment:
        """The edge, as gateway modes and trust have it; an adopted bridge is shared with others."""
        segment = super().segment(network, options)
        return dataclasses.replace(
            segment,
            anti_spoof=options.anti_spoof,
            trusted=options.trusted,
            shared=self._adopted(network, options) is not None,
            hostless=tuple(one.version for one in segment.crossings if one.version in _hostless(options)),
        )

    def check_options(self, network: Network, options: BridgeOptions, addresses: set[IPAddress]) -> None:
        """Refuse contradictions, and an address to take outside that is not the host's."""
        link = self._found(network, options)
        if link is not None and options.mtu is None and link.mtu < IPV6_MINIMUM_MTU and has_ipv6(network):
            raise InvalidRequest(
                f'bridge "{link.name}" has MTU {link.mtu}, and IPv6 needs {IPV6_MINIMUM_MTU}; raise it'
            )
        check_host_bindings(options)
        if options.dhcp:
            check_dhcp(network)
            if not self._adopted(network, options):
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

    def check_bridge(self, network: Network, options: BridgeOptions) -> None:
        """Refuse a link that is no bridge, and names that the engine or pynet gives."""
        name, link = self.bridge(network, options), self._found(network, options)
        if link is not None and (link.kind != Bridge.kind or link.master):
            what = f'a port of "{link.master}"' if link.master else f"a {link.kind}, not a bridge"
            raise Conflict(f'"{name}" exists on this host and is {what}; choose another name')
        if ENGINE_BRIDGE.fullmatch(name):
            raise Conflict(f'"{name}" is a name that the engine gives to bridges of its own; choose another one')
        if OUR_NAMES.fullmatch(name) and name != bridge_name(network.id):
            raise Conflict(f'"{name}" is a name that pynet gives to links of its own; choose another one')

    def network_plan(self, network: Network) -> Plan:
        """A bridge with its gateway addresses; of one that was there before, only the addresses that it lacks."""
        options = self.options(network)
        adopted = self._adopted(network, options)
        if adopted is None:
            return super().network_plan(network)
        name, there = adopted.name, {one.ip for one in adopted.addresses}
        sysctls = [localnet(name)]
        if has_ipv6(network):
            sysctls.append(LinkSysctl("ipv6", name, "disable_ipv6", "0"))
        # Without it the kernel would take the user's addresses along with a gateway that came before them.
        sysctls.append(LinkSysctl("ipv4", name, "promote_secondaries", "1"))
        addresses = (
            Address(name, gateway_address(one), stays=True)
            for one in network.subnets
            if self.has_gateway(one, options) and one.gateway not in there
        )
        return Plan(
            Owner.network(network.id),
            (*forwarding(network), *sysctls),
            (Adopted(name, adopted.mtu, adopted.up), *addresses),
            (self.segment(network, options),),
        )

    def pair(self, network: Network, endpoint: Endpoint, options: BridgeOptions) -> Veth:
        """A port of an adopted bridge is locked; the container's end has the MTU that a DHCP server named, if less."""
        pair = super().pair(network, endpoint, options)
        leased = endpoint.lease.mtu if endpoint.lease else None
        locked = self._adopted(network, options) is not None and (options.anti_spoof or network.internal)
        is_less = leased is not None and options.mtu is None and leased < pair.mtu
        return dataclasses.replace(pair, locked=locked, peer_mtu=leased if is_less else None)

    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """A pair and its published ports; on an adopted bridge also what keeps the container to what is its own."""
        plan = super().endpoint_plan(network, endpoint)
        options, link = self.options(network), host_link(endpoint.id)
        if not self._adopted(network, options):
            return plan
        own: list[Intent] = [Member(self.bridge(network, options), endpoint.mac)]
        own += [Guard(link, "ra")] if options.ra_guard else []
        own += [Guard(link, "dhcp")] if options.dhcp_guard else []
        return dataclasses.replace(plan, intents=(*own, *plan.intents))

    def admitted(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Any endpoint; one whose MAC was given is itself for a DHCP server."""
        return with_mac_client_id(endpoint) if self.options(network).dhcp else endpoint

    def dhcp_client(self, network: Network, endpoint: Endpoint) -> DhcpClient | None:
        """The container's MAC on the bridge; what is for that alone passes at the host's end of its pair."""
        options = self.options(network)
        if not options.dhcp:
            return None
        return client_on(
            self.bridge(network, options), endpoint, mac_client_id(endpoint.mac), (host_link(endpoint.id),)
        )

    def lan(self, network: Network) -> Lan | None:
        """The bridge if it was adopted; on one of its own a network is by itself."""
        options = self.options(network)
        adopted = self._adopted(network, options)
        return Lan(adopted.name, options.conflict_check) if adopted else None

    def _found(self, network: Network, options: BridgeOptions) -> Link | None:
        return network.facts.link(self.bridge(network, options))

    def _adopted(self, network: Network, options: BridgeOptions) -> Link | None:
        """Find the bridge as it was if others made it."""
        link = self._found(network, options)
        return link if link is not None and not link.ours else None


def _modes(options: BridgeOptions) -> dict[int, str]:
    return {4: options.mode4, 6: options.mode6}


def _sources(options: BridgeOptions) -> dict[int, IPAddress | None]:
    return {4: options.source4, 6: options.source6}


def _hostless(options: BridgeOptions) -> frozenset[int]:
    return frozenset(version for version, mode in _modes(options).items() if mode == "isolated")
