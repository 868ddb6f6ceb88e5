"""Endpoints are made: a container's address, and its link on the host."""

from __future__ import annotations

from functools import partial

import structlog
from msgspec.structs import replace

from pynetdriver.addresses.sources import Sources
from pynetdriver.errors import Conflict
from pynetdriver.model import Endpoint, Network
from pynetdriver.networks.removal import Removal
from pynetdriver.networks.repair import Repair
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry

log = structlog.get_logger()


class Endpoints:
    """Makes endpoints, all in the journal first."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        removal: Removal,
        repair: Repair,
        sources: Sources,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._removal = removal
        self._repair = repair
        self._sources = sources

    async def create(self, endpoint: Endpoint) -> Endpoint:
        """Make an endpoint's link; the same request again is answered again.

        Returns:
            The endpoint with what pynet found for it.

        Raises:
            PynetError: it cannot be made, and nothing of it is left.
        """
        network = self._registry.network(endpoint.network_id)
        async with self._registry.lock(endpoint.id):
            known = self._registry.endpoints.get(endpoint.id)
            if known is not None:
                if _as_requested(known) != _as_requested(endpoint):
                    raise Conflict(f"endpoint {endpoint.id[:12]} exists already, made differently or being removed")
                return known
            if self._registry.has_link_of(endpoint.id):
                raise Conflict(f"endpoint {endpoint.id[:12]} has the link name of another; start the container again")
            await self._reclaim_addresses(endpoint)
            self._registry.network(network.id)
            self._registry.know(replace(endpoint, phase="creating"))
            try:
                endpoint = await self._addressed(network, endpoint)
                self._registry.know(replace(endpoint, phase="creating"))
                await self._repair.make_whole(network.id)
                await self._journal.create(endpoint, self._registry.endpoint_plan(endpoint))
            except BaseException:
                self._sources.release(endpoint, is_free=True)
                self._registry.forget(endpoint)
                raise
            self._registry.know(endpoint)
            self._sources.keep(network, endpoint)
        return endpoint

    async def _reclaim_addresses(self, endpoint: Endpoint) -> None:
        """Have the addresses of an endpoint to come, those of dead ones included. Raises Conflict."""
        await self._journal.finish(lambda record, _: _has_address_of(record, endpoint))
        for address in endpoint.addresses.values():
            other = self._registry.endpoint_at(endpoint.network_id, address)
            if not await self._removal.reclaim(other) and other and address.version == 6:
                await self._removal.reclaim_ipv6(endpoint.network_id, other)
        for address in endpoint.addresses.values():
            other = self._registry.endpoint_at(endpoint.network_id, address)
            if other is not None:
                where = self._registry.endpoints[other].network_id
                which = "the same network" if where == endpoint.network_id else f"network {where[:12]}"
                raise Conflict(f"address {address} is in use by endpoint {other[:12]} of {which}")

    async def _addressed(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Give an endpoint to come the addresses that it is to have. Raises PynetError."""
        source = self._sources.of(network, endpoint)
        await self._removal.reclaim(source.predecessor(endpoint))
        await self._removal.reclaim_died(endpoint, partial(source.is_settled, endpoint))
        return await source.obtain(network, endpoint)


def _has_address_of(record: Network | Endpoint, endpoint: Endpoint) -> bool:
    """Tell whether an endpoint that is not wholly removed has an address of another one."""
    return isinstance(record, Endpoint) and not set(endpoint.addresses.values()).isdisjoint(record.addresses.values())


def _as_requested(endpoint: Endpoint) -> str:
    """Leave out what became of it, and what a DHCP server gave.

    As text, since networks of one subnet are equal whatever their own addresses are.
    """
    address4 = None if endpoint.lease else endpoint.address4
    mac = endpoint.mac if endpoint.mac_given else ""
    became = {"sandbox": None, "ports": (), "lease": None, "client_id": "", "cut_off": (), "released6": None}
    address6 = endpoint.address6 or endpoint.released6
    return str(replace(endpoint, **became, address4=address4, address6=address6, mac=mac))
