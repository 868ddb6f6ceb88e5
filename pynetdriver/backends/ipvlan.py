"""An ipvlan link per endpoint: containers share the parent's MAC, and are switched (l2) or routed (l3) by address."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace
from netaddr import IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import EVERYWHERE, Attachment, Lan
from pynetdriver.backends._parent import Attributes, ParentBackend, ParentOptions, lower, parent_name
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import container_link
from pynetdriver.options import option, parse_options
from pynetdriver.plan import LinkSysctl, Plan, StaticRoute

#: linux/if_link.h, IPVLAN_MODE_… and IPVLAN_F_….
_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


@dataclass(frozen=True)
class IpvlanOptions(ParentOptions):
    """`docker network create -o`; names and meanings as in the engine's ipvlan driver."""

    mode: str = option(
        "ipvlan_mode",
        kind=kinds.choice(*_MODES),
        meaning="`l2`: containers are on the LAN; `l3`: the host routes for them, without ARP and broadcasts, and the "
        "LAN's router needs a route to the subnet; `l3s`: the same, and the host's firewall sees the packets",
        default="l2",
        unset="",
    )
    flag: str = option(
        "ipvlan_flag",
        kind=kinds.choice(*_FLAGS),
        meaning="`bridge`: containers reach each other; `private`: they do not; `vepa`: they do by way of a switch "
        "that sends frames back",
        default="bridge",
        unset="",
    )


class IpvlanBackend(ParentBackend[IpvlanOptions]):
    """Containers are reached at their own addresses, by the parent's MAC."""

    Options = IpvlanOptions
    IMPLIED_BY = ("ipvlan_mode", "ipvlan_flag")

    def attributes(self, options: IpvlanOptions) -> Attributes:
        """All links on a parent are of one mode and flag."""
        mode = (("mode", _MODES[options.mode]), ("flags", _FLAGS[options.flag]))
        return Attributes("ipvlan", mode, mode, own_mac=False)

    def client_id(self, endpoint: Endpoint) -> bytes:
        """One of the container's own, whose MAC is not (type 0: no hardware address, RFC 2132)."""
        return b"\0" + bytes.fromhex(endpoint.id[:24])

    def skipped_gateways(self, given: Mapping[str, str], internal: bool) -> frozenset[int]:
        """Those of an internal network, and those in l3 modes, in which the link itself is the way out."""
        routed = parse_options(self.Options, given).mode != "l2"
        return super().skipped_gateways(given, internal or routed)

    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse what every parent does, and another mode or flag than the parent has."""
        super().check(network, networks, addresses)
        options = self.options(network)
        if options.dhcp and options.mode != "l2":
            raise InvalidOption(
                f"dhcp=true contradicts ipvlan_mode={options.mode}, in which no broadcast leaves; use l2"
            )
        if options.host_access and options.flag == "private":
            raise InvalidOption(
                "host_access contradicts ipvlan_flag=private, with which the kernel lets a container reach nothing"
                " else on this host; use ipvlan_flag=bridge"
            )
        parent = parent_name(network)
        for other in networks.values():
            if other.backend == network.backend and parent_name(other) == parent:
                theirs = self.options(other)
                if (theirs.mode, theirs.flag) != (options.mode, options.flag):
                    raise Conflict(
                        f'parent "{parent}" is in ipvlan_mode={theirs.mode} with ipvlan_flag={theirs.flag} for network'
                        f" {other.id[:12]}, and the kernel has one of each for a parent; use the same, a VLAN like"
                        f" parent={parent}.50, or another parent"
                    )

    def network_plan(self, network: Network) -> Plan:
        """The parent, and the host's own link on it.

        In l2 mode the kernel hands what a container sends to an address of the parent to the parent itself, while the
        answer goes by the host's own link (drivers/net/ipvlan/ipvlan_core.c): a strict reverse path filter would drop
        it.
        """
        options, plan = self.options(network), super().network_plan(network)
        if not options.host_access or options.mode != "l2":
            return plan
        loose = LinkSysctl("ipv4", parent_name(network) or "", "rp_filter", "2")
        return dataclasses.replace(plan, settings=(loose,))

    def admitted(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Its MAC is the parent's, of which the engine need not be told."""
        if endpoint.mac_given:
            raise InvalidRequest(
                "containers on ipvlan share their parent's MAC; leave --mac-address out, or use macvlan"
            )
        parent = lower(network)
        mac = parent.mac if parent else endpoint.mac
        return replace(super().admitted(network, endpoint), mac=mac, mac_given=True)

    def lan(self, network: Network) -> Lan | None:
        """The parent in l2 mode; in l3 modes nobody else is in the subnet."""
        return super().lan(network) if self.options(network).mode == "l2" else None

    def attachment(self, network: Network, endpoint: Endpoint) -> Attachment:
        """The link, and the LAN's router in l2 mode; else everything is on the link."""
        options = self.options(network)
        if options.mode == "l2":
            return super().attachment(network, endpoint)
        everywhere = () if network.internal else tuple(StaticRoute(EVERYWHERE[one]) for one in endpoint.addresses)
        return Attachment(container_link(endpoint.id), options.prefix, routes=everywhere)
