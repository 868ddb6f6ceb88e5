"""The kernel: makes, compares and removes what plans name. All of it is idempotent.

| module | what |
|---|---|
| `objects` | kinds of objects, a file each: how they are made, removed, expected and compared |
| `netlink`, `rtnetlink` | looks at links, addresses and routes |
| `health`, `watch`, `compare` | what should be, what the kernel tells of changes, and all of both beside each other |
| `followed` | links of others of which networks need the facts |
| `sandbox`, `traffic` | links that went into containers, and what links carried |
| `settings` | switches: those under /proc/sys/net, and promiscuity |
| `strangers` | links that the host did not route between until pynet had it forward |
| `hostport`, `relay` | host ports held by sockets, and what reaches those |
| `conntrack` | remembered flows that contradict what is published |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from netaddr import IPNetwork

from pynetdriver.errors import HostError, PynetError
from pynetdriver.firewall import EngineBridges, Firewall
from pynetdriver.firewall.bridges import Bridges
from pynetdriver.kernel import objects
from pynetdriver.kernel.conntrack import Conntrack
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.objects import KINDS
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.objects.link import LinkKind
from pynetdriver.kernel.rtnetlink import addresses_of
from pynetdriver.kernel.sandbox import Elsewhere, Place, elsewhere, in_thread_of_its_own, place_of, readdress
from pynetdriver.kernel.tables import of
from pynetdriver.kernel.watch import Watch
from pynetdriver.locks import aside, in_parts
from pynetdriver.plan import Made, Object, Plan, SandboxInterface, Upper


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
        # From before anything is compared, so that no change falls between.
        self.watch = Watch(self.health)
        self.bridges = Bridges()
        self.conntrack = Conntrack(netlink.is_local)
        self.kinds = {made: kind(netlink) for made, kind in KINDS.items()}
        #: By what rtnetlink(7) calls the links that they make.
        self._link_kinds: dict[str, LinkKind[Any]] = {
            name: kind
            for made in get_args(Made)
            if isinstance(kind := self.kinds[made], LinkKind)
            for name in made.kinds
        }

    async def apply(self, plan: Plan, former: Plan | None = None) -> None:
        """Make everything that the plan names, or bring in line what exists.

        Args:
            former: the owner's plan that is in place already; what it names is not looked at, nor what has moved since.

        Raises:
            PynetError: the first thing that could not be done; what was done before it stays.
        """
        if former is not None and former.objects != plan.objects:
            await self._take_back(plan, former)
        if plan.edges and former is None:
            await self.firewall.set(plan.owner, plan.edges)
        if former is None:
            await self._make(plan, plan.objects)
        else:
            present = former.objects
            await self._make(plan, [one for one in plan.objects if one not in present and not _may_have_moved(one)])
        await self.firewall.set(plan.owner, plan.intents)
        published, before = plan.published, former.published if former is not None else ()
        size = len(published) + len(before)
        gone, come = await aside(lambda: (set(before).difference(published), set(published).difference(before)), size)
        async for part in in_parts(gone):
            self.conntrack.change(gone=part)
        async for part in in_parts(come):
            self.conntrack.change(come=part)

    async def _take_back(self, plan: Plan, former: Plan) -> None:
        """Remove what a former plan of the owner has and its new one has not."""
        objects.forget(former, self.health)
        kept = {self._kind(one).key(one) for one in plan.objects}
        gone = [one for one in former.objects if self._kind(one).key(one) not in kept]
        for one in gone:
            self._kind(one).leave(one, plan.owner)
        for one in reversed(gone):
            await self._kind(one).take_back(one)

    async def repair(self, plan: Plan) -> None:
        """Bring a plan's objects in line, but for a link that may be in its sandbox: it would be made a second time."""
        await self._make(plan, [one for one in plan.objects if not _may_have_moved(one)])

    async def apply_objects(self, plan: Plan) -> None:
        """Make the plan's objects without its intents."""
        await self._make(plan, plan.objects)

    async def _make(self, plan: Plan, these: Iterable[Object]) -> None:
        self.share(plan)
        try:
            for one in these:
                await self._kind(one).ensure(one)
        finally:
            self.expect(plan)

    def _kind(self, one: Object) -> Kind[Any]:
        return of(one, self.kinds)

    def expect(self, plan: Plan) -> None:
        """Have it noticed when what a plan names is not so."""
        objects.expect(plan, self.health)

    async def try_out(self, one: Upper) -> None:
        """Make a link and remove it. Raises Conflict if its lower one takes no such link."""
        try:
            await self._kind(one).ensure(one)
        finally:
            await self._kind(one).remove(one)

    async def engine_bridges(self) -> EngineBridges:
        """Read which bridges are the engine's now."""
        return await self.bridges.read(self.health.adopted)

    def share(self, plan: Plan) -> None:
        """Keep the links that a plan shares with others from going with one of those."""
        for one in plan.objects:
            self._kind(one).share(one, plan.owner)

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

    async def is_in_use(self, name: str, kind: str) -> bool:
        """Tell whether anything may need a link of pynet's, of this kind of rtnetlink(7). Raises HostError."""
        return await self._link_kinds[kind].is_in_use(name, kind)

    async def readdress(self, plan: Plan, key: str, former: IPNetwork, interface: SandboxInterface) -> None:
        """Change the address of an endpoint's link in its container; see `sandbox.readdress`. Raises HostError."""
        await in_thread_of_its_own(readdress, await self._place(plan), key, former, interface)

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

    async def repair_inside(self, plan: Plan, key: str, interface: SandboxInterface) -> None:
        """Make an endpoint's link again in its container; see `sandbox.make_inside`. Raises HostError."""
        for one in plan.objects:
            for name in one.moving:
                await self._kind(one).repair_inside(one, self.health.namespace_of(name), key, interface)

    async def stands(self, plan: Plan) -> bool:
        """Tell whether what others made and a plan needs is as it was found. Raises Conflict; see `Kind.stands`."""
        return all([await self._kind(one).stands(one, self.health) for one in plan.objects if one.foreign])

    async def remove(self, plan: Plan) -> None:
        """Remove everything that the plan names, in reverse order, going on past failures.

        Raises:
            PynetError: one that names all failures.
        """
        objects.forget(plan, self.health)
        for one in plan.objects:
            self._kind(one).leave(one, plan.owner)
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
            await attempt(self._kind(one).remove(one))
        if plan.edges:  # a link is guarded for as long as it is there
            await attempt(self.firewall.set(plan.owner, ()))
        if failures:
            raise PynetError("; ".join(map(str, failures))) from failures[0]


def _may_have_moved(one: Object) -> bool:
    """Tell whether an object is a link that moves whole into a sandbox."""
    return bool(one.moving) and not one.anchors
