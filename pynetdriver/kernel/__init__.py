"""The kernel: makes, compares and removes what plans name. All of it is idempotent.

| module | what |
|---|---|
| `netlink` | links and addresses |
| `watch`, `health` | what the kernel tells of changes, and what should be |
| `sandbox`, `traffic` | links that went into containers, and what links carried |
| `settings` | switches: those under /proc/sys/net, and promiscuity |
| `strangers` | links that the host did not route between until pynet had it forward |
| `hostport`, `relay` | host ports held by sockets, and what reaches those |
| `conntrack` | remembered flows that contradict what is published |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import assert_never

from netaddr import IPNetwork

from pynetdriver.errors import HostError, PynetError
from pynetdriver.firewall import EngineBridges, Firewall
from pynetdriver.firewall.bridges import Bridges
from pynetdriver.kernel.conntrack import Conntrack
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.sandbox import Elsewhere, Place, elsewhere, outlast, place_of, readdress, rebuild
from pynetdriver.kernel.settings import ensure_link_sysctl
from pynetdriver.kernel.wire import addresses_of
from pynetdriver.locks import aside, in_parts
from pynetdriver.plan import (
    Address,
    Adopted,
    Bridge,
    Dummy,
    Hairpin,
    Interior,
    LinkSysctl,
    Object,
    Owner,
    Parent,
    Plan,
    Route,
    Up,
    Upper,
    Veth,
)

#: After this long nothing is left of a sandbox that died.
_DYING_S = 30.0


@dataclass(frozen=True)
class Links:
    """Names of links: those on the host, and pynet's in containers."""

    here: set[str]
    elsewhere: Collection[str]

    def has(self, plan: Plan) -> bool:
        """Tell whether an endpoint has its link still: the end that stays, or the one that moves, wherever that is."""
        if plan.anchors:
            return self.here.issuperset(plan.anchors)
        return all(name in self.here or name in self.elsewhere for name in plan.moving)


