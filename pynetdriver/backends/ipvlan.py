"""An ipvlan link per endpoint: containers share the parent's MAC, and are switched (l2) or routed (l3) by address."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import EVERYWHERE, Attachment, Lan, _parent, dhcp_station
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest
from pynetdriver.model import Endpoint, Network, Station
from pynetdriver.names import container_link
from pynetdriver.options import option, parse_options
from pynetdriver.plan import LinkSysctl, Plan, StaticRoute

#: linux/if_link.h, IPVLAN_MODE_… and IPVLAN_F_….
_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


@dataclass(frozen=True)
class Options(_parent.ParentOptions):
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


IMPLIED_BY = ("ipvlan_mode", "ipvlan_flag")
FOLLOWS_HOST = True


named_links = _parent.named_links


def skipped_gateways(given: Mapping[str, str], internal: bool) -> frozenset[int]:
    """Those of an internal network, and those in l3 modes, in which the link itself is the way out."""
    routed = parse_options(Options, given).mode != "l2"
    return frozenset({4, 6}) if internal or routed else frozenset()


def check(network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]) -> None:
    """Refuse what every parent does, and another mode or flag than the parent has."""
    options = _options(network)
    _parent.check(network, options, networks, addresses)
    if options.dhcp and options.mode != "l2":
        raise InvalidOption(f"dhcp=true contradicts ipvlan_mode={options.mode}, in which no broadcast leaves; use l2")
    if options.host_access and options.flag == "private":
        raise InvalidOption(
            "host_access contradicts ipvlan_flag=private, with which the kernel lets a container reach nothing else on"
            " this host; use ipvlan_flag=bridge"
        )
    parent = _parent.parent_name(network)
    for other in networks.values():
        if other.backend == network.backend and _parent.parent_name(other) == parent:
            theirs = _options(other)
            if (theirs.mode, theirs.flag) != (options.mode, options.flag):
                raise Conflict(
                    f'parent "{parent}" is in ipvlan_mode={theirs.mode} with ipvlan_flag={theirs.flag} for network'
                    f" {other.id[:12]}, and the kernel has one of each for a parent; use the same, a VLAN like"
                    f" parent={parent}.50, or another parent"
                )


def network_plan(network: Network) -> Plan:
    """The parent, and the host's own link on it.

    In l2 mode the kernel hands what a container sends to an address of the parent to the parent itself, while the
    answer goes by the host's own link (drivers/net/ipvlan/ipvlan_core.c): a strict reverse path filter would drop it.
    """
    options = _options(network)
    plan = _parent.network_plan(network, options, _attributes(options))
    if not options.host_access or options.mode != "l2":
        return plan
    loose = LinkSysctl("ipv4", _parent.parent_name(network) or "", "rp_filter", "2")
    return dataclasses.replace(plan, settings=(loose,))


def endpoint_plan(network: Network, endpoint: Endpoint) -> Plan:
    """An ipvlan link and the host's routes to it."""
    options = _options(network)
    return _parent.endpoint_plan(network, endpoint, options, _attributes(options))


def admitted(network: Network, endpoint: Endpoint) -> Endpoint:
    """Its MAC is the parent's, of which the engine need not be told."""
    if endpoint.mac_given:
        raise InvalidRequest("containers on ipvlan share their parent's MAC; leave --mac-address out, or use macvlan")
    parent = _parent.lower(network)
    mac = parent.mac if parent else endpoint.mac
    return replace(_parent.admitted(network, endpoint, _options(network)), mac=mac, mac_given=True)


def station(network: Network, endpoint: Endpoint) -> Station | None:
    """The parent's MAC, and a client id of the container's own (type 0: no hardware address, RFC 2132)."""
    if not _options(network).dhcp:
        return None
    return dhcp_station(_parent.parent_name(network) or "", endpoint, b"\0" + bytes.fromhex(endpoint.id[:24]))


def lan(network: Network) -> Lan | None:
    """The parent in l2 mode; in l3 modes nobody else is in the subnet."""
    options = _options(network)
    return _parent.lan(network, options) if options.mode == "l2" else None


def host_addresses(network: Network) -> dict[IPNetwork, IPAddress | None]:
    """Those of a network with host access."""
    return _parent.host_addresses(network, _options(network))


def publishing(network: Network) -> None:
    """Containers are reached at their own addresses."""


def attachment(network: Network, endpoint: Endpoint) -> Attachment:
    """The link, and the LAN's router in l2 mode; else everything is on the link."""
    options = _options(network)
    if options.mode == "l2":
        return _parent.attachment(network, endpoint, options)
    everywhere = [StaticRoute(EVERYWHERE[version]) for version in endpoint.addresses]
    return Attachment(container_link(endpoint.id), options.prefix, routes=() if network.internal else tuple(everywhere))


def _options(network: Network) -> Options:
    return parse_options(Options, network.options)


def _attributes(options: Options) -> _parent.Attributes:
    mode = (("mode", _MODES[options.mode]), ("flags", _FLAGS[options.flag]))
    return _parent.Attributes("ipvlan", mode, mode, own_mac=False)
