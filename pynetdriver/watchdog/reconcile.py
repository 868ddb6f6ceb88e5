"""On request: store and kernel are compared as at a start, what differs is said and, if wanted, mended.

What the kernel tells of is mended by `monitor` as it happens. This finds the rest as well: switches that others turned,
routes that were replaced, links that nothing names, and what is left of removals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pynetdriver.answers import Difference, Reconciliation
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

#: Owner, none of what belongs to no network or endpoint; kind and sentence.
_Found = tuple[Owner | None, str, str]


class Reconciler:
    """Compares and mends, one at a time."""

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

    async def reconcile(self, dry_run: bool) -> Reconciliation:
        """Say what differs, and mend it unless it is a dry run. Raises PynetError."""
        async with self._lock:
            found = await self._find()
            left = found
            if found and not dry_run:
                await self._mend(found)
                left = await self._find()
            return Reconciliation(
                dry_run=dry_run,
                differences=[
                    Difference(
                        owner=owner.short if owner else "pynet", what=what, mended=(owner, kind, what) not in left
                    )
                    for owner, kind, what in found
                ],
            )

    async def _find(self) -> list[_Found]:
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
        found: list[_Found] = [
            (one.owner, one.kind, one.what)
            for one in await asyncio.to_thread(differences, [*networks, *(one for one in endpoints if one not in gone)])
        ]
        found += [(one.owner, _DEAD, "its link is gone, and its container with it") for one in gone]
        found += [(owner, _UNFINISHED, "is removed, but not all of it is gone") for owner in self._journal.unfinished]
        async for name, _ in left_over(self._kernel, links, self._wanted()):
            found.append((None, _LEFT, f"link {name} bears pynet's name, and nothing needs it"))
        found += [(None, _RULES, what) for what in await self._kernel.firewall.differences()]
        found += [(None, _CHAIN, what) for what in await self._docker_user.missing()]
        # What went or came since is no difference.
        return [one for one in found if one[0] is None or one[1] == _UNFINISHED or self._registry.owns(one[0])]

    async def _mend(self, found: Iterable[_Found]) -> None:
        kinds = {kind for _, kind, _ in found}
        if _UNFINISHED in kinds:
            await self._sweep.finish_removals()
        if _DEAD in kinds:
            await self._sweep.remove_dead()
        await self._repair.repair({owner for owner, kind, _ in found if owner}, switches=True)
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
