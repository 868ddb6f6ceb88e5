"""On request: store and kernel are compared as at a start, what differs is said and, if wanted, repaired.

What the kernel tells of is repaired by `monitor` as it happens. This finds the rest: switches that others turned,
routes that were replaced, links that nothing names, and what is left of removals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from pynetdriver.kernel import Kernel
from pynetdriver.kernel.compare import differences
from pynetdriver.networks.repair import Repair
from pynetdriver.plan import Owner, Plan
from pynetdriver.state.docker_user import DockerUser
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry
from pynetdriver.watchdog.restore import left_over
from pynetdriver.watchdog.sweep import Sweep

#: Kinds of what is found besides damage to what a plan names.
_DEAD, _LEFT, _UNFINISHED, _RULES, _CHAIN = "dead", "left", "unfinished", "rules", "chain"


class Difference(NamedTuple):
    """What is not as the store says; `owner` is None if it is no network's or endpoint's."""

    owner: Owner | None
    kind: str
    what: str


class Reconciler:
    """Compares and repairs, one at a time."""

    def __init__(
        self,
        kernel: Kernel,
        registry: Registry,
        journal: Journal,
        docker_user: DockerUser,
        repair: Repair,
        sweep: Sweep,
    ) -> None:
        self._kernel = kernel
        self._registry = registry
        self._journal = journal
        self._docker_user = docker_user
        self._repair = repair
        self._sweep = sweep
        self._lock = asyncio.Lock()

    async def reconcile(self, *, dry_run: bool) -> tuple[list[Difference], list[Difference]]:
        """Look for what differs, and repair it unless it is a dry run.

        Returns:
            What was found, and what of it is left.

        Raises:
            PynetError: the kernel does not answer, or a repair failed.
        """
        async with self._lock:
            found = await self._find()
            if not found or dry_run:
                return found, found
            await self._repair_all(found)
            left = await self._find()
            return found, [one for one in found if one in left]

    async def _find(self) -> list[Difference]:
        # Before the plans: a link that is made meanwhile is in neither, or in a plan.
        links = self._kernel.netlink.links()
        networks = [
            self._registry.network_plan(one) for one in self._registry.networks.values() if one.phase == "ready"
        ]
        endpoints = [
            self._registry.endpoint_plan(one) for one in self._registry.endpoints.values() if self._stands(one.id)
        ]
        there = await self._kernel.links_of_plans(endpoints)
        gone = [plan for plan in endpoints if not there.has(plan)]
        found: list[Difference] = [
            Difference(one.owner, one.kind, one.what)
            for one in await asyncio.to_thread(differences, [*networks, *(one for one in endpoints if one not in gone)])
        ]
        found += [Difference(one.owner, _DEAD, "its link is gone, and its container with it") for one in gone]
        found += [
            Difference(owner, _UNFINISHED, "is removed, but not all of it is gone")
            for owner in self._journal.unfinished
        ]
        async for name, _ in left_over(self._kernel, links, self._wanted()):
            found.append(Difference(None, _LEFT, f"link {name} bears pynet's name, and nothing needs it"))
        found += [Difference(None, _RULES, what) for what in await self._kernel.firewall.differences()]
        found += [Difference(None, _CHAIN, what) for what in await self._docker_user.missing()]
        # What went or came since is no difference.
        return [one for one in found if one.owner is None or one.kind == _UNFINISHED or self._registry.owns(one.owner)]

    async def _repair_all(self, found: Iterable[Difference]) -> None:
        kinds = {one.kind for one in found}
        if _UNFINISHED in kinds:
            await self._journal.retry()
        if _DEAD in kinds:
            await self._sweep.remove_dead()
        await self._repair.repair({one.owner for one in found if one.owner}, switches=True)
        if _LEFT in kinds:
            links = self._kernel.netlink.links()
            async for name, kind in left_over(self._kernel, links, self._wanted()):
                await self._kernel.netlink.remove_link(name, kind)
        if _RULES in kinds:
            await self._kernel.firewall.rewrite()
        if _CHAIN in kinds:
            await self._docker_user.allow()

    def _stands(self, endpoint_id: str) -> bool:
        """Tell whether an endpoint is in a container: until then it and its links come and go."""
        endpoint = self._registry.endpoints[endpoint_id]
        network = self._registry.networks.get(endpoint.network_id)
        return network is not None and endpoint.phase == network.phase == "ready" and endpoint.sandbox is not None

    def _wanted(self) -> list[Plan]:
        return [*self._registry.plans(), *(plan for _, plan in self._journal.unfinished.values())]
