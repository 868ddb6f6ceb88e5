"""The networks and endpoints that there are, with what each wants; all in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netaddr import IPAddress

from pynetdriver.backends import Backend, backend_named, interior
from pynetdriver.errors import Conflict, InvalidRequest
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import PREFIX_LENGTH
from pynetdriver.plan import Interior, Plan, Segment


class Registry:
    """Who is there, found by id, by address, by the name of the link."""

    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self.endpoints: dict[str, Endpoint] = {}
        #: Networks of which no engine has said anything since pynet started.
        self.unmentioned: set[str] = set()
        self._prefixes: set[str] = set()
        #: What endpoints want, as far as it was asked for; with thousands of ports that takes long to say.
        self._plans: dict[str, tuple[Network, Endpoint, Plan]] = {}
        #: Endpoints by the LAN and address that they have there, over all networks.
        self._by_lan: dict[tuple[str, IPAddress], str] = {}

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
        self.unmentioned.discard(id)
        return network

    def endpoint(self, network_id: str, id: str) -> Endpoint:
        """Find the endpoint that a call is about. Raises as `network` does."""
        endpoint = self.endpoints.get(id)
        if endpoint is None or endpoint.network_id != network_id:
            raise InvalidRequest(
                f"endpoint {id[:12]} is not known on network {network_id[:12]}; start the container again"
            )
        if endpoint.phase != "ready":
            raise Conflict(f"endpoint {endpoint.id[:12]} is being made or removed")
        return endpoint

    def on(self, network_id: str) -> list[Endpoint]:
        """List the endpoints of a network."""
        return [one for one in self.endpoints.values() if one.network_id == network_id]

    def holder(self, network_id: str, address: IPAddress) -> str | None:
        """Find the endpoint that has an address on the LAN of a network."""
        return self._by_lan.get((self._lan(network_id), address))

    def has_link_of(self, endpoint_id: str) -> bool:
        """Tell whether an endpoint's link would have the name of another one's."""
        return endpoint_id[:PREFIX_LENGTH] in self._prefixes

    def owns(self, owner: str) -> bool:
        """Tell whether a plan's owner is known still."""
        id = owner.partition(":")[2]
        return id in self.networks or id in self.endpoints

    def is_whole(self, network_id: str, id: str) -> bool:
        """Tell whether a network and, by its id, that or an endpoint on it are neither being made nor removed."""
        records = (self.networks.get(network_id), self.networks.get(id) or self.endpoints.get(id))
        return all(one is not None and one.phase == "ready" for one in records)

    def know(self, endpoint: Endpoint) -> None:
        """Take up an endpoint, or what became of it."""
        former = self.endpoints.get(endpoint.id)
        if former is not None:
            self._forget_addresses(former)
        self.endpoints[endpoint.id] = endpoint
        self._prefixes.add(endpoint.id[:PREFIX_LENGTH])
        lan = self._lan(endpoint.network_id)
        for address in endpoint.addresses.values():
            self._by_lan[lan, address] = endpoint.id

    def forget(self, endpoint: Endpoint) -> None:
        """Drop an endpoint."""
        self.endpoints.pop(endpoint.id, None)
        self._plans.pop(endpoint.id, None)
        self._prefixes.discard(endpoint.id[:PREFIX_LENGTH])
        self._forget_addresses(endpoint)

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
        """List the edges of networks whose packets pynet judges, but for networks that may yet be refused."""
        networks = (one for one in self.networks.values() if one.phase != "creating")
        return [one for network in networks for one in self.network_plan(network).segments]

    def interior(self, endpoint: Endpoint) -> Interior:
        """Tell what an endpoint's link is in its container."""
        network = self.networks[endpoint.network_id]
        return interior(backend_of(network).attachment(network, endpoint), endpoint)


def backend_of(network: Network) -> Backend[Any]:
    """Find a network's backend."""
    return backend_named(network.backend)
