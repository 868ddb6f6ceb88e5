"""Damage that others do to what is pynet's, repaired as soon as the kernel tells of it."""

from __future__ import annotations

import asyncio
import time
from math import inf

from pynetdriver.errors import PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.health import Damage
from pynetdriver.kernel.watch import Changes
from pynetdriver.networks.host_facts import HostFacts
from pynetdriver.networks.repair import Repair
from pynetdriver.state.registry import Registry
from pynetdriver.state.switches import Switches
from pynetdriver.watchdog.loop import PAUSE_S, run_loops
from pynetdriver.watchdog.repairs import Repairs

#: Damage comes in bursts: a deleted bridge, then all its ports.
_SETTLE_S = 0.05
#: How often everything is looked at, whatever the kernel has told.
_LOOK_S = 30.0


class Monitor:
    """Loops beside the calls; nothing in them is on a container's path."""

    def __init__(
        self,
        kernel: Kernel,
        registry: Registry,
        facts: HostFacts,
        repair: Repair,
        switches: Switches,
        repairs: Repairs,
    ) -> None:
        self._kernel = kernel
        self._watch = kernel.watch
        self._registry = registry
        self._facts = facts
        self._repair = repair
        self._switches = switches
        self._repairs = repairs
        self._rewritten_blindly = -inf
        self._stuck: list[Damage] = []

    async def run(self) -> None:
        """Go on until cancelled."""
        self._watch.start()
        self._look()
        await run_loops(self._follow, self._look_now_and_then, self._poll_firewall)

    def _look(self) -> None:
        self._watch.look()
        self._watch.changed.set()

    async def _look_now_and_then(self) -> None:
        await asyncio.sleep(_LOOK_S)
        self._look()

    async def _follow(self) -> None:
        """Wait for changes: damage is repaired, and networks are planned anew by what they stand on."""
        await self._watch.changed.wait()
        await asyncio.sleep(_SETTLE_S)
        self._watch.changed.clear()
        more = True
        while more:
            more = self._watch.read()
            await asyncio.sleep(0)
        await asyncio.gather(
            self._repair_table(self._watch.take()),
            self._repair_links(),
            self._note_links(),
            self._facts.follow_changed(),
        )

    async def _repair_table(self, changes: Changes) -> None:
        by = changes.table_by
        if self._kernel.firewall.is_empty or not (by or changes.overrun):
            return
        try:
            if by:
                await self._kernel.firewall.rewrite()
                self._table_repaired(by)
            elif await self._kernel.firewall.repair():
                self._table_repaired()
            elif time.monotonic() - self._rewritten_blindly > _LOOK_S:
                # Not often: the kernel tells of this change too, which may overflow the socket's buffer again.
                self._rewritten_blindly = time.monotonic()
                await self._kernel.firewall.rewrite()
        except PynetError:
            self._watch.note(changes)
            raise

    async def _repair_links(self) -> None:
        damage = self._kernel.health.take()
        if not damage:
            return
        # What could not be repaired before may be now: a port whose bridge is there again.
        damage = [*damage, *(one for one in self._stuck if one not in damage)]
        self._stuck = []
        repaired = await self._repair.repair({one.owner for one in damage})
        for one in damage:
            if one.owner in repaired:
                self._repairs.note(one.kind, one.what)
            elif self._registry.owns(one.owner):
                self._stuck.append(one)

    def _table_repaired(self, by: str | None = None) -> None:
        self._repairs.note("table", "pynet's rules were changed", by)
        # A flow that began without the rules stays untranslated as long as its client sends.
        self._kernel.conntrack.recheck()

    async def _note_links(self) -> None:
        came = self._kernel.health.take_new()
        try:
            await self._switches.add_strangers(came)
        except BaseException:
            self._kernel.health.put_back_new(came)
            asyncio.get_running_loop().call_later(PAUSE_S, self._watch.changed.set)
            raise

    async def _poll_firewall(self) -> None:
        await asyncio.sleep(self._kernel.firewall.check_every_s)
        if await self._kernel.firewall.repair():
            self._table_repaired()
