"""Which endpoints live: the engine does not report all that die, so their links and ages are looked at."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from math import inf

from pynetdriver.kernel import Kernel
from pynetdriver.model import Endpoint, Network
from pynetdriver.plan import Plan
from pynetdriver.state.registry import Registry

#: The engine joins an endpoint at once after it made it, and deletes it at once after it left.
FORGOTTEN_S = 300
#: It moves the link into the sandbox at once after Join, or, up to engine 27, when the container's task is there.
MOVING_S = 60
#: How long the kernel takes at most to clear away the sandboxes of an engine that died.
DYING_S = 10
_PART = 100


@dataclass(frozen=True)
class Sign:
    """What tells whether an endpoint lives.

    `has_link` says that its link is on the host or in a container, `on_host` that the link which moves is on the host,
    `lower_missing` that what it stands on is gone, with which it went and is made again. `since_join` and `since_leave`
    are in seconds.
    """

    joined: bool
    has_link: bool
    on_host: bool
    lower_missing: bool
    since_join: float = inf
    since_leave: float = inf

    @property
    def may_give_way(self) -> bool:
        """Tell whether another endpoint may have what it holds.

        In no sandbox: the engine has promised its addresses to another one meanwhile. Its link gone: its sandbox went.
        Its link long on the host: it never moved, which up to engine 27 happens some time after Join.
        """
        if not self.joined:
            return True
        if not self.has_link:
            return not self.lower_missing
        return self.on_host and self.since_join >= MOVING_S

    def is_gone(self, adrift_s: float) -> bool:
        """Tell whether the engine will not mention it again; `adrift_s` says how long it is in no sandbox."""
        if self.since_leave < DYING_S:
            return False
        return adrift_s > FORGOTTEN_S or not (self.has_link or self.lower_missing)

    @property
    def is_adrift(self) -> bool:
        """Tell whether it is in no sandbox."""
        return not self.joined or self.on_host


class Liveness:
    """Tells whether endpoints are dead, from their links on the host and in sandboxes."""

    def __init__(self, registry: Registry, kernel: Kernel) -> None:
        """Know of no engine yet."""
        self._registry = registry
        self._kernel = kernel
        self._engine_since = -inf

    def engine_started(self) -> None:
        """Note that an engine introduced itself: sandboxes of one before it may be dead or dying."""
        self._engine_since = time.monotonic()

    @property
    def dying_until(self) -> float:
        """The end of the time within which sandboxes of a former engine may go, as `time.monotonic` counts."""
        return self._engine_since + DYING_S

    def is_of_former_engine(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint was joined before the engine introduced itself."""
        return self._registry.joined_at(endpoint.id) < self._engine_since

    async def signs(self, plans: dict[str, Plan]) -> dict[str, Sign]:
        """Look at endpoints, by id, whose plans are given; those that went meanwhile are left out. Raises HostError."""
        there, now = await self._kernel.links_of_plans(plans.values()), time.monotonic()
        signs = {}
        for number, (id, plan) in enumerate(plans.items()):
            endpoint = self._registry.endpoints.get(id)
            if endpoint is not None:
                has_link = there.has(plan)
                signs[id] = Sign(
                    joined=endpoint.sandbox is not None,
                    has_link=has_link,
                    on_host=not there.here.isdisjoint(plan.moving),
                    lower_missing=not has_link and self._kernel.netlink.is_missing(plan.lowers),
                    since_join=now - self._registry.joined_at(id),
                    since_leave=now - self._registry.left_at(id),
                )
            if number % _PART == _PART - 1:
                await asyncio.sleep(0)  # let calls go first
        return signs

    async def is_dead(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint may give way to one that needs what it holds. Raises HostError."""
        if endpoint.sandbox is None:
            return True
        signs = await self.signs({endpoint.id: self._registry.endpoint_plan(endpoint)})
        return endpoint.id not in signs or signs[endpoint.id].may_give_way

    async def is_lived_in(self, network: Network) -> bool:
        """Tell whether any endpoint of a network lives. Raises HostError."""
        for endpoint in self._registry.on(network.id):
            if not await self.is_dead(endpoint):
                return True
        return False
