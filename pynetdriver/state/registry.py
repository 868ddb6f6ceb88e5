"""All networks and endpoints in memory, with their plans. Only its own methods change it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any

from netaddr import IPAddress

from pynetdriver.backends import Backend, backend_named, sandbox_interface
from pynetdriver.errors import Conflict, InvalidRequest
from pynetdriver.locks import Locks
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import PREFIX_LENGTH
from pynetdriver.plan import Owner, Plan, SandboxInterface, Segment


class Registry:
    """All networks and endpoints, found by id, by address, by the name of the link."""

    def __init__(self) -> None:
        self._networks: dict[str, Network] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self.networks: Mapping[str, Network] = MappingProxyType(self._networks)
        self.endpoints: Mapping[str, Endpoint] = MappingProxyType(self._endpoints)
        #: Held while a network or an endpoint is changed, by its id.
        self.lock = Locks()
        #: Networks that are not on the host as they should be; they are tried again before anything joins them.
        self.unsound: set[str] = set()
        self._unmentioned: set[str] = set()
        self._prefixes: set[str] = set()
        #: What endpoints want, as far as it was asked for; with thousands of ports that takes long to say.
        self._plans: dict[str, tuple[Network, Endpoint, Plan]] = {}
        #: Endpoints by the LAN and address that they have there, over all networks.
        self._by_lan: dict[tuple[str, IPAddress], str] = {}
        #: When endpoints joined a sandbox and left it, on the clock `time.monotonic`.
        self._joined: dict[str, float] = {}
        self._left: dict[str, float] = {}

    def take_up(self, networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> None:
        """Know what an earlier process made, of which the engine has said nothing yet."""
        for network in networks:
            self.know_network(network)
            self._unmentioned.add(network.id)
        for endpoint in endpoints:
            self.know(endpoint)

    def know_network(self, network: Network) -> None:
        """Take up a network, or what became of it."""
        self._networks[network.id] = network

    def forget_network(self, id: str) -> None:
        """Drop a network."""
        self._networks.pop(id, None)
        self._unmentioned.discard(id)
        self.unsound.discard(id)

    def mention(self, id: str) -> None:
        """Note that the engine knows a network."""
        self._unmentioned.discard(id)

    def is_mentioned(self, id: str) -> bool:
        """Tell whether an engine has said anything of a network since pynet started, or it was made since."""
        return id not in self._unmentioned

    def network(self, id: str) -> Network:
        """Find the network that a call is about.

        Raises:
            InvalidRequest: there is none.
            Conflict: it is being made or removed.
        """
        network = self.networks.get(id)
        if network is None:
            raise InvalidRequest(f"network {id[:12]} is not known to pynet; remove it and create it again")
        if network.phase != "ready":
            raise Conflict(f"network {id[:12]} is being made or removed")
        self.mention(id)
        return network

    def endpoint(self, network_id: str, id: str) -> Endpoint:
        """Find the endpoint that a call is about. Raises as `network` does."""
        endpoint = self.endpoints.get(id)
        if endpoint is None or endpoint.network_id != network_id:
            raise InvalidRequest(
                f"endpoint {id[:12]} is not known on network {network_id[:12]}; start the container again"
            )
        if endpoint.phase != "ready":
            raise Conflict(f"endpoint {id[:12]} is being made or removed")
        return endpoint

    def on(self, network_id: str) -> list[Endpoint]:
        """List the endpoints of a network."""
        return [one for one in self.endpoints.values() if one.network_id == network_id]

    def endpoint_at(self, network_id: str, address: IPAddress) -> str | None:
        """Find the endpoint that has an address on the LAN of a network."""
        return self._by_lan.get((self._lan(network_id), address))

    def has_link_of(self, endpoint_id: str) -> bool:
        """Tell whether an endpoint's link would have the name of another one's."""
        return endpoint_id[:PREFIX_LENGTH] in self._prefixes

    def owns(self, owner: Owner) -> bool:
        """Tell whether a plan's owner is known still."""
        return owner.id in self.networks or owner.id in self.endpoints

    def is_whole(self, network_id: str, id: str) -> bool:
        """Tell whether a network and, by its id, that or an endpoint on it are neither being made nor removed."""
        records = (self.networks.get(network_id), self.networks.get(id) or self.endpoints.get(id))
        return all(one is not None and one.phase == "ready" for one in records)

    def know(self, endpoint: Endpoint) -> None:
        """Take up an endpoint, or what became of it."""
        former = self.endpoints.get(endpoint.id)
        if former is not None:
            self._forget_addresses(former)
            if former.sandbox is None and endpoint.sandbox is not None:
                self._joined[endpoint.id] = time.monotonic()
            elif former.sandbox is not None and endpoint.sandbox is None:
                self._left[endpoint.id] = time.monotonic()
        self._endpoints[endpoint.id] = endpoint
        self._prefixes.add(endpoint.id[:PREFIX_LENGTH])
        lan = self._lan(endpoint.network_id)
        for address in endpoint.addresses.values():
            self._by_lan[lan, address] = endpoint.id

    def forget(self, endpoint: Endpoint) -> None:
        """Drop an endpoint."""
        self._endpoints.pop(endpoint.id, None)
        self._plans.pop(endpoint.id, None)
        self._joined.pop(endpoint.id, None)
        self._left.pop(endpoint.id, None)
        self._prefixes.discard(endpoint.id[:PREFIX_LENGTH])
        self._forget_addresses(endpoint)

    def joined_at(self, id: str) -> float:
        """Tell when an endpoint's link was about to move into its sandbox; -inf if that was before pynet's start."""
        return self._joined.get(id, -inf)

    def left_at(self, id: str) -> float:
        """Tell when an endpoint left its sandbox, in seconds as `time.monotonic` counts them; -inf if it never did."""
        return self._left.get(id, -inf)

    def _forget_addresses(self, endpoint: Endpoint) -> None:
        lan = self._lan(endpoint.network_id)
        for address in endpoint.addresses.values():
            if self._by_lan.get((lan, address)) == endpoint.id:
                del self._by_lan[lan, address]

    def _lan(self, network_id: str) -> str:
        """Name the LAN that a network's addresses are on: that of a link, or one of its own."""
        network = self.networks.get(network_id)
        lan = backend_of(network).lan(network) if network is not None else None
        return lan.link if lan is not None else network_id

    def network_plan(self, network: Network) -> Plan:
        """Tell what a network wants."""
        return backend_of(network).network_plan(network)

    def endpoint_plan(self, endpoint: Endpoint) -> Plan:
        """Tell what an endpoint wants."""
        network = self.networks[endpoint.network_id]
        known = self._plans.get(endpoint.id)
        if known is not None and known[0] is network and known[1] is endpoint:
            return known[2]
        plan = backend_of(network).endpoint_plan(network, endpoint)
        if endpoint.id in self.endpoints:
            self._plans[endpoint.id] = (network, endpoint, plan)
        return plan

    def plans(self) -> Iterable[Plan]:
        """Go through what all want, also those that are being made or removed."""
        yield from map(self.network_plan, self.networks.values())
        yield from (self.endpoint_plan(one) for one in self.endpoints.values() if one.network_id in self.networks)

    def segments(self) -> list[Segment]:
        """List the edges of networks whose packets pynet filters, but for networks that may yet be refused."""
        networks = (one for one in self.networks.values() if one.phase != "creating")
        return [one for network in networks for one in self.network_plan(network).segments]

    def sandbox_interface(self, endpoint: Endpoint) -> SandboxInterface:
        """Tell what an endpoint's link is in its container."""
        network = self.networks[endpoint.network_id]
        return sandbox_interface(backend_of(network).attachment(network, endpoint), endpoint)


def backend_of(network: Network) -> Backend[Any]:
    """Find a network's backend."""
    return backend_named(network.backend)
