"""Links and addresses, through netlink; nothing here reads more than the one object it is about.

Ownership is proved by name (`pynetdriver.names`). An index is looked up by ioctl each time: it costs
microseconds and cannot be stale. Removing a link waits for an RCU grace period inside the system call
(16 ms measured), so that alone happens in threads.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from netaddr import IPNetwork
from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import Conflict, HostError
from pynetdriver.names import LINK_GROUP
from pynetdriver.plan import Address, Bridge, Hairpin, Veth

_IFA_F_NODAD = 0x02
_IFF_UP = 0x01
_DELETING_THREADS = 4
_RTN_UNICAST = 1


class Netlink:
    """One long-lived socket for what is quick, a few threads with sockets of their own for removals."""

    def __init__(self) -> None:
        self._netlink = AsyncIPRoute()
        self._threads = ThreadPoolExecutor(_DELETING_THREADS, thread_name_prefix="netlink")
        self._local = threading.local()
        self._sockets: list[IPRoute] = []

    async def close(self) -> None:
        """Close all sockets."""
        self._threads.shutdown()
        for one in self._sockets:
            one.close()
        self._netlink.close()

    def links(self) -> set[str]:
        """List the names of this namespace's links; cheap even with thousands."""
        return {name for _, name in socket.if_nameindex()}

    def is_missing(self, names: Iterable[str]) -> bool:
        """Tell whether any of these links does not exist."""
        return any(_index(name) is None for name in names)

    async def is_in_use(self, name: str) -> bool:
        """Tell whether a pair reaches into another namespace, or a bridge has ports; dumps all links."""
        index = _index(name)
        if index is None:
            return False
        if (await self._link(index)).get("link_netnsid") is not None:
            return True
        return any([link.get("master") == index async for link in await self._netlink.link("dump")])

    async def uplink_mtu(self) -> int | None:
        """Tell the MTU of the link that the default route uses, None without one."""
        for family in (socket.AF_INET, socket.AF_INET6):
            routes = [
                route
                async for route in await self._netlink.get_routes(family=family)
                if not route["dst_len"] and route.get("oif") and route["type"] == _RTN_UNICAST
            ]
            if routes:
                best = min(routes, key=lambda route: route.get("priority") or 0)
                return int((await self._link(best.get("oif"))).get("mtu"))
        return None

    async def addresses(self) -> list[IPNetwork]:
        """List the host's addresses with their prefix lengths."""
        return [IPNetwork(f"{one.get('address')}/{one['prefixlen']}") async for one in await self._netlink.get_addr()]

    async def networks_in_use(self) -> list[IPNetwork]:
        """List every prefix that the host has a route to or an address in, default routes left out."""
        routes = [
            IPNetwork(f"{route.get('dst')}/{route['dst_len']}")
            async for route in await self._netlink.get_routes()
            if route["dst_len"] and route.get("dst")
        ]
        return routes + [address.cidr for address in await self.addresses()]

    async def ensure_bridge(self, bridge: Bridge) -> None:
        """Make the bridge, or bring one that differs in line."""
        wanted = {"mtu": bridge.mtu, "address": bridge.mac, "group": LINK_GROUP}
        with _told(f"create bridge {bridge.name}"):
            index = _index(bridge.name)
            if index is None:
                await self._netlink.link("add", ifname=bridge.name, kind="bridge", state="up", **wanted)
                return
            link = await self._link(index)
            if link.get(("linkinfo", "kind")) != "bridge":
                raise Conflict(f'link "{bridge.name}" exists and is not a bridge; rename or remove it')
            if not link["flags"] & _IFF_UP or any(link.get(key) != value for key, value in wanted.items()):
                await self._netlink.link("set", index=index, state="up", **wanted)

    async def ensure_veth(self, veth: Veth) -> None:
        """Make the pair as a port of its bridge, or put one that left it back."""
        with _told(f"create link {veth.name}"):
            bridge = _index(veth.bridge)
            if bridge is None:
                raise HostError(f'bridge "{veth.bridge}" is gone from this host; restart pynet to restore it')
            index = _index(veth.name)
            if index is None:
                peer = {"ifname": veth.peer, "mtu": veth.mtu, "address": veth.peer_mac}
                await self._netlink.link(
                    "add", ifname=veth.name, kind="veth", peer=peer, mtu=veth.mtu, master=bridge, state="up"
                )
                if veth.isolated:
                    await self._isolate(veth.name)
                return
            link = await self._link(index)
            if (link.get("master"), link.get("mtu")) != (bridge, veth.mtu) or not link["flags"] & _IFF_UP:
                await self._netlink.link("set", index=index, mtu=veth.mtu, master=bridge, state="up")
            if veth.isolated:
                await self._isolate(veth.name)

    async def ensure_hairpin(self, hairpin: Hairpin) -> None:
        """Let a bridge port send packets back to where they came from."""
        with _told(f"set hairpin mode of {hairpin.link}"):
            await self._netlink.brport("set", index=socket.if_nametoindex(hairpin.link), mode=1)

    async def ensure_address(self, address: Address) -> None:
        """Give a link an address; IPv6 without duplicate address detection, to be usable at once."""
        with _told(f"add address {address.address} to {address.link}"):
            flags = {"flags": _IFA_F_NODAD} if address.address.version == 6 else {}
            try:
                await self._netlink.addr(
                    "add",
                    index=socket.if_nametoindex(address.link),
                    address=str(address.address.ip),
                    prefixlen=address.address.prefixlen,
                    **flags,
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

    async def remove_link(self, name: str) -> None:
        """Remove a link and what hangs on it; an absent one is fine."""
        with _told(f"remove link {name}"):
            await asyncio.get_running_loop().run_in_executor(self._threads, self._remove_link, name)

    def _remove_link(self, name: str) -> None:
        if not hasattr(self._local, "netlink"):
            self._local.netlink = IPRoute()
            self._sockets.append(self._local.netlink)
        index = _index(name)
        if index is None:
            return
        try:
            self._local.netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise

    async def _isolate(self, name: str) -> None:
        await self._netlink.brport("set", index=socket.if_nametoindex(name), isolated=1)

    async def _link(self, index: int) -> Any:
        (link,) = await self._netlink.link("get", index=index)
        return link


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Translate the kernel's refusal; `what` was to be done."""
    try:
        yield
    except NetlinkError as error:
        raise HostError.of(error.code, what) from error
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, what) from error
