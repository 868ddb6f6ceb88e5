"""A link that pynet makes: what bridges, dummies, veth pairs and links on top of others have in common."""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable
from typing import TypeVar

from pynetdriver.kernel.health import Health, LinkState
from pynetdriver.kernel.objects.kind import Kind, Notices
from pynetdriver.kernel.rtnetlink import (
    ALL_LINKS,
    DELLINK,
    GETLINK,
    GROUP,
    IFF_PROMISC,
    IFF_UP,
    IFNAME,
    INFO_SLAVE_DATA,
    LINK_BYTES,
    LINK_GROUPS,
    LINKINFO,
    MAC,
    MASTER,
    MTU,
    NEW_NSID,
    NEWLINK,
    PROTINFO,
    host_errors,
    index_of,
    number,
    text,
)
from pynetdriver.nlmsg import attributes
from pynetdriver.plan import Bridge, Dummy, Made, Owner, Upper

L = TypeVar("L", bound=Made)

#: IFLA_INFO_KIND, as it is in messages about bridges alone: of their ports it is IFLA_INFO_SLAVE_KIND.
_BRIDGE = struct.pack("=HH", 11, 1) + b"bridge\0"
#: Of bridge ports: IFLA_BRPORT_… of linux/if_link.h.
_MODES = {4: "hairpin", 33: "isolated", 39: "locked"}


def tell_of_link(health: Health, body: bytes, *, is_there: bool) -> None:
    """Tell of a link what a message says; one that is of no interest is not taken apart."""
    family, index, flags = struct.unpack_from("=B3xiI", body)
    is_bridge = is_there and _BRIDGE in body
    if not is_there and family != socket.AF_BRIDGE:
        health.bridge_gone(index)
        health.followed.gone(index)
    found: dict[int, bytes] = {}
    for attribute, value in attributes(body, LINK_BYTES):
        found[attribute] = value
        if attribute == IFNAME:
            if is_bridge:
                health.bridge_seen(index, text(value))
            is_followed = is_there and health.followed.named(index, text(value))
            if not health.is_of_interest(text(value), is_there=is_there) and not is_followed:
                return
    name = text(found.get(IFNAME))
    if not is_there:
        if NEW_NSID in found:
            health.link_moved(name, number(found[NEW_NSID]))
        if family != socket.AF_BRIDGE:  # or else it is a port that left its bridge
            health.link_gone(name)
        return
    port = found.get(PROTINFO) or dict(attributes(found.get(LINKINFO, b""))).get(INFO_SLAVE_DATA, b"")
    modes = {_MODES[mode] for mode, value in attributes(port) if mode in _MODES and value[0]}
    if family != socket.AF_BRIDGE:  # or else it says nothing of the rest
        state = (index, flags & IFF_UP, *(found.get(one) for one in (MTU, MAC, MASTER, GROUP)))
        health.followed.seen(name, state)
    health.link_seen(
        LinkState(
            name,
            up=bool(flags & IFF_UP),
            mtu=number(found.get(MTU)),
            mac=found.get(MAC, b"").hex(":"),
            master=number(found.get(MASTER)),
            modes=frozenset(modes),
            promiscuous=bool(flags & IFF_PROMISC),
        )
    )


class LinkKind(Kind[L]):
    """Links are known by their names: one of the same name in a new plan is brought in line, not removed."""

    notices = Notices(LINK_GROUPS, NEWLINK, DELLINK, tell_of_link, ("link", GETLINK, ALL_LINKS))

    async def remove(self, one: L) -> None:
        """Remove the link, and with it what hangs on it; somebody else's of that name is left alone."""
        await self.netlink.remove_link(one.name, one.kind)

    async def is_in_use(self, name: str, kind: str) -> bool:
        """Tell whether anything may need a link that no plan names. Raises HostError."""
        return await self.netlink.is_in_use(name)

    @staticmethod
    def key(one: L) -> Hashable:
        """Give the link's name."""
        return one.name

    @staticmethod
    def expect(one: L, owner: Owner, health: Health) -> None:
        """Want the link up, with its MTU and MAC."""
        health.expect_link(owner, one, wrong)

    @staticmethod
    def forget(one: L, owner: Owner, health: Health) -> None:
        """Want it no more."""
        health.forget_link(owner, one.name)

    async def ensure_end(self, one: Bridge | Dummy) -> None:
        """Make a link that stands on no other and is up from the beginning, or bring ours in line.

        Raises:
            Conflict: somebody else's link has the name.
        """
        wanted = {"mtu": one.mtu, "address": one.mac, "group": one.group}
        with host_errors(f"create {one.kind} {one.name}"):
            index = index_of(one.name)
            if index is None:
                await self.netlink.requests.link("add", ifname=one.name, kind=one.kind, state="up", **wanted)
                return
            link = await self.netlink.ours(index, one.name, one.kind)
            if not link["flags"] & IFF_UP or any(link.get(key) != value for key, value in wanted.items()):
                await self.netlink.requests.link("set", index=index, state="up", **wanted)


def down_or_resized(one: Made, link: LinkState) -> str:
    """Say what any link may have wrong; empty if it has not."""
    if not link.up:
        return "is down"
    if one.mtu and link.mtu != one.mtu:
        return f"has the MTU {link.mtu} in place of {one.mtu}"
    return ""


def wrong(one: Bridge | Dummy | Upper, link: LinkState) -> str:
    """Say what is wrong with a link; empty if nothing is."""
    found = down_or_resized(one, link)
    if found:
        return found
    return f"has the MAC {link.mac} in place of {one.mac}" if one.mac and link.mac != one.mac else ""
