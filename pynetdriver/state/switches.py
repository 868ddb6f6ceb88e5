"""Switches of the host that networks need: turned on with the first that does, put back with the last, by what was
there before. While the host forwards for pynet, links that did not forward are kept apart as strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

import structlog
from msgspec.structs import replace

from pynetdriver.errors import PynetError
from pynetdriver.firewall.engine import EngineChains, engine_routes
from pynetdriver.kernel import Kernel
from pynetdriver.kernel import settings as switches
from pynetdriver.kernel.strangers import hardware, likely_strangers, strangers
from pynetdriver.model import Setting, Strangers, decode, encode
from pynetdriver.plan import Forwarding, HostSetting, Owner, Plan
from pynetdriver.store import Change, Store

log = structlog.get_logger()

_WHOSE = ("links", "others", "bridges")


class Switches:
    """Host-wide switches, those of links, and the strangers that go with the former; stored before each change."""

    def __init__(self, store: Store, kernel: Kernel, chains: EngineChains) -> None:
        """Know of no switch yet; see `restore`."""
        self._store = store
        self._kernel = kernel
        self._chains = chains
        self._settings: dict[str, Setting] = {}
        #: Those of which newer strangers are in force than are stored, or are to be.
        self._unstored: set[str] = set()
        #: Whether no switch was ever turned, as far as the store goes.
        self._is_new = True
        #: Switches, and what guards who did not need them, are changed by one at a time.
        self._switching = asyncio.Lock()
        #: Owners by what they need: the host to forward an IP version, or one switch of a link.
        self._needing: dict[HostSetting, set[Owner]] = {}

    def restore(self) -> None:
        """Take up what an earlier process of this boot has turned on. Raises PynetError."""
        settings, boot = [decode(data, Setting) for data in self._store.load("setting").values()], switches.boot_id()
        self._settings = {one.path: one for one in settings if one.boot == boot}
        self._is_new = not settings
        with contextlib.suppress(PynetError):  # on a full disk they are void all the same
            self._forget([one for one in settings if one.boot != boot])

    async def use(self, plan: Plan, *, but: Collection[HostSetting] = ()) -> None:
        """Turn on the host-wide switches that a plan needs but for some, remembering what was there before."""
        if not plan.settings:
            return  # endpoints do not wait for networks
        async with self._switching:
            for setting in (one for one in plan.settings if one not in but):
                self._needing.setdefault(setting, set()).add(plan.owner)
                if isinstance(setting, Forwarding) and Owner.forwarding(setting.version) in self.strangers:
                    await self._keep_apart(setting.version)
                for needed in switches.needed(setting):
                    # The first former value is the host's own: a later one may be what a crash left.
                    if needed.path not in self._settings:
                        self._keep(await self._with_strangers(needed))
                    if switches.is_host_wide(needed):
                        await self._close(needed.version)
                    switches.change(needed)

    async def _with_strangers(self, setting: Setting) -> Setting:
        if not switches.is_host_wide(setting):
            return setting
        bridges = self._kernel.bridges.found.names
        return replace(setting, strangers=await asyncio.to_thread(strangers, setting.version, bridges))

    async def release(self, plan: Plan, released: Collection[HostSetting]) -> None:
        """Put back what of a plan's settings nobody needs any more.

        Raises:
            HostError: not all of it could be put back.
        """
        if not released:
            return
        async with self._switching:
            bridges = (await self._kernel.engine_bridges()).names
            idle = set()
            # Also what was not put back when its last owner went, because the engine needed it then.
            for setting in {*released, Forwarding(4), Forwarding(6)}:
                owners = self._needing.get(setting, set())
                if setting in released:
                    owners.discard(plan.owner)
                # What the engine's own networks found on is theirs as much as ours.
                if owners or (isinstance(setting, Forwarding) and engine_routes(bridges, setting.version)):
                    continue
                self._needing.pop(setting, None)
                idle.add(switches.key(setting))
            settings = [one for one in self._settings.values() if (one.version or one.path) in idle]
            switches.put_back(settings)
            await self._open([one.version for one in settings if switches.is_host_wide(one)])
            self._forget(settings)

    # Strangers: they are kept apart from before the host forwards until it does no longer.

    @property
    def strangers(self) -> dict[Owner, tuple[Strangers, ...]]:
        """What the firewall has to know of them, by owner."""
        found = map(self._but_the_engines, self._strangers())
        return {Owner.forwarding(one.version): (one,) if one.links else () for one in found}

    def _but_the_engines(self, one: Strangers) -> Strangers:
        """Leave out bridges that became the engine's, which has rules for them, and `closed` closes them."""
        names = self._kernel.bridges.found.names
        kept = {what: tuple(name for name in getattr(one, what) if name not in names) for what in _WHOSE}
        return replace(one, **kept)

    @property
    def closed(self) -> dict[int, frozenset[str]]:
        """The engine's bridges that the engine leaves open, by IP version: it found the host forwarding already."""
        return {one.version: self._kernel.bridges.found.names for one in self._strangers()}

    def _strangers(self) -> list[Strangers]:
        return [one.strangers for one in self._settings.values() if one.strangers is not None]

    async def _close(self, version: int) -> None:
        await self._keep_apart(version)
        await self._chains.close(self.closed)

    async def _keep_apart(self, version: int) -> None:
        await self._kernel.firewall.set(Owner.forwarding(version), self.strangers[Owner.forwarding(version)])

    async def follow_engine_bridges(self) -> None:
        """Have the guard know which bridges are the engine's by now. Raises HostError."""
        async with self._switching:
            if self.strangers:
                await self._chains.close(self.closed)
            for one in self._strangers():
                await self._keep_apart(one.version)

    async def _open(self, versions: Collection[int]) -> None:
        for version in versions:
            await self._kernel.firewall.set(Owner.forwarding(version), ())
        if versions:
            await self._chains.close(
                {version: found for version, found in self.closed.items() if version not in versions}
            )

    async def guess_strangers(self, *, lost: bool) -> None:
        """Find the strangers where a former pynet turned the switch on without noting them, or lost its store.

        What fails is logged; what cannot be stored is in force all the same.

        Args:
            lost: there are no networks. With them rules are no witness, as they may be saved and loaded at boot.
        """
        try:
            for version in await asyncio.to_thread(self._kernel.firewall.kept_apart) if lost and self._is_new else ():
                former = switches.turned_on(version)
                if former is not None:
                    self._settings[former.path] = former
        except PynetError as error:
            log.error("cannot tell whether a former pynet had this host forward", error=str(error))
        for one in list(self._settings.values()):
            if switches.is_host_wide(one) and one.strangers is None:
                try:
                    await self._guess(one)
                except PynetError as error:
                    log.error("cannot note which links are not routed to each other", ip=one.version, error=str(error))

    async def _guess(self, one: Setting) -> None:
        routing = [
            Path(other.path).parent.name
            for other in self._settings.values()
            if other.version == one.version == 4 and other.path.endswith("/forwarding")
        ]
        found = await asyncio.to_thread(likely_strangers, one.version, routing, self._kernel.bridges.found.names)
        if found.links:
            log.warning("links are not routed to each other from now on", ip=one.version, links=" ".join(found.links))
        new = self._settings[one.path] = replace(one, strangers=found)
        self._unstored.add(one.path)
        self._store_strangers(new)

    async def add_strangers(
        self, names: Collection[str], hardware: Callable[[Collection[str]], set[str]] = hardware
    ) -> None:
        """Take hardware among new links for strangers too: nobody who made it can have wanted the host to forward.

        Raises:
            PynetError: not all of it is in force and stored; to be called again with the same names.
        """
        if not names or not self.strangers:
            return
        came = await asyncio.to_thread(hardware, names)
        failures = []
        async with self._switching:
            for one in list(self._settings.values()):
                if one.strangers is None:
                    continue
                new = came.difference(one.strangers.links, one.strangers.others)
                if new:
                    log.info("link that came is not routed to others", ip=one.version, links=" ".join(sorted(new)))
                    links = tuple(sorted(new.union(one.strangers.links)))
                    one = self._settings[one.path] = replace(one, strangers=replace(one.strangers, links=links))
                    self._unstored.add(one.path)
                if one.path in self._unstored:
                    try:
                        await self._keep_apart(one.version)
                        self._store_strangers(one)
                    except PynetError as error:
                        failures.append(error)
            await self._chains.close(self.closed)
        if failures:
            raise failures[0]

    def _store_strangers(self, setting: Setting) -> None:
        self._store.write(Change("setting", setting.path, encode(setting)))
        self._unstored.discard(setting.path)

    def _keep(self, setting: Setting) -> None:
        self._store.write(Change("setting", setting.path, encode(setting)))
        self._settings[setting.path] = setting

    def _forget(self, settings: list[Setting]) -> None:
        if settings:
            self._store.write(*(Change("setting", one.path, None) for one in settings))
        for one in settings:
            self._settings.pop(one.path, None)
