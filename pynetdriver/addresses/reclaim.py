"""Addresses of pools that an engine may have released while pynet did not run: free if no endpoint has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from netaddr import IPAddress

from pynetdriver.model import Endpoint, Network
from pynetdriver.pool import PoolKey
from pynetdriver.state.liveness import Liveness
from pynetdriver.state.registry import Registry


class Reclaim:
    """Decides whether an address that a pool holds is in use on this host, and removes a dead endpoint that has it."""

    def __init__(self, registry: Registry, liveness: Liveness, remove_dead: Callable[[str], Awaitable[bool]]) -> None:
        """Ask these.

        Args:
            remove_dead: removes an endpoint, by its id, if it is dead, and tells whether it is gone.
        """
        self._registry = registry
        self._liveness = liveness
        self._remove_dead = remove_dead

    async def is_free(self, pool: PoolKey, address: IPAddress) -> bool:
        """Tell whether nobody has an address; of a pool that is no network's that is not known.

        A dead endpoint that had it is removed. Raises PynetError.
        """
        network = self._network_of(pool)
        if network is None or _is_the_networks_own(network, address):
            return False
        endpoint = self._registry.endpoints.get(self._registry.endpoint_at(network.id, address) or "")
        return endpoint is None or (await self._is_leaving(endpoint) and await self._remove_dead(endpoint.id))

    def _network_of(self, pool: PoolKey) -> Network | None:
        for network in self._registry.networks.values():
            if any((subnet.space, subnet.pool) == pool for subnet in network.subnets):
                return network
        return None

    async def _is_leaving(self, endpoint: Endpoint) -> bool:
        return endpoint.phase == "deleting" or await self._liveness.is_dead(endpoint)


def _is_the_networks_own(network: Network, address: IPAddress) -> bool:
    return any(address in (one.gateway, one.host, *one.aux) for one in network.subnets)
