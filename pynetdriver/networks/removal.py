"""Endpoints are removed: on the engine's request, or when one is found dead whose address or port is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from pynetdriver.addresses.sources import Sources
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.locks import Background
from pynetdriver.model import Endpoint, Network
from pynetdriver.networks.ports import Ports
from pynetdriver.state.journal import Journal
from pynetdriver.state.liveness import Liveness
from pynetdriver.state.registry import Registry

log = structlog.get_logger()

#: How long a container waits for the end of the one that it replaces.
SUCCESSION_S = 3
_AGAIN_S = 0.1


class Removal:
    """Removes endpoints, and reclaims what dead ones hold."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        liveness: Liveness,
        sources: Sources,
        ports: Ports,
        host_ports: HostPorts,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._liveness = liveness
        self._sources = sources
        self._ports = ports
        self._host_ports = host_ports
        self._in_background = Background()

    async def delete(self, endpoint_id: str) -> None:
        """Remove an endpoint of which the engine says so; its addresses are free.

        It goes on when the call is over: the engine will not ask again. Raises PynetError.
        """
        await self._in_background.to_the_end(self.remove_endpoint(endpoint_id, release=True))

    async def remove_endpoint(self, endpoint_id: str, *, release: bool = False) -> None:
        """Remove an endpoint; an unknown one is gone already. Raises PynetError.

        Args:
            release: its leased address is free then; else it is left to the container that comes in its place.
        """
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is None:
                return
            self._registry.know(replace(endpoint, phase="deleting"))
            self._sources.release(endpoint, is_free=release)
            try:
                await self._journal.delete(endpoint, self._registry.endpoint_plan(endpoint))
            finally:
                self._registry.forget(endpoint)
            await self._host_ports.all_released(endpoint.id)

    async def reclaim(self, endpoint_id: str | None) -> bool:
        """Remove an endpoint that only pynet still knows of: after a crash the engine does not say so.

        Tells whether it is gone. Raises PynetError.
        """
        endpoint = self._registry.endpoints.get(endpoint_id or "")
        if endpoint is None or endpoint.phase == "creating":
            return False
        while endpoint.phase == "ready" and not await self._liveness.is_dead(endpoint):
            # The kernel takes a moment to clear away the sandboxes of an engine that died.
            if not self._liveness.is_of_former_engine(endpoint) or time.monotonic() >= self._liveness.dying_until:
                return False
            await asyncio.sleep(_AGAIN_S)
            current = self._registry.endpoints.get(endpoint.id)
            if current is None:
                return True
            endpoint = current
        await self.remove_endpoint(endpoint.id)
        return True

    async def reclaim_ipv6(self, network_id: str, endpoint_id: str) -> None:
        """Have an endpoint of the network give up its IPv6 address if it has lost it. Raises PynetError."""
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.network_id == network_id and endpoint.phase == "ready":
                await self._ports.without_lost_ipv6(endpoint)

    async def reclaim_died(self, awaited: Endpoint, is_enough: Callable[[], bool]) -> None:
        """Remove endpoints of a network whose sandboxes died with an engine, before others come in their place.

        Waits for the kernel, for some seconds, while one like the awaited endpoint may be dying.
        """
        until = min(self._liveness.dying_until, time.monotonic() + SUCCESSION_S)
        while time.monotonic() < until and not is_enough():
            former = {
                one.id: one
                for one in self._registry.on(awaited.network_id)
                if one.phase == "ready" and one.sandbox and self._liveness.is_of_former_engine(one)
            }
            plans = {id: self._registry.endpoint_plan(one) for id, one in former.items()}
            for id, sign in (await self._liveness.signs(plans)).items():
                gone = not sign.has_link and not sign.lower_missing
                if gone and self._registry.endpoints.get(id) is former[id]:
                    await self.remove_endpoint(id)
            if is_enough() or not any(one.traits == awaited.traits for one in former.values()):
                return
            await asyncio.sleep(_AGAIN_S)

    async def is_lived_in(self, network: Network) -> bool:
        """Tell whether any endpoint of a network lives. Raises HostError."""
        return await self._liveness.is_lived_in(network)
