"""Endpoints that the engine will not mention again, and removals that failed: looked for now and then."""

from __future__ import annotations

import asyncio
import time

import structlog

from pynetdriver.networks.removal import Removal
from pynetdriver.networks.repair import Repair
from pynetdriver.state.journal import Journal
from pynetdriver.state.liveness import Liveness, Sign
from pynetdriver.state.registry import Registry
from pynetdriver.watchdog.loop import run_loops

log = structlog.get_logger()

#: So many endpoints are checked before calls have their turn.
_PART = 100
_SWEEP_S = 30.0


class Sweep:
    """Removes dead endpoints, and finishes removals."""

    def __init__(
        self, registry: Registry, journal: Journal, liveness: Liveness, removal: Removal, repair: Repair
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._liveness = liveness
        self._removal = removal
        self._repair = repair
        #: Since when endpoints are in no sandbox.
        self._adrift: dict[str, float] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        await run_loops(self._sweep)

    async def _sweep(self) -> None:
        await asyncio.sleep(_SWEEP_S)
        await self._journal.retry()
        await self.remove_dead()

    async def remove_dead(self) -> None:
        """Remove endpoints that the engine will not mention again.

        Those are the ones whose link went with its sandbox, and those that are in no sandbox long after the
        engine would have put them there or deleted them.
        """
        now, plans = time.monotonic(), {}
        for number, endpoint in enumerate(list(self._registry.endpoints.values())):
            if endpoint.phase == "ready" and endpoint.network_id in self._registry.networks:
                plans[endpoint.id] = self._registry.endpoint_plan(endpoint)
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)
        looked = time.monotonic()
        signs = await self._liveness.signs(plans)
        adrift = {id: self._adrift.get(id, now) for id, sign in signs.items() if sign.is_adrift}
        for number, (id, sign) in enumerate(signs.items()):
            if sign.is_gone(now - adrift.get(id, now)):
                await self._remove(id, sign, looked)
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)
        self._adrift = adrift

    async def _remove(self, id: str, sign: Sign, looked: float) -> None:
        endpoint = self._registry.endpoints.get(id)
        if endpoint is None or endpoint.phase != "ready" or (endpoint.sandbox is not None) != sign.joined:
            return
        if max(self._registry.joined_at(id), self._registry.left_at(id)) >= looked:
            return  # it is another one's sandbox that was looked for
        plan = self._registry.endpoint_plan(endpoint)
        # A link that went with the one that it stood on is made again when that is back.
        if not sign.has_link and plan.lowers and await self._repair.is_there_again(endpoint, plan):
            return
        if self._registry.endpoints.get(id) is endpoint:
            log.info("endpoint is gone, removing what is left", endpoint=id[:12])
            await self._removal.remove_endpoint(id)
