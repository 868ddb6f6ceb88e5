"""What is looked at beside the calls: damage that others do to what is pynet's, mended as soon as the kernel tells
of it; the engine's bridges and rules; now and then, removals that failed and endpoints that are dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from math import inf

import structlog

from pynetdriver.answers import Repair
from pynetdriver.driver import NetworkDriver
from pynetdriver.errors import PynetError
from pynetdriver.healing import Healing
from pynetdriver.ipam import IpamDriver
from pynetdriver.journal import Journal
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.health import Damage
from pynetdriver.kernel.watch import Changes, Watch
from pynetdriver.names import OUR_NAMES
from pynetdriver.registry import Registry

log = structlog.get_logger()

#: Damage comes in bursts: a deleted bridge, then all its ports.
_SETTLE_S = 0.05
_SWEEP_S = 30.0
#: What the LAN said of an address is taken for true for a minute.
_ASK_AHEAD_S = 45.0
#: After an engine introduced itself or made a bridge, its rules come within seconds.
_ENGINE_LOOKS_S = (0.0, 1.0, 3.0, 10.0, 30.0)
#: An engine that starts writes hundreds of rules.
_ENGINE_PAUSE_S = 0.7
_PAUSE_S = 1.0
#: How often it is asked what a new bridge is, where the kernel does not tell of rules.
_BRIDGES_PAUSE_S = 0.2
_REMEMBERED_REPAIRS = 20


class Monitor:
    """Loops beside the calls; nothing in them is on a container's path."""

    def __init__(
        self,
        kernel: Kernel,
        registry: Registry,
        journal: Journal,
        driver: NetworkDriver,
        healing: Healing,
        ipam: IpamDriver,
        watch: Watch,
    ) -> None:
        self._kernel = kernel
        self._registry = registry
        self._journal = journal
        self._healing = healing
        self._driver = driver
        self._ipam = ipam
        self._watch = watch
        self._looks: list[float] = []
        self._rewritten_blindly = -inf
        self._stuck: list[Damage] = []
        #: What was mended so far: table, bridge, port, link, parent, address, route, forwarding.
        self.repairs: Counter[str] = Counter()
        self.last_repairs: deque[Repair] = deque(maxlen=_REMEMBERED_REPAIRS)

    def engine_started(self) -> None:
        """Take note of an engine that introduced itself."""
        self._driver.collector.engine_started()
        self._look_soon()

    def _look_soon(self) -> None:
        """Look at the engine's rules soon, and a few times more."""
        now = time.monotonic()
        self._looks = [now + delay for delay in _ENGINE_LOOKS_S]
        self._watch.engine_rules_changed.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        self._look_soon()
        self._watch.start()
        self._watch.look()
        self._watch.changed.set()
        steps = (self._heal, self._follow_engine, self._sweep, self._poll_firewall, self._ask_ahead)
        await asyncio.gather(*map(self._again_and_again, steps))

    async def _again_and_again(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except PynetError as error:
                log.error("monitor", error=str(error))
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                log.exception("monitor met an internal error")
                await asyncio.sleep(_PAUSE_S)

    async def _heal(self) -> None:
        """Wait for damage and mend it."""
        await self._watch.changed.wait()
        await asyncio.sleep(_SETTLE_S)
        self._watch.changed.clear()
        more = True
        while more:
            more = self._watch.read()
            await asyncio.sleep(0)
        changes = self._watch.take()
        await asyncio.gather(
            self._heal_table(changes), self._heal_links(), self._note_links(), self._follow_bridges(changes)
        )

    async def _heal_table(self, changes: Changes) -> None:
        by = changes.table_by
        if self._kernel.firewall.is_empty or not (by or changes.overrun):
            return
        try:
            if by:
                await self._kernel.firewall.rewrite()
                self._table_repaired(by)
            elif await self._kernel.firewall.mend():
                self._table_repaired()
            elif time.monotonic() - self._rewritten_blindly > _SWEEP_S:
                # Seldom: what is written is told of too, and may overrun again.
                self._rewritten_blindly = time.monotonic()
                await self._kernel.firewall.rewrite()
        except PynetError:
            self._watch.note(changes._replace(engine_bridges=False))
            raise

    async def _heal_links(self) -> None:
        damage = self._kernel.health.take()
        if not damage:
            return
        # What could not be mended before may be now: a port whose bridge is there again.
        damage = [*damage, *(one for one in self._stuck if one not in damage)]
        self._stuck = []
        repaired = await self._healing.repair({one.owner for one in damage})
        for one in damage:
            if one.owner in repaired:
                self._repaired(one.kind, one.what)
            elif self._registry.owns(one.owner):
                self._stuck.append(one)

    def _table_repaired(self, by: str | None = None) -> None:
        self._repaired("table", "pynet's rules were changed", by)
        # A client that began meanwhile would go on reaching nobody for as long as it keeps sending.
        self._kernel.conntrack.recheck()

    def _repaired(self, kind: str, what: str, by: str | None = None) -> None:
        self.repairs[kind] += 1
        self.last_repairs.append(Repair(time=time.time(), kind=kind, what=what))
        log.warning("mended", damage=what, **({"by": by} if by else {}))

    async def _note_links(self) -> None:
        came = self._kernel.health.take_new()
        try:
            await self._journal.add_strangers(came)
        except BaseException:
            self._kernel.health.put_back_new(came)
            asyncio.get_running_loop().call_later(_PAUSE_S, self._watch.changed.set)
            raise

    async def _follow_bridges(self, changes: Changes) -> None:
        if changes.engine_bridges:
            former = self._kernel.bridges.found
            try:
                await self._driver.follow_engine_bridges()
            except BaseException:
                asyncio.get_running_loop().call_later(_PAUSE_S, self._look_at_bridges)
                raise
            if self._kernel.bridges.is_unsettled:
                asyncio.get_running_loop().call_later(_BRIDGES_PAUSE_S, self._look_at_bridges)
            if self._kernel.bridges.found.names != former.names:
                self._look_soon()

    def _look_at_bridges(self) -> None:
        self._watch.note(Changes(engine_bridges=True))

    async def _follow_engine(self) -> None:
        """Wait for the engine's rules to change, or for the time to look at them."""
        due = self._looks[0] - time.monotonic() if self._looks else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._watch.engine_rules_changed.wait(), due if due is None else max(due, 0))
        self._watch.engine_rules_changed.clear()
        now = time.monotonic()
        await self._allow_forwarding()
        if self._looks and self._looks[0] <= now:
            self._look_at_bridges()
            self._looks = [when for when in self._looks if when > now]
            await self._driver.collector.collect_dead()
        await asyncio.sleep(_ENGINE_PAUSE_S)

    async def _allow_forwarding(self) -> None:
        # With links but no networks the store was lost, and containers still need the rules.
        if not self._registry.networks and any(OUR_NAMES.fullmatch(name) for name in self._kernel.netlink.links()):
            return
        if await self._driver.allow_forwarding():
            self._repaired("forwarding", "the engine's chain lacked the rules that let pynet's packets through")

    async def _sweep(self) -> None:
        """See to what nobody tells of."""
        await asyncio.sleep(_SWEEP_S)
        self._watch.look()
        self._look_at_bridges()
        await self._driver.finish_removals()
        await self._driver.collector.collect_dead()
        await self._allow_forwarding()

    async def _ask_ahead(self) -> None:
        """Ask for the next addresses before those that were asked for are out of date, or soon after one was given."""
        await self._ipam.ask_ahead(await self._ipam.given(_ASK_AHEAD_S) or None)

    async def _poll_firewall(self) -> None:
        await asyncio.sleep(self._kernel.firewall.mend_every_s)
        if await self._kernel.firewall.mend():
            self._table_repaired()
