"""Looks at links, addresses and routes through netlink, and the removal of links; `objects` says how they are made.

A link is ours if a plan names it, its kind is one that pynet makes and its group is one of pynet's, which it
has from the call that makes it; any other of that name is left as it is. An index is looked up by ioctl
each time: it costs microseconds and cannot be stale. Removing a link is over after 2 ms, but the system call
then waits for an RCU barrier (20 ms), so that alone happens in threads, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import structlog
from netaddr import IPAddress, IPNetwork
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import Conflict, HostError
from pynetdriver.kernel.rtnetlink import (
    DELLINK,
    IFF_UP,
    LINK,
    LinkSeen,
    addresses_of,
    all_addresses,
    all_links,
    all_routes,
    host_errors,
    index_of,
    index_of_present,
)
from pynetdriver.kernel.sandbox import Place
from pynetdriver.model import Link
from pynetdriver.nlmsg import order
from pynetdriver.plan import Made, Veth

log = structlog.get_logger()

_SO_RCVBUFFORCE, _BUFFER_BYTES = 33, 8 << 20
#: Threads that wait in the kernel most of the time.
_DELETING_THREADS = 32
_LOOK_S = 0.0005
_RTN_UNICAST, _RTN_LOCAL = 1, 2
#: The kinds of links that pynet makes, and the group in which each begins.
GROUPS = {kind: one.group for one in get_args(Made) for kind in one.kinds}
#: Addresses in the public internet: the kernel is asked which link it would leave by, nothing is sent.
_SOMEWHERE = ("1.1.1.1", "9.9.9.9", "2606:4700::1111")


class _Requests(AsyncIPRoute):  # type: ignore[misc]
    """A socket for requests with one answer each.

    The library stops reading at the answer, and would keep for ever what comes after it, the acknowledgement, and what
    is left of a request that was given up.
    """

    def setup_socket(self) -> socket.socket:
        one: socket.socket = super().setup_socket()
        # Many calls have answers waiting at once; on a full buffer (ENOBUFS) the library stops using the socket.
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        return one

    def enqueue(self, data: bytes, addr: object) -> None:
        (request,) = struct.unpack_from("=8xI", data)
        if request in self.msg_queue.queues:
            self.msg_queue.put_nowait(request, data)


class Netlink:
    """One long-lived socket for what is quick, threads for removals."""

    def __init__(self) -> None:
        #: What kinds of objects are made and removed by.
        self.requests = _Requests()
        self._threads = ThreadPoolExecutor(_DELETING_THREADS, thread_name_prefix="netlink")

    async def close(self) -> None:
        """Close all sockets, and see removals to their end."""
        self._threads.shutdown()
        self.requests.close()

    def links(self) -> set[str]:
        """List the names of this namespace's links; cheap even with thousands."""
        with host_errors("list this host's links"):
            return {name for _, name in socket.if_nameindex()}

    def is_missing(self, names: Iterable[str]) -> bool:
        """Tell whether any of these links does not exist."""
        return any(index_of(name) is None for name in names)

    async def kind_of_ours(self, name: str) -> str | None:
        """Tell the kind of a link that pynet made, None of any other."""
        index = index_of(name)
        if index is None:
            return None
        with host_errors(f"look at link {name}"):
            link = await self.link(index)
            kind = str(link.get(("linkinfo", "kind")))
        return kind if _is_ours(link, kind) else None

    async def is_in_use(self, name: str) -> bool:
        """Tell whether a pair reaches into another namespace, a bridge has ports, or links here stand on one.

        Dumps all links.
        """
        index = index_of(name)
        if index is None:
            return False
        with host_errors(f"look at link {name}"):
            if (await self.link(index)).get("link_netnsid") is not None:
                return True
        # The ends of a pair stand on each other.
        links = await asyncio.to_thread(all_links)
        return any(one.master == index or (one.lower == index and one.kind != Veth.kind) for one in links)

    async def place_of_peer(self, name: str) -> Place:
        """Find the other end of a pair, which is in a container. Raises HostError."""
        with host_errors(f"find the other end of {name}"):
            link = await self.link(index_of_present(name))
        if link.get("link_netnsid") is None:
            raise HostError(f"the other end of {name} is in no container")
        return Place(int(link.get("link_netnsid")), int(link.get("link")))

    async def describe(self, name: str) -> Link | None:
        """Say what a link is, None if there is none of that name.

        Raises:
            Conflict: it is an alternative name, which the kernel tells nobody of.
        """
        index = index_of(name)
        if index is None:
            return None
        with contextlib.suppress(OSError):
            if (proper := socket.if_indextoname(index)) != name:
                raise Conflict(f'"{name}" is another name of link "{proper}"; use that one')
        with host_errors(f"look at link {name}"):
            link = await self.link(index)
            kind = link.get(("linkinfo", "kind")) or "device"
            master = link.get("master")
            return Link(
                name=name,
                kind=kind,
                mtu=int(link.get("mtu")),
                mac=link.get("address") or "",
                up=bool(link["flags"] & IFF_UP),
                ours=_is_ours(link, kind),
                master=socket.if_indextoname(master) if master else None,
                addresses=addresses_of(index),
            )

    async def uplink(self) -> tuple[str, int] | None:
        """Tell the name and MTU of the link that the default route uses, None without one."""
        for somewhere in _SOMEWHERE:
            try:
                (route,) = await self.requests.route("get", dst=somewhere)
                if route["type"] == _RTN_UNICAST:
                    link = await self.link(route.get("oif"))
                    return str(link.get("ifname")), int(link.get("mtu"))
            except NetlinkError:
                continue
        return None

    async def router(self, link: str, version: int) -> IPAddress | None:
        """Tell whom the host itself sends to by a link what is for elsewhere, None if nobody."""
        for somewhere in (one for one in _SOMEWHERE if (":" in one) == (version == 6)):
            with contextlib.suppress(NetlinkError, OSError):
                (route,) = await self.requests.route("get", dst=somewhere, oif=socket.if_nametoindex(link))
                gateway = route.get("gateway")
                return IPAddress(gateway) if gateway else None
        return None

    async def addresses(self) -> list[tuple[str, IPNetwork]]:
        """List the host's addresses with their prefix lengths, each after the name of its link."""
        with host_errors("list this host's links"):
            names = dict(socket.if_nameindex())
        return [(names.get(index, ""), address) for index, address in await asyncio.to_thread(all_addresses)]

    async def networks_in_use(self) -> list[IPNetwork]:
        """List every prefix that the host has a route to or an address in, default routes left out."""
        return await asyncio.to_thread(all_routes) + [address.cidr for _, address in await self.addresses()]

    async def is_local(self, address: IPAddress) -> bool:
        """Tell whether an address is one of this host's own."""
        with contextlib.suppress(NetlinkError):
            (route,) = await self.requests.route("get", dst=str(address))
            return bool(route["type"] == _RTN_LOCAL)
        return False

    async def remove_link(self, name: str, kind: str) -> None:
        """Remove our link and what hangs on it; an absent one is fine, somebody else's is left alone."""
        with host_errors(f"remove link {name}"):
            index = index_of(name)
            if index is None:
                return
            try:
                if not _is_ours(await self.link(index), kind):
                    log.warning("link has a name of pynet's but is not pynet's; left alone", link=name)
                    return
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise
                return
            removal = asyncio.get_running_loop().run_in_executor(self._threads, _remove_link, index)
            while not removal.done():
                if index_of(name) is None:
                    removal.add_done_callback(asyncio.Future.exception)
                    return
                await asyncio.sleep(_LOOK_S)
            removal.result()

    async def ports(self, bridge: int) -> list[LinkSeen]:
        """List the ports of a bridge; dumps all links. Raises HostError."""
        return [one for one in await asyncio.to_thread(all_links) if one.master == bridge]

    async def ours(self, index: int, name: str, kind: str) -> Any:
        """Look at a link of pynet's, in the library's form. Raises Conflict if it is somebody else's."""
        link = await self.link(index)
        if not _is_ours(link, kind):
            found = link.get(("linkinfo", "kind")) or "link"
            raise Conflict(f'{found} "{name}" exists on this host and is not pynet\'s; rename or remove it')
        return link

    async def link(self, index: int) -> Any:
        """Look at a link, in the library's form. Raises NetlinkError."""
        (link,) = await self.requests.link("get", index=index)
        return link


def _remove_link(index: int) -> None:
    """Send DELLINK and wait for the answer (rtnetlink(7)); OSError if it is a refusal."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        try:
            order(one, DELLINK, 0, LINK.pack(0, 0, index, 0, 0))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _is_ours(link: Any, kind: str) -> bool:
    return bool(link.get(("linkinfo", "kind")) == kind and link.get("group") == GROUPS.get(kind))
