"""The engine beside pynet: its bridges and its rules are followed as they change."""

from __future__ import annotations

import asyncio
import contextlib
import time

from pynetdriver.kernel import Kernel
from pynetdriver.names import OUR_NAMES
from pynetdriver.state.docker_user import DockerUser
from pynetdriver.state.registry import Registry
from pynetdriver.watchdog.loop import PAUSE_S, run_loops
from pynetdriver.watchdog.repairs import Repairs
from pynetdriver.watchdog.sweep import Sweep

#: After an engine introduced itself or made a bridge, its rules come within seconds.
_LOOKS_S = (0.0, 1.0, 3.0, 10.0, 30.0)
#: An engine that starts writes hundreds of rules.
_RULES_PAUSE_S = 0.7
#: How often it is asked what a new bridge is, where the kernel does not tell of rules.
_BRIDGES_PAUSE_S = 0.2
#: Bridges come in bursts, each with its addresses.
_SETTLE_S = 0.05
#: How often both are looked at, whatever the kernel has told.
_LOOK_S = 30.0


class EngineWatch:
    """Loops beside the calls; nothing in them is on a container's path."""

    def __init__(
        self, kernel: Kernel, registry: Registry, docker_user: DockerUser, sweep: Sweep, repairs: Repairs
    ) -> None:
        self._kernel = kernel
        self._watch = kernel.watch
        self._registry = registry
        self._docker_user = docker_user
        self._sweep = sweep
        self._repairs = repairs
        self._looks: list[float] = []

    def look_soon(self) -> None:
        """Look at the engine's rules soon, and a few times more."""
        now = time.monotonic()
        self._looks = [now + delay for delay in _LOOKS_S]
        self._watch.engine_rules_changed.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        self.look_soon()
        await run_loops(self._follow_bridges, self._follow_rules, self._look_now_and_then)

    async def _look_now_and_then(self) -> None:
        await asyncio.sleep(_LOOK_S)
        self._look_at_bridges()
        await self._allow()

    def _look_at_bridges(self) -> None:
        self._kernel.health.engine_bridges_changed.set()

    async def _follow_bridges(self) -> None:
        """Wait until the engine may have other bridges."""
        await self._kernel.health.engine_bridges_changed.wait()
        await asyncio.sleep(_SETTLE_S)
        self._kernel.health.engine_bridges_changed.clear()
        former = self._kernel.bridges.found
        try:
            await self._docker_user.follow_bridges()
        except BaseException:
            asyncio.get_running_loop().call_later(PAUSE_S, self._look_at_bridges)
            raise
        if self._kernel.bridges.is_unsettled:
            asyncio.get_running_loop().call_later(_BRIDGES_PAUSE_S, self._look_at_bridges)
        if self._kernel.bridges.found.names != former.names:
            self.look_soon()

    async def _follow_rules(self) -> None:
        """Wait for the engine's rules to change, or for the time to look at them."""
        due = self._looks[0] - time.monotonic() if self._looks else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._watch.engine_rules_changed.wait(), due if due is None else max(due, 0))
        self._watch.engine_rules_changed.clear()
        now = time.monotonic()
        await self._allow()
        if self._looks and self._looks[0] <= now:
            self._look_at_bridges()
            self._looks = [when for when in self._looks if when > now]
            await self._sweep.remove_dead()
        await asyncio.sleep(_RULES_PAUSE_S)

    async def _allow(self) -> None:
        # With links but no networks the store was lost, and containers still need the rules.
        if not self._registry.networks and any(OUR_NAMES.fullmatch(name) for name in self._kernel.netlink.links()):
            return
        if await self._docker_user.allow():
            self._repairs.note("forwarding", "the engine's chain lacked the rules that let pynet's packets through")
