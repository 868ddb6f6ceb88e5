"""What others damaged is repaired: links, addresses, routes, and links in containers that went with their parent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from contextlib import suppress

import structlog

from pynetdriver.errors import PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.locks import Background
from pynetdriver.model import Endpoint
from pynetdriver.networks.host_facts import HostFacts
from pynetdriver.plan import Owner, Plan
from pynetdriver.state.registry import Registry
from pynetdriver.state.switches import Switches

log = structlog.get_logger()


class Repair:
    """Applies again what networks and endpoints want."""

    def __init__(self, registry: Registry, kernel: Kernel, switches: Switches, facts: HostFacts) -> None:
        self._registry = registry
        self._kernel = kernel
        self._switches = switches
        self._facts = facts
        self._in_background = Background()

    async def make_whole(self, network_id: str) -> None:
        """Make a network's own links if they are missing, before an endpoint is made. Raises PynetError."""
        plan = self._registry.network_plan(self._registry.networks[network_id])
        if network_id in self._registry.unsound or self._kernel.netlink.is_missing(plan.links):
            await self._kernel.apply_objects(plan)
            # In the background: a removal holds the network's lock while it waits for the endpoint's.
            self._in_background(self.repair_network(network_id, set()))

    async def repair(self, owners: Iterable[Owner], *, switches: bool = False) -> set[Owner]:
        """Apply again what owners want, a network before its endpoints; returns whose is right now.

        Args:
            switches: turn those of the host as well that somebody may have turned on purpose.
        """
        damaged: dict[str, set[str]] = {}
        for kind, id in owners:
            endpoint = self._registry.endpoints.get(id) if kind == "endpoint" else None
            if endpoint is not None:
                damaged.setdefault(endpoint.network_id, set()).add(id)
            elif kind == "network":
                damaged.setdefault(id, set())
        return set().union(*await asyncio.gather(*(self.repair_network(*one, switches) for one in damaged.items())))

    async def repair_network(self, network_id: str, endpoint_ids: set[str], switches: bool = False) -> set[Owner]:
        """Repair a network, also if only its ports are damaged: these go to no bridge but one that it may use."""
        repaired: set[Owner] = set()
        if network_id in self._registry.unsound:
            endpoint_ids = {one.id for one in self._registry.endpoints.values() if one.network_id == network_id}
        lost = await self._lost(endpoint_ids)
        for id in (network_id, *endpoint_ids):
            # A record that is being made or removed is skipped.
            if not self._registry.is_whole(network_id, id):
                continue
            async with self._registry.lock(id):
                if not self._registry.is_whole(network_id, id):
                    continue
                network = self._registry.networks[network_id]
                if id == network_id:
                    network = await self._facts.follow(network)
                plan = (
                    self._registry.network_plan(network)
                    if id == network_id
                    else self._registry.endpoint_plan(self._registry.endpoints[id])
                )
                try:
                    if not await self._kernel.stands(plan):
                        return repaired  # others have to make it again, or to bring it up
                    if not self._kernel.netlink.is_missing(plan.anchors):
                        if plan.foreign or switches:
                            await self._switches.use(plan)
                        await self._kernel.repair(plan)
                        if id in lost:
                            await self._repair_inside(self._registry.endpoints[id], plan)
                        repaired.add(plan.owner)
                        self._registry.unsound.discard(id)
                except PynetError as error:
                    # The kernel tells of a link once it is gone, so no error is logged for one that is going.
                    is_going = getattr(error.__cause__, "code", None) == errno.ENODEV
                    if not is_going and not self._kernel.netlink.is_missing(plan.anchors):
                        log.error("cannot mend", owner=str(plan.owner), error=str(error))
                    if id == network_id:
                        self._registry.unsound.add(id)
                        return repaired
        return repaired

    async def _lost(self, endpoint_ids: Iterable[str]) -> set[str]:
        """Tell which endpoints' links are nowhere, as far as one look shows."""
        plans = {
            id: self._registry.endpoint_plan(self._registry.endpoints[id])
            for id in endpoint_ids
            if id in self._registry.endpoints
        }
        there = await self._kernel.links_of_plans(plans.values())
        return {id for id, plan in plans.items() if plan.lowers and not there.has(plan)}

    async def _repair_inside(self, endpoint: Endpoint, plan: Plan) -> bool:
        """Make a link again that is nowhere, in the container that had it; tells whether it is there."""
        if (await self._kernel.links_of_plans([plan])).has(plan):
            return True
        if endpoint.sandbox is None or self._kernel.netlink.is_missing(plan.lowers):
            return False
        await self._kernel.repair_inside(plan, endpoint.sandbox, self._registry.sandbox_interface(endpoint))
        return True

    async def is_there_again(self, endpoint: Endpoint, plan: Plan) -> bool:
        """Tell whether a link is there after all or could be made again, what it stood on being back just now."""
        async with self._registry.lock(endpoint.id):
            if self._registry.endpoints.get(endpoint.id) is not endpoint:
                return True  # others see to it
            with suppress(PynetError):
                return await self._repair_inside(endpoint, plan)
            return False
