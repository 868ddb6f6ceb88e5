"""The journal: a record is written before the kernel is changed and after, so a crash at any instant
leaves a row that says what to do. Creation, restart and repair are the same `apply`; undoing is derived
from the plan and exists once, here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set

import structlog
from msgspec.structs import replace

from pynetdriver.errors import PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.locks import Locks, aside
from pynetdriver.model import Endpoint, Network, decode, encode
from pynetdriver.plan import Owner, Plan
from pynetdriver.state.switches import Switches
from pynetdriver.store import Change, Store

log = structlog.get_logger()

Subject = Network | Endpoint


class Journal:
    """Carries plans out so that store and kernel agree."""

    def __init__(self, store: Store, kernel: Kernel, switches: Switches, ports: HostPorts) -> None:
        self._store = store
        self._kernel = kernel
        self._switches = switches
        self._ports = ports
        #: Removals that failed; the sweep tries them again.
        self.unfinished: dict[Owner, tuple[Subject, Plan]] = {}
        #: Held by who tries again.
        self._trying = Locks()

    async def create(self, record: Subject, plan: Plan) -> None:
        """Make what the plan names; on any failure, cancellation too, everything is as before."""
        await self.finish_on(plan.links)  # or a later try would remove what is made now
        self.write(replace(record, phase="creating"))
        self.unfinished.pop(plan.owner, None)
        try:
            await self._switches.use(plan, but=plan.guarded)
            await self._kernel.apply(plan)
            await self._switches.use(plan)  # also those of a link that was not there before
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
        found = [owner for owner, left in self.unfinished.items() if is_in_the_way(*left)]
        for owner in found:
            await self._try_again(owner)
        return bool(found)

    async def _try_again(self, owner: Owner) -> None:
        """Remove what is left of an owner, unless somebody else has meanwhile: what was made since would go, too.

        Raises:
            PynetError: it fails again.
        """
        async with self._trying(str(owner)):
            left = self.unfinished.get(owner)
            if left is not None:
                await self.delete(*left)

    async def _undo(self, record: Subject, plan: Plan) -> None:
        try:
            await self.delete(record, plan)
        except PynetError as error:
            log.error("could not undo a failed call; trying again later", owner=str(plan.owner), error=str(error))

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
            log.error("could not put back what was there before", owner=str(plan.owner), error=str(error))

    async def delete(self, record: Subject, plan: Plan) -> None:
        """Remove what the plan names and then the record; what fails is tried again later.

        Raises:
            PynetError: something is left; the record stays, as *deleting*.
        """
        try:
            self.write(replace(record, phase="deleting"))
            await self._switches.release(plan, plan.guarded)
            await self._kernel.remove(plan)
            await self._switches.release(plan, plan.settings)
            self._put(record, None)
        except BaseException:
            self.unfinished[plan.owner] = (record, plan)
            raise
        self.unfinished.pop(plan.owner, None)
        if isinstance(record, Endpoint):  # its host ports are free only now
            self._ports.let_go(record.id, self._ports.held_by(record.id))

    async def retry(self) -> None:
        """Try again what could not be removed."""
        for owner in list(self.unfinished):
            try:
                await self._try_again(owner)
            except PynetError as error:
                log.warning("removal failed again", owner=str(owner), error=str(error))

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


def _kind(record: Subject) -> str:
    return "network" if isinstance(record, Network) else "endpoint"
