"""Links and addresses, through netlink; nothing here reads more than the one object it is about.

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
from typing import Any

import structlog
from netaddr import IPAddress, IPNetwork
from pyroute2 import AsyncIPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from pynetdriver.errors import Conflict, HostError
from pynetdriver.kernel.sandbox import Place
from pynetdriver.kernel.wire import (
    LinkSeen,
    addresses_of,
    all_addresses,
    all_links,
    all_routes,
    index_of,
    index_of_present,
    told,
)
from pynetdriver.model import Link
from pynetdriver.names import LINK_GROUP, PLAIN_GROUP
from pynetdriver.nlmsg import order
from pynetdriver.plan import Address, Adopted, Bridge, Dummy, Hairpin, Parent, Route, Up, Upper, Veth

log = structlog.get_logger()

_SO_RCVBUFFORCE, _BUFFER_BYTES = 33, 8 << 20
_IFA_F_NODAD = 0x02
_IFF_UP = 0x01
#: They do nothing but wait.
_DELETING_THREADS = 32
_LOOK_S = 0.0005
_RTN_UNICAST, _RTN_LOCAL = 1, 2
#: rtnetlink(7): scope link; linux/rtnetlink.h: say which route would be used as it stands in its table.
_SCOPE_LINK, _FIB_MATCH = 253, 0x2000
#: A routing protocol number that nobody else uses (linux/rtnetlink.h, iproute2's rt_protos): "p" in ASCII.
ROUTE_PROTOCOL = 0x70
#: Of linux/neighbour.h: an entry of a bridge's table that neither ages nor moves to another port.
_NUD_NOARP = 0x40
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40
#: What the kernel gives a bridge whose last port went (net/bridge/br_if.c, br_mtu_min).
_MTU_WITHOUT_PORTS = 1500
#: Why the kernel puts no link on another (drivers/net/macvlan.c, drivers/net/ipvlan/ipvlan_main.c).
_NO_UPPER = {
    errno.EEXIST: "it carries that VLAN under another name",
    errno.EBUSY: "it is a port of a bridge or bond, or carries links of another kind",
    errno.EINVAL: "a link in passthru mode shares it with no other, or it takes none of that kind or MTU",
}
_NO_MAC = "00:00:00:00:00:00"
#: struct ifinfomsg (linux/rtnetlink.h).
_LINK = struct.Struct("=BxHiII")
#: The kinds of links that pynet makes, and the group in which each begins.
_GROUPS = dict.fromkeys(("bridge", "veth"), LINK_GROUP) | dict.fromkeys(
    ("dummy", "vlan", "macvlan", "ipvlan"), PLAIN_GROUP
)
#: Addresses in the public internet: the kernel is asked which link it would leave by, nothing is sent.
_SOMEWHERE = ("1.1.1.1", "9.9.9.9", "2606:4700::1111")


class _Ipvlan(nla):  # type: ignore[misc]
    """The attributes of linux/if_link.h, of which the library knows the first two."""

    prefix = "IFLA_"
    nla_map = (("IFLA_IPVLAN_UNSPEC", "none"), ("IFLA_IPVLAN_MODE", "uint16"), ("IFLA_IPVLAN_FLAGS", "uint16"))


ifinfmsg.ifinfo.register_link_kind(module={"ipvlan": _Ipvlan})


class _Requests(AsyncIPRoute):  # type: ignore[misc]
    """A socket for requests with one answer each.

    The library stops reading at the answer, and would keep for ever what comes after it, the acknowledgement, and what
    is left of a request that was given up.
    """

    def setup_socket(self) -> socket.socket:
        one: socket.socket = super().setup_socket()
        # Of many calls at once each has an answer waiting; without room for one the library is done with the socket.
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        return one

    def enqueue(self, data: bytes, addr: object) -> None:
        (request,) = struct.unpack_from("=8xI", data)
        if request in self.msg_queue.queues:
            self.msg_queue.put_nowait(request, data)


class Netlink:
    """One long-lived socket for what is quick, threads for removals."""

    def __init__(self) -> None:
        self._netlink = _Requests()
        self._threads = ThreadPoolExecutor(_DELETING_THREADS, thread_name_prefix="netlink")

    async def close(self) -> None:
        """Close all sockets, and see removals to their end."""
        self._threads.shutdown()
        self._netlink.close()

    def links(self) -> set[str]:
        """List the names of this namespace's links; cheap even with thousands."""
        with told("list this host's links"):
            return {name for _, name in socket.if_nameindex()}

    def is_missing(self, names: Iterable[str]) -> bool:
        """Tell whether any of these links does not exist."""
        return any(index_of(name) is None for name in names)

    async def kind_of_ours(self, name: str) -> str | None:
        """Tell the kind of a link that pynet made, None of any other."""
        index = index_of(name)
        if index is None:
            return None
        with told(f"look at link {name}"):
            link = await self._link(index)
            kind = str(link.get(("linkinfo", "kind")))
        return kind if _is_ours(link, kind) else None

    async def is_in_use(self, name: str) -> bool:
        """Tell whether a pair reaches into another namespace, a bridge has ports, or links here stand on one.

        Dumps all links.
        """
        index = index_of(name)
        if index is None:
            return False
        with told(f"look at link {name}"):
            if (await self._link(index)).get("link_netnsid") is not None:
                return True
        # The ends of a pair stand on each other.
        links = await asyncio.to_thread(all_links)
        return any(one.master == index or (one.lower == index and one.kind != Veth.kind) for one in links)

    async def place_of_peer(self, name: str) -> Place:
        """Find the other end of a pair, which is in a container. Raises HostError."""
        with told(f"find the other end of {name}"):
            link = await self._link(index_of_present(name))
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
        with told(f"look at link {name}"):
            link = await self._link(index)
            kind = link.get(("linkinfo", "kind")) or "device"
            master = link.get("master")
            return Link(
                name=name,
                kind=kind,
                mtu=int(link.get("mtu")),
                mac=link.get("address") or "",
                up=bool(link["flags"] & _IFF_UP),
                ours=_is_ours(link, kind),
                master=socket.if_indextoname(master) if master else None,
                addresses=addresses_of(index),
            )

    async def uplink(self) -> tuple[str, int] | None:
        """Tell the name and MTU of the link that the default route uses, None without one."""
        for somewhere in _SOMEWHERE:
            try:
                (route,) = await self._netlink.route("get", dst=somewhere)
                if route["type"] == _RTN_UNICAST:
                    link = await self._link(route.get("oif"))
                    return str(link.get("ifname")), int(link.get("mtu"))
            except NetlinkError:
                continue
        return None

    async def router(self, link: str, version: int) -> IPAddress | None:
        """Tell whom the host itself sends to by a link what is for elsewhere, None if nobody."""
        for somewhere in (one for one in _SOMEWHERE if (":" in one) == (version == 6)):
            with contextlib.suppress(NetlinkError, OSError):
                (route,) = await self._netlink.route("get", dst=somewhere, oif=socket.if_nametoindex(link))
                gateway = route.get("gateway")
                return IPAddress(gateway) if gateway else None
        return None

    async def addresses(self) -> list[tuple[str, IPNetwork]]:
        """List the host's addresses with their prefix lengths, each after the name of its link."""
        with told("list this host's links"):
            names = dict(socket.if_nameindex())
        return [(names.get(index, ""), address) for index, address in await asyncio.to_thread(all_addresses)]

    async def networks_in_use(self) -> list[IPNetwork]:
        """List every prefix that the host has a route to or an address in, default routes left out."""
        return await asyncio.to_thread(all_routes) + [address.cidr for _, address in await self.addresses()]

    async def is_local(self, address: IPAddress) -> bool:
        """Tell whether an address is one of this host's own."""
        with contextlib.suppress(NetlinkError):
            (route,) = await self._netlink.route("get", dst=str(address))
            return bool(route["type"] == _RTN_LOCAL)
        return False

    async def ensure_bridge(self, bridge: Bridge | Dummy) -> None:
        """Make the bridge, or bring ours in line.

        Raises:
            Conflict: somebody else's link has the name.
        """
        wanted = {"mtu": bridge.mtu, "address": bridge.mac, "group": _GROUPS[bridge.kind]}
        with told(f"create {bridge.kind} {bridge.name}"):
            index = index_of(bridge.name)
            if index is None:
                await self._netlink.link("add", ifname=bridge.name, kind=bridge.kind, state="up", **wanted)
                return
            link = await self._ours(index, bridge.name, bridge.kind)
            if not link["flags"] & _IFF_UP or any(link.get(key) != value for key, value in wanted.items()):
                await self._netlink.link("set", index=index, state="up", **wanted)

    async def stands(self, bridge: Adopted) -> bool:
        """Tell whether an adopted bridge is there, and up if it was found so: else others have to see to it.

        Raises:
            Conflict: another kind of link has its name by now.
        """
        link = await self.describe(bridge.link)
        if link is not None and (link.kind != Bridge.kind or link.master):
            raise Conflict(_no_bridge(bridge.link))
        return link is not None and (link.up or not bridge.up)

    async def adopt(self, bridge: Adopted) -> None:
        """Bring up somebody else's bridge, and keep its MAC if it has no ports yet: it would be the containers'."""
        with told(f'use bridge "{bridge.link}"'):
            index = index_of(bridge.link)
            if index is None:
                raise HostError(_gone(bridge.link))
            link = await self._link(index)
            if link.get(("linkinfo", "kind")) != Bridge.kind or link.get("master"):
                raise Conflict(_no_bridge(bridge.link))
            if not link["flags"] & _IFF_UP:
                await self._netlink.link("set", index=index, state="up")
            if link.get("address") != _NO_MAC and not await self.is_in_use(bridge.link):
                await self._netlink.link("set", index=index, address=link.get("address"))

    async def give_back(self, bridge: Adopted) -> None:
        """Undo what `adopt` and ports did to a bridge, unless others have ports there.

        Raises:
            HostError: a port of pynet's is still there, so it is too early.
        """
        with told(f'give back bridge "{bridge.link}"'):
            index = index_of(bridge.link)
            if index is None:
                return
            ports = await self._ports(index)
            if any((one.kind, one.group) == (Veth.kind, _GROUPS[Veth.kind]) for one in ports):
                raise HostError(f'bridge "{bridge.link}" cannot be given back before the last container has left it')
            if ports:
                return
            if bridge.mtu != _MTU_WITHOUT_PORTS == (await self._link(index)).get("mtu"):
                await self._netlink.link("set", index=index, mtu=bridge.mtu)
            if not bridge.up:
                await self._netlink.link("set", index=index, state="down")

    async def ensure_veth(self, veth: Veth) -> None:
        """Make the pair as a port of its bridge, or put ours back that left it.

        Raises:
            Conflict: somebody else's link has the name.
        """
        with told(f"create link {veth.name}"):
            bridge = index_of(veth.bridge)
            if bridge is None:
                raise HostError(_gone(veth.bridge))
            index = index_of(veth.name)
            if index is None:
                peer = {"ifname": veth.peer, "mtu": veth.peer_mtu or veth.mtu, "address": veth.peer_mac}
                # Attributes beside `peer` are those of the host's end alone (drivers/net/veth.c, veth_newlink).
                # A bridge may take the lowest of its ports' addresses; one that begins so does not change it.
                mac = f"fe{veth.peer_mac[2:]}"
                ours = {"mtu": veth.mtu, "master": bridge, "group": LINK_GROUP, "address": mac}
                await self._netlink.link("add", ifname=veth.name, kind=veth.kind, peer=peer, state="up", **ours)
            else:
                link = await self._ours(index, veth.name, veth.kind)
                if (link.get("master"), link.get("mtu")) != (bridge, veth.mtu) or not link["flags"] & _IFF_UP:
                    await self._netlink.link("set", index=index, mtu=veth.mtu, master=bridge, state="up")
            flags = {"isolated": veth.isolated, "locked": veth.locked}
            if any(flags.values()):
                index = index_of_present(veth.name)
                if veth.locked:
                    await self._netlink.fdb(
                        "replace",
                        ifindex=index,
                        lladdr=veth.peer_mac,
                        state=_NUD_NOARP,
                        flags=_NTF_MASTER | _NTF_STICKY,
                    )
                await self._netlink.brport("set", index=index, **{flag: 1 for flag, is_on in flags.items() if is_on})

    async def ensure_upper(self, upper: Upper) -> None:
        """Make a link on top of another, down, or bring ours in line.

        Raises:
            Conflict: somebody else's link has the name, or the lower one is in use in another way.
        """
        with told(f'create {upper.kind} link {upper.name} on "{upper.lower}"'):
            lower = index_of(upper.lower)
            if lower is None:
                raise HostError(no_parent(upper.lower))
            index = index_of(upper.name)
            if index is not None:
                link = await self._ours(index, upper.name, upper.kind)
                wanted = {"address": upper.mac, "mtu": upper.mtu}
                changed = {key: value for key, value in wanted.items() if value and link.get(key) != value}
                if changed:
                    await self._netlink.link("set", index=index, **changed)
                return
            await self._add_upper(upper, lower)
            if upper.moves:
                # What it is found by where it has another name.
                await self._netlink.link("set", index=index_of_present(upper.name), ifalias=upper.name)

    async def _add_upper(self, upper: Upper, lower: int) -> None:
        wanted: dict[str, Any] = {f"{upper.kind}_{key}": value for key, value in upper.attributes}
        wanted |= {"mtu": upper.mtu} if upper.mtu else {}
        wanted |= {"address": upper.mac} if upper.mac else {}
        try:
            await self._netlink.link("add", ifname=upper.name, kind=upper.kind, link=lower, group=PLAIN_GROUP, **wanted)
        except NetlinkError as error:
            if error.code not in _NO_UPPER:
                raise
            why = _NO_UPPER[error.code]
            raise Conflict(
                f'the kernel puts no {upper.kind} link on "{upper.lower}": {why}; use another parent'
            ) from error

    async def try_upper(self, upper: Upper) -> None:
        """Make a link and remove it. Raises Conflict if its lower one takes no such link."""
        try:
            await self.ensure_upper(upper)
        finally:
            await self.remove_link(upper.name, upper.kind)

    async def ensure_up(self, up: Up) -> None:
        """Bring a link up; looked at first, as a change that changes nothing is told to everybody too."""
        with told(f"bring up link {up.link}"):
            index = index_of_present(up.link)
            if not (await self._link(index))["flags"] & _IFF_UP:
                await self._netlink.link("set", index=index, state="up")

    async def ensure_parent(self, parent: Parent) -> None:
        """Require a link that others made.

        Raises:
            HostError: it is not there.
        """
        if index_of(parent.link) is None:
            raise HostError(no_parent(parent.link))

    async def ensure_route(self, route: Route) -> None:
        """Lead an address to a link of ours.

        Raises:
            Conflict: somebody else has a route of his own to it.
        """
        with told(f"add route to {route.address} by {route.link}"):
            wanted = self._route(route)
            try:
                await self._netlink.route("add", **wanted)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                (there,) = await self._netlink.route("get", dst=str(route.address), flags=_FIB_MATCH)
                if there.get("oif") != wanted["oif"]:
                    link = socket.if_indextoname(there.get("oif"))
                    raise Conflict(
                        f'this host has a route of its own to {route.address} by "{link}"; remove it, or choose'
                        " another address"
                    ) from None
                # An IPv6 route outlives its source address, but without it (net/ipv6/route.c, fib6_remove_prefsrc).
                if there.get("prefsrc") != wanted.get("prefsrc"):
                    await self._netlink.route("replace", **wanted)

    async def remove_route(self, route: Route) -> None:
        """Undo `ensure_route`; an absent route is fine, and so is one whose link is gone."""
        if index_of(route.link) is None:
            return
        with told(f"remove route to {route.address} by {route.link}"):
            try:
                await self._netlink.route("del", **self._route(route))
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENODEV):
                    raise

    @staticmethod
    def _route(route: Route) -> dict[str, Any]:
        length = 32 if route.address.version == 4 else 128
        scope = {"scope": _SCOPE_LINK} if route.address.version == 4 else {}
        index = index_of_present(route.link)
        source = {"prefsrc": str(route.source)} if route.source else {}
        return {"dst": f"{route.address}/{length}", "oif": index, "proto": ROUTE_PROTOCOL, **scope, **source}

    async def ensure_hairpin(self, hairpin: Hairpin) -> None:
        """Let a bridge port send packets back to where they came from."""
        with told(f"set hairpin mode of {hairpin.link}"):
            await self._netlink.brport("set", index=index_of_present(hairpin.link), mode=1)

    async def remove_hairpin(self, hairpin: Hairpin) -> None:
        """Undo `ensure_hairpin`; a link that is gone, or no port any more, is fine."""
        index = index_of(hairpin.link)
        if index is None:
            return
        with told(f"end hairpin mode of {hairpin.link}"):
            try:
                await self._netlink.brport("set", index=index, mode=0)
            except NetlinkError as error:
                if error.code not in (errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    async def ensure_address(self, address: Address) -> None:
        """Give a link an address; IPv6 without duplicate address detection, to be usable at once."""
        with told(f"add address {address.address} to {address.link}"):
            flags = {"flags": _IFA_F_NODAD} if address.address.version == 6 else {}
            try:
                await self._netlink.addr(
                    "add",
                    index=index_of_present(address.link),
                    address=str(address.address.ip),
                    prefixlen=address.address.prefixlen,
                    **flags,
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

    async def remove_address(self, address: Address) -> None:
        """Take an address from a link; an absent one is fine."""
        index = index_of(address.link)
        if index is None:
            return
        with told(f"remove address {address.address} from {address.link}"):
            try:
                await self._netlink.addr(
                    "del", index=index, address=str(address.address.ip), prefixlen=address.address.prefixlen
                )
            except NetlinkError as error:
                if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise

    async def remove_link(self, name: str, kind: str) -> None:
        """Remove our link and what hangs on it; an absent one is fine, somebody else's is left alone."""
        with told(f"remove link {name}"):
            index = index_of(name)
            if index is None:
                return
            try:
                if not _is_ours(await self._link(index), kind):
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

    async def _ports(self, index: int) -> list[LinkSeen]:
        return [one for one in await asyncio.to_thread(all_links) if one.master == index]

    async def _ours(self, index: int, name: str, kind: str) -> Any:
        link = await self._link(index)
        if not _is_ours(link, kind):
            found = link.get(("linkinfo", "kind")) or "link"
            raise Conflict(f'{found} "{name}" exists on this host and is not pynet\'s; rename or remove it')
        return link

    async def _link(self, index: int) -> Any:
        (link,) = await self._netlink.link("get", index=index)
        return link


def _remove_link(index: int) -> None:
    """Send RTM_DELLINK and wait for the answer (rtnetlink(7)); OSError if it is a refusal."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        try:
            order(one, RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _is_ours(link: Any, kind: str) -> bool:
    return bool(link.get(("linkinfo", "kind")) == kind and link.get("group") == _GROUPS.get(kind))


def no_parent(name: str) -> str:
    """Say that the link on which a network stands is not there."""
    return f'parent "{name}" is not on this host (any more); bring it back, or give it that name again'


def _gone(bridge: str) -> str:
    return f'bridge "{bridge}" is gone from this host; make it again if it is yours, or restart pynet to restore it'


def _no_bridge(name: str) -> str:
    return f'"{name}" is not the bridge any more that a network adopted; rename it, and make the bridge again'