class Kernel:
    """Applies plans: objects first to last, then the owner's intents."""

    def __init__(self, netlink: Netlink, firewall: Firewall) -> None:
        self.netlink = netlink
        self.firewall = firewall
        self.health = Health()
        self.bridges = Bridges()
        self.conntrack = Conntrack(netlink.is_local)
        #: Owners by the links that they share with others, and what keeps one from going while another comes.
        self._sharing: dict[str, set[Owner]] = {}
        self._sharing_lock = asyncio.Lock()
        #: By their lower link, links that were in a sandbox when they were to be removed, and when that was.
        self._dying: dict[str, dict[str, float]] = {}

    async def apply(self, plan: Plan, former: Plan | None = None) -> None:
        """Make everything that the plan names, or bring in line what exists.

        Args:
            former: the owner's plan that is in place already; what it names is not looked at, nor what has moved since.

        Raises:
            PynetError: the first thing that could not be done; what was done before it stays.
        """
        if former is not None and former.objects != plan.objects:
            self.health.forget(former)
            for name in set(_shared(former)).difference(_shared(plan)):
                self._sharing.get(name, set()).discard(plan.owner)
            for one in reversed(former.objects):
                if one not in plan.objects:
                    await self._take_back(one, plan)
        if plan.edges and former is None:
            await self.firewall.set(plan.owner, plan.edges)
        await self.apply_objects(plan, former)
        await self.firewall.set(plan.owner, plan.intents)
        published, before = plan.published, former.published if former is not None else ()
        size = len(published) + len(before)
        gone, come = await aside(lambda: (set(before).difference(published), set(published).difference(before)), size)
        async for part in in_parts(gone):
            self.conntrack.change(gone=part)
        async for part in in_parts(come):
            self.conntrack.change(come=part)

    async def mend(self, plan: Plan) -> None:
        """Bring a plan's objects in line, but for a link that may be in its sandbox: it would be made a second time."""
        await self.apply_objects(plan, Plan(plan.owner))

    async def apply_objects(self, plan: Plan, former: Plan | None = None) -> None:
        """Make the plan's objects without its intents."""
        self.share(plan)
        try:
            for one in plan.objects:
                if former is None or (one not in former.objects and not (isinstance(one, Upper) and one.moves)):
                    await self._ensure(one)
        finally:
            self.health.expect(plan)

    async def engine_bridges(self) -> EngineBridges:
        """Read which bridges are the engine's now."""
        return await self.bridges.read(self.health.adopted)

    def share(self, plan: Plan) -> None:
        """Keep the links that a plan shares with others from going with one of those."""
        for name in _shared(plan):
            self._sharing.setdefault(name, set()).add(plan.owner)

    async def links_of_plans(self, plans: Collection[Plan]) -> Links:
        """Look where the links of endpoints are; in other namespaces only if there is need. Raises HostError.

        One that may be in a namespace that could not be seen whole counts as being there.
        """
        here = self.netlink.links()
        # A list that changed while it was read may lack what is there.
        here |= {name for plan in plans for name in set(plan.anchors) - here if not self.netlink.is_missing([name])}
        hidden = any(not plan.anchors and not here.issuperset(plan.moving) for plan in plans)
        there = await asyncio.to_thread(elsewhere) if hidden else Elsewhere({})
        for name, place in there.places.items():
            self.health.link_moved(name, place.number)
        found = set(there.places)
        if there.unsure:
            missing = {name for plan in plans for name in plan.moving} - here - found
            found |= {name for name in missing if there.may_hold(self.health.namespace_of(name))}
        return Links(here, found)

    async def has_links_elsewhere(self) -> bool:
        """Tell whether any of pynet's links is, or may be, in a container. Raises HostError."""
        there = await asyncio.to_thread(elsewhere)
        return bool(there.places or there.unsure)

    async def readdress(self, plan: Plan, key: str, former: IPNetwork, interior: Interior) -> None:
        """Change the address of an endpoint's link in its container; see `sandbox.readdress`. Raises HostError."""
        await _in_thread_of_its_own(readdress, await self._place(plan), key, former, interior)

    async def has_lost(self, plan: Plan, address: IPNetwork, other: IPNetwork | None) -> bool:
        """Tell whether an endpoint's link is in its container without an address; not so if it is not to be found.

        Args:
            other: an address that it has there once the engine has seen to it: engines before 28 do so after Program.
        """
        try:
            place = await self._place(plan)
            found = {one.ip for one in await asyncio.to_thread(addresses_of, place.link, place.number)}
        except HostError:
            return False
        is_ready = other.ip in found if other else place.number is not None
        return is_ready and address.ip not in found

    async def _place(self, plan: Plan) -> Place:
        """Find an endpoint's link in its container: at once by the end that stays, else by looking everywhere."""
        if plan.anchors:
            return await self.netlink.place_of_peer(plan.anchors[0])
        return await asyncio.to_thread(place_of, plan.moving[0])

    async def rebuild(self, plan: Plan, key: str, interior: Interior) -> None:
        """Make an endpoint's link again in its container; see `sandbox.rebuild`. Raises HostError."""
        for one in plan.objects:
            if isinstance(one, Upper) and one.moves:
                await _in_thread_of_its_own(rebuild, one, self.health.namespace_of(one.name), key, interior)

    async def stands(self, plan: Plan) -> bool:
        """Tell whether what others made and a plan needs is as it was found. Raises Conflict; see `Netlink.stands`."""
        parents = [one.link for one in plan.objects if isinstance(one, Parent)]
        if self.netlink.is_missing(parents) or any(self.health.is_cut_off(link) for link in parents):
            return False
        return all([await self.netlink.stands(one) for one in plan.objects if isinstance(one, Adopted)])

    async def remove(self, plan: Plan) -> None:
        """Remove everything that the plan names, in reverse order, going on past failures.

        Raises:
            PynetError: one that names all failures.
        """
        self.health.forget(plan)
        for name in _shared(plan):
            self._sharing.get(name, set()).discard(plan.owner)
        failures = []

        async def attempt(step: Awaitable[None]) -> None:
            try:
                await step
            except PynetError as error:
                failures.append(error)

        if not plan.edges:
            await attempt(self.firewall.set(plan.owner, ()))
        async for part in in_parts(plan.published):
            self.conntrack.change(gone=part)
        for one in reversed(plan.objects):
            await attempt(self._remove(one))
        if plan.edges:  # a link is guarded for as long as it is there
            await attempt(self.firewall.set(plan.owner, ()))
        if failures:
            raise PynetError("; ".join(map(str, failures))) from failures[0]

    async def _ensure(self, one: Object) -> None:
        match one:
            case Bridge() | Dummy():
                await self.netlink.ensure_bridge(one)
            case Upper(shared=True):
                async with self._sharing_lock:
                    await self.netlink.ensure_upper(one)
            case Upper():
                if one.moves:
                    await self._outlast(one.lower)
                await self.netlink.ensure_upper(one)
            case Adopted():
                await self.netlink.adopt(one)
            case Parent():
                await self.netlink.ensure_parent(one)
            case Veth():
                await self.netlink.ensure_veth(one)
            case Hairpin():
                await self.netlink.ensure_hairpin(one)
            case Address():
                await self.netlink.ensure_address(one)
            case Up():
                await self.netlink.ensure_up(one)
            case Route():
                await self.netlink.ensure_route(one)
            case LinkSysctl():
                ensure_link_sysctl(one)
            case _:
                assert_never(one)

    async def _take_back(self, one: Object, plan: Plan) -> None:
        """Undo what an owner wanted and its new plan does not name any more; of a changed link `_ensure` sees to it."""
        match one:
            case Hairpin():
                await self.netlink.remove_hairpin(one)
            case Address():
                await self.netlink.remove_address(one)
            case Bridge() | Dummy() | Upper() | Veth():
                if one.name not in plan.links:
                    await self._remove(one)
            case Adopted():
                if one.link not in plan.foreign:
                    await self._remove(one)
            case Route():
                await self._remove(one)
            case LinkSysctl() | Up() | Parent():
                pass  # what was there before is not known, or it was not made
            case _:
                assert_never(one)

    async def _outlast(self, lower: str) -> None:
        """Wait for links on the same lower one that are dying: they may have the MAC or the address of one to come."""
        oldest = time.monotonic() - _DYING_S
        names = {name for name, since in self._dying.get(lower, {}).items() if since > oldest}
        if names:
            await _in_thread_of_its_own(outlast, names)
        left = {one: since for one, since in self._dying.pop(lower, {}).items() if since > oldest and one not in names}
        if left:
            self._dying[lower] = left

    async def _remove(self, one: Object) -> None:
        if isinstance(one, Upper) and one.moves and self.netlink.is_missing([one.name]):
            self._dying.setdefault(one.lower, {})[one.name] = time.monotonic()
        match one:
            case Upper(shared=True):
                async with self._sharing_lock:
                    if not self._sharing.get(one.name):
                        self._sharing.pop(one.name, None)
                        await self.netlink.remove_link(one.name, one.kind)
            case Bridge() | Dummy() | Upper() | Veth():
                await self.netlink.remove_link(one.name, one.kind)
            case Adopted():
                await self.netlink.give_back(one)
            case Address(stays=True):
                await self.netlink.remove_address(one)
            case Route():
                await self.netlink.remove_route(one)
            case Hairpin() | Address() | LinkSysctl() | Up() | Parent():
                pass  # goes with its link, or was not made
            case _:
                assert_never(one)


async def _in_thread_of_its_own(work: Callable[..., None], *arguments: object) -> None:
    """Run what leaves its thread in a container's namespace."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
    try:
        await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)
    finally:
        thread.shutdown(wait=False)  # a call that ends before it shall not hold up the loop


def _shared(plan: Plan) -> list[str]:
    return [one.name for one in plan.objects if isinstance(one, Upper) and one.shared]
