"""Endpoints that the engine will not mention again: found, and removed so that others get what they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf

import structlog

from pynetdriver.healing import Healing
from pynetdriver.kernel import Kernel
from pynetdriver.model import Endpoint, Network
from pynetdriver.registry import Registry

log = structlog.get_logger()

#: The engine joins an endpoint at once after it made it, and deletes it at once after it left.
FORGOTTEN_S = 300
#: It moves the link into the sandbox at once after Join, or, up to engine 27, when the container's task is there.
MOVING_S = 60
DYING_S = 10
#: How long a container waits for the one in whose place it comes.
SUCCESSION_S = 3


class Collector:
    """Tells who is dead, and has them removed."""

    def __init__(
        self, registry: Registry, kernel: Kernel, healing: Healing, delete: Callable[[str], Awaitable[None]]
    ) -> None:
        """Know of no engine yet; `delete` removes an endpoint by its id."""
        self._registry = registry
        self._kernel = kernel
        self._healing = healing
        self._delete = delete
        self._engine_since = -inf
        self._joined: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._adrift: dict[str, float] = {}

    def engine_started(self) -> None:
        """Note that an engine introduced itself: sandboxes of one before it may be dead or dying."""
        self._engine_since = time.monotonic()

    def joined(self, endpoint_id: str) -> None:
        """Note that an endpoint's link is about to move."""
        self._joined[endpoint_id] = time.monotonic()

    def left(self, endpoint_id: str) -> None:
        """Note that an endpoint's link went with its sandbox, and that the engine will delete or join it at once."""
        self._left[endpoint_id] = time.monotonic()

    def forget(self, endpoint_id: str) -> None:
        """Drop an endpoint."""
        self._joined.pop(endpoint_id, None)
        self._left.pop(endpoint_id, None)

    async def collect_dead(self) -> None:
        """Remove endpoints that the engine will not mention again.

        Those are the ones whose link went with its sandbox, and those that are in no sandbox long after the
        engine would have put them there or deleted them.
        """
        now, plans = time.monotonic(), {}
        for number, endpoint in enumerate(list(self._registry.endpoints.values())):
            if endpoint.phase == "ready" and endpoint.network_id in self._registry.networks:
                plans[endpoint.id] = self._registry.endpoint_plan(endpoint)
            if number % 100 == 99:
                await asyncio.sleep(0)  # let calls go first
        there = await self._kernel.links_of_plans(plans.values())
        adrift: dict[str, float] = {}
        for number, (id, plan) in enumerate(plans.items()):
            if id not in self._registry.endpoints or self._registry.endpoints[id].phase != "ready":
                continue
            endpoint = self._registry.endpoints[id]
            if endpoint.sandbox is None or not there.here.isdisjoint(plan.moving):
                adrift[id] = self._adrift.get(id, now)
            forgotten = now - adrift.get(id, now) > FORGOTTEN_S
            # A link that went with the one that it stood on is made again when that is back.
            gone = forgotten or not (there.has(plan) or self._kernel.netlink.is_missing(plan.lowers))
            if gone and not forgotten and plan.lowers:
                gone = not await self._healing.is_revived(endpoint, plan)
            gone = gone and now - self._left.get(id, -inf) >= DYING_S
            if gone and self._registry.endpoints.get(id) is endpoint:
                log.info("endpoint is gone, removing what is left", endpoint=id[:12])
                await self._delete(id)
            if number % 100 == 99:
                await asyncio.sleep(0)
        self._adrift = adrift

    async def collect_if_dead(self, endpoint_id: str | None) -> bool:
        """Remove an endpoint that only we still know of: after a crash the engine does not say so."""
        endpoint = self._registry.endpoints.get(endpoint_id or "")
        if endpoint is None or endpoint.phase == "creating":
            return False
        while endpoint.phase == "ready" and not await self.is_dead(endpoint):
            # The kernel takes a moment to clear away the sandboxes of an engine that died.
            stale = self._joined.get(endpoint.id, -inf) < self._engine_since
            if not stale or time.monotonic() >= self._engine_since + DYING_S:
                return False
            await asyncio.sleep(0.1)
            current = self._registry.endpoints.get(endpoint.id)
            if current is None:
                return True
            endpoint = current
        await self._delete(endpoint.id)
        return True

    async def collect_died(self, awaited: Endpoint, is_enough: Callable[[], bool]) -> None:
        """Remove endpoints of a network whose sandboxes died with an engine, before others come in their place.

        Waits for the kernel, for some seconds, while one like the awaited endpoint may be dying.
        """
        until = min(self._engine_since + DYING_S, time.monotonic() + SUCCESSION_S)
        while time.monotonic() < until and not is_enough():
            plans = {
                one.id: (one, self._registry.endpoint_plan(one))
                for one in self._registry.on(awaited.network_id)
                if one.phase == "ready" and one.sandbox and self._joined.get(one.id, -inf) < self._engine_since
            }
            there = await self._kernel.links_of_plans([plan for _, plan in plans.values()])
            for endpoint, plan in plans.values():
                gone = not there.has(plan) and not self._kernel.netlink.is_missing(plan.lowers)
                if gone and self._registry.endpoints.get(endpoint.id) is endpoint:
                    await self._delete(endpoint.id)
            if is_enough() or not any(one.traits == awaited.traits for one, _ in plans.values()):
                return
            await asyncio.sleep(0.1)

    async def is_dead(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint may give way to one that needs what it holds.

        It may if it is in no sandbox: the engine has promised its addresses to another one meanwhile. Up to
        engine 27 the link moves into the sandbox some time after Join.
        """
        plan = self._registry.endpoint_plan(endpoint)
        if endpoint.sandbox is None:
            return True
        there = await self._kernel.links_of_plans([plan])
        if not there.has(plan):
            return not self._kernel.netlink.is_missing(plan.lowers)
        moved = there.here.isdisjoint(plan.moving)
        return not moved and time.monotonic() - self._joined.get(endpoint.id, -MOVING_S) >= MOVING_S

    async def is_lived_in(self, network: Network) -> bool:
        for endpoint in [one for one in self._registry.endpoints.values() if one.network_id == network.id]:
            if not await self.is_dead(endpoint):
                return True
        return False
