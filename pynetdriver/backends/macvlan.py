"""A macvlan link per endpoint: containers are machines of the LAN, with MACs of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import Attachment, Lan, _parent, dhcp_station, mac_client_id
from pynetdriver.errors import Conflict, InvalidOption
from pynetdriver.model import Endpoint, Network, Station
from pynetdriver.options import option, parse_options
from pynetdriver.plan import Plan, Promiscuity

#: linux/if_link.h, MACVLAN_MODE_….
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


@dataclass(frozen=True)
class Options(_parent.ParentOptions):
    """`docker network create -o`; names and meanings as in the engine's macvlan driver."""

    mode: str = option(
        "macvlan_mode",
        kind=kinds.choice("bridge", "private", "vepa", "passthru"),
        meaning="`bridge`: containers reach each other; `private`: they do not; `vepa`: they do by way of a switch "
        "that sends frames back (IEEE 802.1Qbg); `passthru`: one container has the parent for itself",
        default="bridge",
        unset="",
    )
    promiscuous: bool = option(
        "promiscuous",
        kind=kinds.boolean,
        meaning="the parent takes in frames for all MACs while the network lives",
        default=False,
    )


IMPLIED_BY = ("macvlan_mode",)
FOLLOWS_HOST = True


named_links = _parent.named_links


def skipped_gateways(given: Mapping[str, str], internal: bool) -> frozenset[int]:
    """Those of an internal network, which has no way out."""
    return frozenset({4, 6}) if internal else frozenset()


def check(network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]) -> None:
    """Refuse what every parent does, and what modes exclude."""
    options = _options(network)
    _parent.check(network, options, networks, addresses)
    if options.host_access and options.mode in ("private", "passthru"):
        raise InvalidOption(
            f"host_access contradicts macvlan_mode={options.mode}, in which the kernel lets a container reach nothing"
            " else on this host; use macvlan_mode=bridge"
        )
    if options.promiscuous and network.internal and options.parent is None:
        raise InvalidOption("promiscuous contradicts --internal without a parent; leave one out")
    parent = _parent.parent_name(network)
    for other in networks.values():
        shared = other.backend == network.backend and _parent.parent_name(other) == parent
        if shared and "passthru" in (options.mode, _options(other).mode):
            raise Conflict(
                f'parent "{parent}" carries network {other.id[:12]}, and macvlan_mode=passthru shares it with no'
                " other; use another parent"
            )


def network_plan(network: Network) -> Plan:
    """The parent, its promiscuity, and the host's own link on it."""
    options = _options(network)
    plan = _parent.network_plan(network, options, _attributes(options))
    if not options.promiscuous:
        return plan
    return dataclasses.replace(plan, settings=(Promiscuity(_parent.parent_name(network) or ""),))


def endpoint_plan(network: Network, endpoint: Endpoint) -> Plan:
    """A macvlan link and the host's routes to it."""
    options = _options(network)
    return _parent.endpoint_plan(network, endpoint, options, _attributes(options))


def admitted(network: Network, endpoint: Endpoint) -> Endpoint:
    """In passthru mode a container that was given no MAC has the parent's: another would become the parent's too."""
    options = _options(network)
    endpoint = _parent.admitted(network, endpoint, options)
    parent = _parent.lower(network)
    if options.mode == "passthru" and not endpoint.mac_given and parent:
        endpoint = replace(endpoint, mac=parent.mac, mac_given=True)
    if options.dhcp and endpoint.mac_given:
        endpoint = replace(endpoint, client_id=mac_client_id(endpoint.mac).hex())
    return endpoint


def station(network: Network, endpoint: Endpoint) -> Station | None:
    """The container's MAC, on the parent."""
    if not _options(network).dhcp:
        return None
    return dhcp_station(_parent.parent_name(network) or "", endpoint, mac_client_id(endpoint.mac))


def lan(network: Network) -> Lan | None:
    """The parent."""
    return _parent.lan(network, _options(network))


def host_addresses(network: Network) -> dict[IPNetwork, IPAddress | None]:
    """Those of a network with host access."""
    return _parent.host_addresses(network, _options(network))


def publishing(network: Network) -> None:
    """Containers are reached at their own addresses."""


def attachment(network: Network, endpoint: Endpoint) -> Attachment:
    """The link and the LAN's router."""
    return _parent.attachment(network, endpoint, _options(network))


def _options(network: Network) -> Options:
    return parse_options(Options, network.options)


def _attributes(options: Options) -> _parent.Attributes:
    return _parent.Attributes(
        "macvlan", (("mode", _MODES[options.mode]),), (("mode", _MODES["bridge"]),), own_mac=options.mode != "passthru"
    )
