"""Where a container's address comes from; the source is chosen here.

| source | when |
|---|---|
| the engine's IPAM, or pynet's pools | before the endpoint: it comes with its address, which is checked |
| the LAN's DHCP server | with the endpoint, if the network has `dhcp` |
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from pynetdriver.addresses.dhcp_leases import DhcpLeases
from pynetdriver.addresses.gateways import Gateways
from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.source import Source
from pynetdriver.model import Endpoint, Network
from pynetdriver.state.registry import backend_of


class GivenAddresses(Source):
    """Addresses that the engine names; nobody else may have them, and their gateways should be there."""

    def __init__(self, neighbours: Neighbours, gateways: Gateways) -> None:
        self._neighbours = neighbours
        self._gateways = gateways

    async def obtain(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Refuse addresses that others have; note where there is no way out. Raises Conflict."""
        cut_off, _ = await asyncio.gather(
            self._gateways.cut_off(network, endpoint), self._neighbours.refuse_held(network, endpoint)
        )
        return replace(endpoint, cut_off=cut_off)


class Sources:
    """All sources."""

    def __init__(self, neighbours: Neighbours, gateways: Gateways, dhcp_leases: DhcpLeases) -> None:
        self._neighbours = neighbours
        self._given = GivenAddresses(neighbours, gateways)
        self._dhcp_leases = dhcp_leases
        self._all: tuple[Source, ...] = (self._given, dhcp_leases)

    def take_up(self) -> None:
        """Go on with endpoints that an earlier process made."""
        for source in self._all:
            source.take_up()

    def of(self, network: Network, endpoint: Endpoint) -> Source:
        """Choose where an endpoint's address comes from."""
        leased = backend_of(network).dhcp_client(network, endpoint) is not None
        return self._dhcp_leases if leased else self._given

    def forget(self, network: Network) -> None:
        """Drop a network that is gone. Raises PynetError."""
        self._neighbours.forget(network)
        for source in self._all:
            source.forget_network(network.id)

    def keep(self, network: Network, endpoint: Endpoint) -> None:
        """Take note of an endpoint that is there: its lease is renewed, its addresses are asked for no more."""
        for source in self._all:
            source.keep(endpoint)
        self._neighbours.taken_up(network, endpoint)

    def release(self, endpoint: Endpoint, *, is_free: bool) -> None:
        """Let go what an endpoint was given; an address that `is_free` is not kept for the next container."""
        for source in self._all:
            source.release(endpoint, is_free=is_free)

    async def close(self) -> None:
        """End, with all addresses kept."""
        for source in self._all:
            await source.close()
