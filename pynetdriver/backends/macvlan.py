"""A macvlan link per endpoint: containers are machines of the LAN, with MACs of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace
from netaddr import IPNetwork

from pynetdriver import options as kinds
from pynetdriver.backends import mac_client_id, with_mac_client_id
from pynetdriver.backends._parent import Attributes, ParentBackend, ParentOptions, lower, parent_name
from pynetdriver.errors import Conflict, InvalidOption
from pynetdriver.model import Endpoint, Network
from pynetdriver.options import option
from pynetdriver.plan import Plan, Promiscuity

#: linux/if_link.h, MACVLAN_MODE_….
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}


@dataclass(frozen=True)
class MacvlanOptions(ParentOptions):
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


class MacvlanBackend(ParentBackend[MacvlanOptions]):
    """Containers are reached at their own addresses, by their own MACs."""

    Options = MacvlanOptions
    IMPLIED_BY = ("macvlan_mode",)

    def attributes(self, options: MacvlanOptions) -> Attributes:
        """In passthru mode the one link has the parent's MAC."""
        mode, shim = (("mode", _MODES[options.mode]),), (("mode", _MODES["bridge"]),)
        return Attributes("macvlan", mode, shim, own_mac=options.mode != "passthru")

    def client_id(self, endpoint: Endpoint) -> bytes:
        """The container's MAC."""
        return mac_client_id(endpoint.mac)

    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse what every parent does, and what modes exclude."""
        super().check(network, networks, addresses)
        options = self.options(network)
        if options.host_access and options.mode in ("private", "passthru"):
            raise InvalidOption(
                f"host_access contradicts macvlan_mode={options.mode}, in which the kernel lets a container reach"
                " nothing else on this host; use macvlan_mode=bridge"
            )
        if options.promiscuous and network.internal and options.parent is None:
            raise InvalidOption("promiscuous contradicts --internal without a parent; leave one out")
        parent = parent_name(network)
        for other in networks.values():
            shared = other.backend == network.backend and parent_name(other) == parent
            if shared and "passthru" in (options.mode, self.options(other).mode):
                raise Conflict(
                    f'parent "{parent}" carries network {other.id[:12]}, and macvlan_mode=passthru shares it with no'
                    " other; use another parent"
                )

    def network_plan(self, network: Network) -> Plan:
        """The parent, its promiscuity, and the host's own link on it."""
        plan = super().network_plan(network)
        if not self.options(network).promiscuous:
            return plan
        return dataclasses.replace(plan, settings=(Promiscuity(parent_name(network) or ""),))

    def admitted(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """In passthru mode one without a given MAC has the parent's: another would become the parent's too."""
        options, parent = self.options(network), lower(network)
        endpoint = super().admitted(network, endpoint)
        if options.mode == "passthru" and not endpoint.mac_given and parent:
            endpoint = replace(endpoint, mac=parent.mac, mac_given=True)
        return with_mac_client_id(endpoint) if options.dhcp else endpoint
