"""A route of the host to one address on a link of pynet's, with a routing protocol number of pynet's own."""

from __future__ import annotations

import errno
import socket
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import Conflict
from pynetdriver.kernel.health import Health, Thing
from pynetdriver.kernel.objects.kind import Kind, Notices
from pynetdriver.kernel.rtnetlink import (
    DELROUTE,
    DESTINATION,
    OUT_LINK,
    ROUTE_BYTES,
    ROUTE_GROUPS,
    ROUTE_PROTOCOL,
    SCOPE_LINK,
    host_errors,
    index_of,
    index_of_present,
    number,
    routes,
)
from pynetdriver.nlmsg import attributes
from pynetdriver.plan import Owner, Route

#: Where struct rtmsg has the protocol.
_PROTOCOL = 5
#: linux/rtnetlink.h: say which route would be used as it stands in its table.
_FIB_MATCH = 0x2000


def tell_of_route(health: Health, body: bytes, *, is_there: bool) -> None:
    """Tell of a route that is gone, if it was pynet's."""
    if body[_PROTOCOL] == ROUTE_PROTOCOL:
        health.thing_gone(*_found(body))


def _found(body: bytes) -> tuple[bytes, int]:
    """Take from a message a route's destination and the index of its link."""
    found = dict(attributes(body, ROUTE_BYTES))
    return found.get(DESTINATION, b""), number(found.get(OUT_LINK))


class RouteKind(Kind[Route]):
    """It goes with its link, but not with its owner where the link stays.

    Of one that was replaced the kernel tells nothing, so `difference` looks for that.
    """

    notices = Notices(ROUTE_GROUPS, None, DELROUTE, tell_of_route)

    async def ensure(self, one: Route) -> None:
        """Lead an address to a link of ours.

        Raises:
            Conflict: somebody else has a route of his own to it.
        """
        with host_errors(f"add route to {one.address} by {one.link}"):
            wanted = _wanted(one)
            try:
                await self.netlink.requests.route("add", **wanted)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                (there,) = await self.netlink.requests.route("get", dst=str(one.address), flags=_FIB_MATCH)
                if there.get("oif") != wanted["oif"]:
                    link = socket.if_indextoname(there.get("oif"))
                    raise Conflict(
                        f'this host has a route of its own to {one.address} by "{link}"; remove it, or choose'
                        " another address"
                    ) from None
                # An IPv6 route outlives its source address, but without it (net/ipv6/route.c, fib6_remove_prefsrc).
                if there.get("prefsrc") != wanted.get("prefsrc"):
                    await self.netlink.requests.route("replace", **wanted)

    async def remove(self, one: Route) -> None:
        """Remove the route; an absent one is fine, and so is one whose link is gone."""
        if index_of(one.link) is None:
            return
        with host_errors(f"remove route to {one.address} by {one.link}"):
            try:
                await self.netlink.requests.route("del", **_wanted(one))
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENODEV):
                    raise

    @staticmethod
    def expect(one: Route, owner: Owner, health: Health) -> None:
        """Want it as long as its link and its source address are there, and again when these are."""
        health.expect_thing(one.address.packed, Thing(owner, "route", one.link, str(one)))
        health.expect_on(one.link, owner, str(one), "route", one.source)

    @staticmethod
    def forget(one: Route, owner: Owner, health: Health) -> None:
        """Want it no more."""
        health.forget_thing(one.address.packed)
        health.forget_on(one.link, owner, str(one))

    @staticmethod
    def look(one: socket.socket) -> set[tuple[bytes, int]]:
        """List pynet's own routes by destination and index of their link."""
        return {_found(body) for body in routes(one, ROUTE_PROTOCOL)}

    @staticmethod
    def difference(one: Route, looked: set[tuple[bytes, int]]) -> tuple[str, str] | None:
        """Tell of a route that is not there."""
        index = index_of(one.link)
        return None if (one.address.packed, index) in looked else ("route", f"{one} is gone")


def _wanted(route: Route) -> dict[str, Any]:
    length = 32 if route.address.version == 4 else 128
    scope = {"scope": SCOPE_LINK} if route.address.version == 4 else {}
    index = index_of_present(route.link)
    source = {"prefsrc": str(route.source)} if route.source else {}
    return {"dst": f"{route.address}/{length}", "oif": index, "proto": ROUTE_PROTOCOL, **scope, **source}
