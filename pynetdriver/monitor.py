"""What has to be looked at now and then: pynet's table, the engine's bridges and rules, removals that failed,
endpoints that are dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from pynetdriver.driver import NetworkDriver
from pynetdriver.errors import PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.engine import EngineChains, engine_bridges
from pynetdriver.names import OUR_NAMES

log = structlog.get_logger()

_TICK_S = 1.0
_SWEEP_S = 30.0
_MEND_S = 5.0
#: After an engine introduced itself or made a bridge, its rules come within seconds.
_ENGINE_LOOKS_S = (0.0, 1.0, 3.0, 10.0, 30.0)


class Monitor:
    """A loop beside the calls; nothing in it is on a container's path."""

    def __init__(self, kernel: Kernel, driver: NetworkDriver, chains: EngineChains) -> None:
        self._kernel = kernel
        self._driver = driver
        self._chains = chains
        self._looks: list[float] = []
        self._wake = asyncio.Event()

    def engine_started(self) -> None:
        """Take note of an engine that introduced itself."""
        self._driver.engine_started()
        self._look_soon()

    def _look_soon(self) -> None:
        """Look at the engine's rules soon, and a few times more."""
        now = time.monotonic()
        self._looks = [now + delay for delay in _ENGINE_LOOKS_S]
        self._wake.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        bridges: frozenset[str] = frozenset()
        next_sweep, next_mend = time.monotonic() + _SWEEP_S, time.monotonic()
        self._look_soon()
        while True:
            try:
                found = engine_bridges(self._kernel.netlink.links())
                if found != bridges:
                    await self._kernel.firewall.set_engine_bridges(found)
                    self._look_soon()
                    bridges = found
                now = time.monotonic()
                if self._looks and self._looks[0] <= now:
                    self._looks = [when for when in self._looks if when > now]
                    await self._look_at_engine()
                if next_sweep <= now:
                    next_sweep = now + _SWEEP_S
                    await self._driver.finish_removals()
                    await self._look_at_engine()
                if next_mend <= now:
                    next_mend = now + _MEND_S
                    await self._kernel.firewall.mend()
            except PynetError as error:
                log.error("monitor", error=str(error))
            except Exception:
                log.exception("monitor met an internal error")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK_S)

    async def _look_at_engine(self) -> None:
        await self._driver.collect_dead()
        # With links but no networks the store was lost, and containers still need the rules.
        if self._driver.networks or not any(OUR_NAMES.fullmatch(name) for name in self._kernel.netlink.links()):
            await self._driver.allow_forwarding()
