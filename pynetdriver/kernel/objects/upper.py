"""A link on top of another: of kind vlan, macvlan or ipvlan.

One that is shared is wanted by several networks and goes with the last. One that moves goes into a sandbox, where the
kernel tells nothing of it: it is only expected to go when its lower link goes.
"""

from __future__ import annotations

import asyncio
import errno
import time

from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pynetdriver.errors import Conflict, HostError
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.objects.link import LinkKind, wrong
from pynetdriver.kernel.objects.parent import no_parent
from pynetdriver.kernel.rtnetlink import host_errors, index_of, index_of_present
from pynetdriver.kernel.sandbox import Elsewhere, elsewhere, in_thread_of_its_own, made_with, make_inside, outlast
from pynetdriver.plan import Owner, SandboxInterface, Upper

#: After this time nothing is left of a dead sandbox.
_DYING_S = 30.0
#: Why the kernel puts no link on another (drivers/net/macvlan.c, drivers/net/ipvlan/ipvlan_main.c).
_NO_UPPER = {
    errno.EEXIST: "it carries that VLAN under another name",
    errno.EBUSY: "it is a port of a bridge or bond, or carries links of another kind",
    errno.EINVAL: "a link in passthru mode shares it with no other, or it takes none of that kind or MTU",
}


class _Ipvlan(nla):  # type: ignore[misc]
    """The attributes of linux/if_link.h, of which the library knows the first two."""

    prefix = "IFLA_"
    nla_map = (("IFLA_IPVLAN_UNSPEC", "none"), ("IFLA_IPVLAN_MODE", "uint16"), ("IFLA_IPVLAN_FLAGS", "uint16"))


ifinfmsg.ifinfo.register_link_kind(module={"ipvlan": _Ipvlan})


class UpperKind(LinkKind[Upper]):
    """Knows who shares links, and which links went into sandboxes that are dying."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__(netlink)
        #: Owners by the links that they share; the lock serialises making and removing a shared link.
        self._sharing: dict[str, set[Owner]] = {}
        self._lock = asyncio.Lock()
        #: By their lower link, links that were in a sandbox when they were to be removed, and when that was.
        self._dying: dict[str, dict[str, float]] = {}

    async def ensure(self, one: Upper) -> None:
        """Make the link, down, or bring ours in line.

        Raises:
            Conflict: somebody else's link has the name, or the lower one is in use in another way.
            HostError: the lower one is not there.
        """
        if one.shared:
            async with self._lock:
                await self._ensure(one)
            return
        if one.moves:
            await self._outlast(one.lower)
        await self._ensure(one)

    async def _ensure(self, one: Upper) -> None:
        with host_errors(f'create {one.kind} link {one.name} on "{one.lower}"'):
            lower = index_of(one.lower)
            if lower is None:
                raise HostError(no_parent(one.lower))
            index = index_of(one.name)
            if index is not None:
                link = await self.netlink.ours(index, one.name, one.kind)
                wanted = {"address": one.mac, "mtu": one.mtu}
                changed = {key: value for key, value in wanted.items() if value and link.get(key) != value}
                if changed:
                    await self.netlink.requests.link("set", index=index, **changed)
                return
            await self._add(one, lower)
            if one.moves:
                # The engine renames it in the container; it is found there by its alias.
                await self.netlink.requests.link("set", index=index_of_present(one.name), ifalias=one.name)

    async def _add(self, one: Upper, lower: int) -> None:
        try:
            await self.netlink.requests.link(
                "add", ifname=one.name, kind=one.kind, link=lower, group=one.group, **made_with(one)
            )
        except NetlinkError as error:
            if error.code not in _NO_UPPER:
                raise
            why = _NO_UPPER[error.code]
            raise Conflict(f'the kernel puts no {one.kind} link on "{one.lower}": {why}; use another parent') from error

    async def _outlast(self, lower: str) -> None:
        """Wait for links on the same lower one that are dying: they may have the MAC or the address of one to come."""
        oldest = time.monotonic() - _DYING_S
        names = {name for name, since in self._dying.get(lower, {}).items() if since > oldest}
        if names:
            await in_thread_of_its_own(outlast, names)
        left = {one: since for one, since in self._dying.pop(lower, {}).items() if since > oldest and one not in names}
        if left:
            self._dying[lower] = left

    async def remove(self, one: Upper) -> None:
        """Remove the link, one that is shared if nobody else has it."""
        if one.moves and self.netlink.is_missing([one.name]):
            self._dying.setdefault(one.lower, {})[one.name] = time.monotonic()
        if not one.shared:
            await super().remove(one)
            return
        async with self._lock:
            if not self._sharing.get(one.name):
                self._sharing.pop(one.name, None)
                await super().remove(one)

    async def is_in_use(self, name: str, kind: str) -> bool:
        """Tell whether anything may need a link: what stands on a VLAN may be in containers. Raises HostError."""
        if await super().is_in_use(name, kind):
            return True
        there = await asyncio.to_thread(elsewhere) if kind == "vlan" else Elsewhere({})
        return bool(there.places or there.unsure)

    def share(self, one: Upper, owner: Owner) -> None:
        """Keep a shared link from going with another of its owners."""
        if one.shared:
            self._sharing.setdefault(one.name, set()).add(owner)

    def leave(self, one: Upper, owner: Owner) -> None:
        """Let a shared link go with the others of its owners."""
        if one.shared:
            self._sharing.get(one.name, set()).discard(owner)

    async def repair_inside(self, one: Upper, namespace: int | None, key: str, interface: SandboxInterface) -> None:
        """Make a link again that went with its lower one, in the container that had it. Raises HostError."""
        if one.moves:
            await in_thread_of_its_own(make_inside, one, namespace, key, interface)

    @staticmethod
    def expect(one: Upper, owner: Owner, health: Health) -> None:
        """Want the link as it was made, or one that moves to be as long as its lower one is."""
        if one.moves:
            health.expect_move(one.name)
            health.expect_on(one.lower, owner, one.name, one.word)
        else:
            health.expect_link(owner, one, wrong)

    @staticmethod
    def forget(one: Upper, owner: Owner, health: Health) -> None:
        """Want it no more."""
        if one.moves:
            health.forget_move(one.name)
            health.forget_on(one.lower, owner, one.name)
        else:
            health.forget_link(owner, one.name)
