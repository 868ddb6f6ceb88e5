"""All that plans name beside all that the kernel has, at one moment.

`health` is told only of what the kernel tells of by itself: not of switches, nor of routes that were replaced.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from pynetdriver.kernel import settings
from pynetdriver.kernel.health import Damage, Health
from pynetdriver.kernel.netlink import ROUTE_PROTOCOL
from pynetdriver.kernel.watch import tell_of_address, tell_of_link
from pynetdriver.kernel.wire import route_socket, told
from pynetdriver.nlmsg import attributes, dump
from pynetdriver.plan import LinkSysctl, Plan, Route

# linux/rtnetlink.h, linux/if_link.h: struct ifinfomsg with an attribute, struct ifaddrmsg, struct rtmsg.
_GETLINK, _GETADDR, _GETROUTE, _EXT_MASK, _SKIP_STATS = 18, 22, 26, 29, 8
_ALL_LINKS = struct.pack("=BxHiIIHHI", 0, 0, 0, 0, 0, 8, _EXT_MASK, _SKIP_STATS)
_ALL_ADDRESSES = bytes(8)
_RTA_DST, _RTA_OIF = 1, 4


def differences(plans: Collection[Plan]) -> list[Damage]:
    """Find what is not as plans say, but for links that moved into containers; for threads.

    Raises:
        HostError: the kernel does not answer.
    """
    health = Health()
    for plan in plans:
        health.expect(plan)
    with told("look at this host's links, addresses and routes"), route_socket() as one:
        health.begin_look()
        for body in dump(one, _GETLINK, _ALL_LINKS):
            tell_of_link(health, body, is_there=True)
        health.end_look(links=True)
        health.begin_look()
        for body in dump(one, _GETADDR, _ALL_ADDRESSES):
            tell_of_address(health, body, is_there=True)
        health.end_look(links=False)
        routes = _routes(one)
    found = health.take()
    damaged = {one.owner for one in found}
    for plan in plans:
        if plan.owner not in damaged:
            found += [Damage(plan.owner, "route", f"{one} is gone") for one in plan.objects if _is_lost(one, routes)]
            switches = [one for one in plan.objects if isinstance(one, LinkSysctl) and settings.differs(one)]
            needed = [one for one in plan.settings if settings.needed(one)]
            found += [Damage(plan.owner, "switch", f"{one} is not so") for one in (*needed, *switches)]
    return found


def _routes(one: socket.socket) -> set[tuple[bytes, int]]:
    """List pynet's own routes by destination and index of their link."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
        for body in dump(one, _GETROUTE, request):
            values = dict(attributes(body, 12))
            if _RTA_DST in values and _RTA_OIF in values:
                found.add((values[_RTA_DST], struct.unpack("=i", values[_RTA_OIF])[0]))
    return found


def _is_lost(one: object, routes: set[tuple[bytes, int]]) -> bool:
    if not isinstance(one, Route):
        return False
    try:
        return (one.address.packed, socket.if_nametoindex(one.link)) not in routes
    except OSError:
        return True
