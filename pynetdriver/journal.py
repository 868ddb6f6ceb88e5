"""Nothing lost: a record is written before the kernel is touched and after, so a crash at any instant
leaves a row that says what to do. Creation, restart and repair are the same `apply`; undoing is derived
from the plan and exists once, here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Set

import structlog
from msgspec.structs import replace

from pynetdriver.errors import PynetError
from pynetdriver.firewall.engine import engine_routes
from pynetdriver.kernel import Kernel
from pynetdriver.kernel import settings as switches
from pynetdriver.locks import aside
from pynetdriver.model import Endpoint, Network, Setting, decode, encode
from pynetdriver.plan import Forwarding, HostSetting, Plan
from pynetdriver.store import Change, Store

log = structlog.get_logger()

Subject = Network | Endpoint


class Journal:
    """Carries plans out so that store and kernel agree."""

    def __init__(self, store: Store, kernel: Kernel) -> None:
        self._store = store
        self._kernel = kernel
        settings, boot = [decode(data, Setting) for data in store.load("setting").values()], switches.boot_id()
        self._settings = {one.path: one for one in settings if one.boot == boot}
        with contextlib.suppress(PynetError):  # on a full disk they are void all the same
            self._forget_settings([one for one in settings if one.boot != boot])
        #: Owners by what they need: the host to forward an IP version, or one switch of a link.
        self._needing: dict[HostSetting, set[str]] = {}
        #: Removals that failed; the monitor tries them again.
        self.unfinished: dict[str, tuple[Subject, Plan]] = {}
        #: Told of each record whose removal is done, whoever did it and whenever.
        self.removed: Callable[[Subject], None] = lambda _: None

    async def create(self, record: Subject, plan: Plan) -> None:
        """Make what the plan names; on any failure, cancellation too, everything is as before."""
        await self.finish_on(plan.links)  # or a later try would remove what is made now
        self.write(replace(record, phase="creating"))
        self.unfinished.pop(plan.owner, None)
        try:
            self.use_settings(plan)
            await self._kernel.apply(plan)
            self.use_settings(plan)  # those of a link that was not there before
            self.write(replace(record, phase="ready"))
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._undo(record, plan)))
            raise

    async def finish_on(self, links: Set[str]) -> None:
        """Remove what is left of links or on them after failures: it is not to be taken for new, or for a user's.

        Raises:
            PynetError: it fails again.
        """
        await self.finish(lambda _, plan: not links.isdisjoint(plan.links | plan.foreign))

    async def finish(self, is_in_the_way: Callable[[Subject, Plan], bool]) -> bool:
        """Try again to remove what is needed now, in place of waiting for `retry`; tells whether there was any.

        Raises:
            PynetError: it fails again.
        """
        found = [one for one in self.unfinished.values() if is_in_the_way(*one)]
        for record, plan in found:
            await self.delete(record, plan)
        return bool(found)

    async def _undo(self, record: Subject, plan: Plan) -> None:
        try:
            await self.delete(record, plan)
        except PynetError as error:
            log.error("could not undo a failed call; trying again later", owner=plan.owner, error=str(error))

    async def update(self, former: Endpoint, former_plan: Plan, record: Endpoint, plan: Plan) -> None:
        """Replace an endpoint's record, intents and what objects are new; a failure leaves the former ones."""
        data = await aside(lambda: encode(record), len(record.ports))
        self._put(record, data)
        try:
            await self._kernel.apply(plan, former_plan)
        except BaseException:
            try:
                self.write(former)
            finally:
                await asyncio.shield(asyncio.ensure_future(self._put_back(former_plan, plan)))
            raise

    async def _put_back(self, former: Plan, plan: Plan) -> None:
        try:
            await self._kernel.apply(former, plan)
        except PynetError as error:
            log.error("could not put back what was there before", owner=plan.owner, error=str(error))

    async def delete(self, record: Subject, plan: Plan) -> None:
        """Remove what the plan names and then the record; what fails is tried again later.

        Raises:
            PynetError: something is left; the record stays, as *deleting*.
        """
        try:
            self.write(replace(record, phase="deleting"))
            await self._kernel.remove(plan)
            self._release_settings(plan)
            self._put(record, None)
        except BaseException:
            self.unfinished[plan.owner] = (record, plan)
            raise
        self.unfinished.pop(plan.owner, None)
        self.removed(record)

    async def retry(self) -> list[Subject]:
        """Try again what could not be removed; returns what is gone now."""
        gone = []
        for record, plan in list(self.unfinished.values()):
            try:
                await self.delete(record, plan)
                gone.append(record)
            except PynetError as error:
                log.warning("removal failed again", owner=plan.owner, error=str(error))
        return gone

    def write(self, record: Subject) -> None:
        """Put a record as it is."""
        self._put(record, encode(record))

    def _put(self, record: Subject, data: bytes | None) -> None:
        # Nothing of an endpoint is left after a reboot, so its rows need not be.
        self._store.write(Change(_kind(record), record.id, data), fleeting=isinstance(record, Endpoint))

    def load(self) -> tuple[list[Network], list[Endpoint]]:
        """Read all networks and endpoints."""
        return (
            [decode(data, Network) for data in self._store.load("network").values()],
            [decode(data, Endpoint) for data in self._store.load("endpoint").values()],
        )

    def use_settings(self, plan: Plan) -> None:
        """Turn on the host-wide switches that a plan needs, remembering what was there before."""
        for setting in plan.settings:
            self._needing.setdefault(setting, set()).add(plan.owner)
            for needed in switches.needed(setting):
                # The first former value is the host's own: a later one may be what a crash left.
                if needed.path not in self._settings:
                    self._store.write(Change("setting", needed.path, encode(needed)))
                    self._settings[needed.path] = needed
                switches.change(needed)

    def _release_settings(self, plan: Plan) -> None:
        if not plan.settings:
            return
        idle = set()
        # Also what was not put back when its last owner went, because the engine needed it then.
        for setting in (*plan.settings, Forwarding(4), Forwarding(6)):
            owners = self._needing.get(setting, set())
            owners.discard(plan.owner)
            if owners or (isinstance(setting, Forwarding) and self._engine_routes(setting)):
                continue
            self._needing.pop(setting, None)
            idle.add(switches.key(setting))
        settings = [one for one in self._settings.values() if (one.version or one.path) in idle]
        switches.put_back(settings)
        self._forget_settings(settings)

    def _engine_routes(self, setting: Forwarding) -> bool:
        """Tell whether the engine's own networks need forwarding; what they found on is theirs as much as ours."""
        return engine_routes(self._kernel.netlink.links(), setting.version)

    def _forget_settings(self, settings: list[Setting]) -> None:
        if settings:
            self._store.write(*(Change("setting", one.path, None) for one in settings))
        for one in settings:
            self._settings.pop(one.path, None)


def _kind(record: Subject) -> str:
    return "network" if isinstance(record, Network) else "endpoint"
