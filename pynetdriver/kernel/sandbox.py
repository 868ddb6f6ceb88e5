"""Where pynet's links went: they are found in other network namespaces without entering these.

Inside is only done what the engine does not do: another address that a server gave, a link that was lost.

The kernel numbers a namespace when a link is moved there, and answers for the links of a numbered one
(IFLA_TARGET_NETNSID of linux/if_link.h). A link has its first name as alias, which outlasts renaming.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from netaddr import IPNetwork
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import HostError
from pynetdriver.kernel.rtnetlink import (
    ALIAS,
    ALL_LINKS,
    GETLINK,
    GETNSID,
    IFA_F_NODAD,
    IFNAME,
    LINK_BYTES,
    LOWER,
    LOWER_NSID,
    NSID,
    NSID_BYTES,
    NSID_OF_DESCRIPTOR,
    SCOPE_LINK,
    TARGET_NSID,
    host_errors,
    number,
    route_socket,
    text,
)
from pynetdriver.names import OUR_NAMES
from pynetdriver.nlmsg import ask, attribute, attributes, dump, look
from pynetdriver.paths import seen
from pynetdriver.plan import SandboxInterface, Upper

#: The attribute as bytes in a message about a link: parsing all attributes of all links would block the event loop.
_OUR_ALIAS = re.compile(re.escape(struct.pack("=HH", 20, ALIAS)) + rb"(%s)\0" % OUR_NAMES.pattern.encode())
# linux/sched.h
_CLONE_NEWNET = 0x40000000
#: How long sandboxes that died are waited for.
_CLEARING_S = 5.0
#: A list that changes all the time is not asked for again after this.
_WITHIN_S = 0.2


class Place(NamedTuple):
    """The number of a namespace, and a link's index in it."""

    number: int
    link: int


@dataclass(frozen=True)
class Elsewhere:
    """Pynet's links in namespaces into which links were moved, by their aliases.

    Who is root in a namespace can have its list of links change all the time, or make a link that is too large for a
    list. `unsure` are the numbers of such namespaces, and `unread` tells that one was not listed to its end.
    """

    places: dict[str, Place]
    unsure: frozenset[int] = frozenset()
    unread: bool = False

    def may_hold(self, number: int | None) -> bool:
        """Tell whether a link that was not found may be in the namespace of a number, or in any if that is unknown."""
        return self.unread if number is None else number in self.unsure


def elsewhere() -> Elsewhere:
    """Look for pynet's links in namespaces into which links were moved.

    Takes about 0.1 ms a namespace, so it is for threads.

    Raises:
        HostError: the kernel does not answer.
    """
    places, unsure, unread = {}, set(), False
    with host_errors("look for links in containers"):
        for number, bodies, is_whole in links_elsewhere(ALL_LINKS, alias_of):
            for body in bodies:
                places[alias_of(body) or ""] = Place(number, *struct.unpack_from("=4xi", body))
            if not is_whole:
                unsure.add(number)
                unread |= is_whole is None
    return Elsewhere(places, frozenset(unsure), unread)


def place_of(alias: str) -> Place:
    """Find a link in a container by its alias, for threads. Raises HostError."""
    try:
        return elsewhere().places[alias]
    except KeyError:
        raise HostError(f"link {alias} is in no container") from None


def readdress(place: Place, key: str, former: IPNetwork | None, interface: SandboxInterface) -> None:
    """Give a link in a container other addresses and routes; for threads of their own alone.

    Args:
        key: the path of the container's namespace, which not every mount namespace shows.
        former: the address that goes.

    Raises:
        HostError: the container is not to be found, or the kernel refuses.
    """
    with host_errors("give a link in its container another address"):
        with _namespace(place.number, key) as namespace:
            _enter(namespace)
        with IPRoute() as netlink:
            if former is not None:
                with contextlib.suppress(NetlinkError):
                    netlink.addr("del", index=place.link, address=str(former.ip), prefixlen=former.prefixlen)
            _furnish(netlink, place.link, interface)


def made_with(upper: Upper) -> dict[str, Any]:
    """Tell what a link that stands on another is made with, but for names and indices."""
    wanted: dict[str, Any] = {f"{upper.kind}_{name}": value for name, value in upper.attributes}
    wanted |= {"address": upper.mac} if upper.mac else {}
    return wanted | ({"mtu": upper.mtu} if upper.mtu else {})


def make_inside(upper: Upper, number: int | None, key: str, interface: SandboxInterface) -> None:
    """Make a link anew that went with its lower one, in the container that had it; for threads of their own alone.

    Args:
        number: that of the container's namespace, None if it is not known.

    Raises:
        HostError: the container is not to be found, or the kernel refuses.
    """
    with (
        host_errors(f"make link {upper.name} again in its container"),
        _namespace(number, key) as namespace,
        IPRoute() as host,
    ):
        wanted = made_with(upper)
        wanted |= {"link": socket.if_nametoindex(upper.lower), "group": upper.group, "net_ns_fd": namespace}
        _enter(namespace)
        with IPRoute() as netlink:
            taken = {name for _, name in socket.if_nameindex()}
            if upper.name in taken:
                # Left by a repair that did not finish.
                netlink.link("del", index=socket.if_nametoindex(upper.name))
            name = next(one for one in (f"{interface.prefix}{number}" for number in count()) if one not in taken)
            host.link("add", ifname=upper.name, kind=upper.kind, **wanted)
            index = socket.if_nametoindex(upper.name)
            try:
                netlink.link("set", index=index, ifname=name)
                if any(address.version == 6 for address in interface.addresses):
                    # Engines before 26 turn it off for the whole sandbox, and on for each link that has addresses.
                    seen(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("0")
                netlink.link("set", index=index, state="up")
                _furnish(netlink, index, interface)
                # Last: other code takes the alias for the sign that the link is complete.
                netlink.link("set", index=index, ifalias=upper.name)
            except BaseException:
                netlink.link("del", index=index)
                raise


def outlast(names: Set[str]) -> None:
    """Wait until links are gone that went with their sandboxes, for some seconds; for threads of their own alone.

    Until then the kernel keeps MACs and addresses from others on the same lower link. Of a namespace that nobody holds
    any more it says nothing, though its links are there still. Such ones are cleared away in the order in which they
    were given up (net/core/net_namespace.c), so what is in one that is given up now goes last.

    Raises:
        HostError: the kernel does not answer.
    """
    until = time.monotonic() + _CLEARING_S

    def wait_for(condition: Callable[[], bool]) -> None:
        while not condition() and time.monotonic() < until:
            time.sleep(0.01)

    wait_for(lambda: names.isdisjoint(elsewhere().places))
    with host_errors("wait until former containers' links are gone"):
        _leave()
        last = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _leave()
            with IPRoute() as netlink:
                netlink.link("add", ifname="here", kind="veth", peer={"ifname": "there", "net_ns_fd": last})
        finally:
            os.close(last)
        wait_for(lambda: all(name != "here" for _, name in socket.if_nameindex()))


async def in_thread_of_its_own(work: Callable[..., None], *arguments: object) -> None:
    """Run what leaves its thread in a container's namespace."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
    try:
        await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)
    finally:
        thread.shutdown(wait=False)  # a cancelled call must not block the loop until the thread ends


def _furnish(netlink: Any, index: int, interface: SandboxInterface) -> None:
    for address in interface.addresses:
        flags = {"flags": IFA_F_NODAD} if address.version == 6 else {}
        netlink.addr("replace", index=index, address=str(address.ip), prefixlen=address.prefixlen, **flags)
    for destination, next_hop in sorted(interface.ways, key=lambda way: way[1] is not None):
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        ways_out = [] if destination.prefixlen else list(netlink.get_default_routes(family=family))
        if any(route.get("oif") != index for route in ways_out):
            continue  # the way out is by another network of the container
        way = {"gateway": str(next_hop)} if next_hop else {"scope": SCOPE_LINK} if destination.version == 4 else {}
        netlink.route("replace", family=family, dst=str(destination), oif=index, **way)


def names_inside() -> dict[str, str]:
    """Map pynet's links to what they are called in their containers: those that moved, and the host's ends of pairs.

    What comes or goes meanwhile may be missing. For threads, like `elsewhere`.

    Raises:
        HostError: the kernel does not answer.
    """
    found = {}
    with host_errors("look for links in containers"), route_socket() as one:
        ends = {}
        for body in links(one, ALL_LINKS):
            values = dict(attributes(body, LINK_BYTES))
            name = text(values[IFNAME])
            if OUR_NAMES.fullmatch(name) and LOWER_NSID in values:
                ends[number(values[LOWER_NSID]), number(values[LOWER])] = name
        for namespace, bodies, _ in links_elsewhere(ALL_LINKS):
            for body in bodies:
                name_here = alias_of(body) or ends.get((namespace, *struct.unpack_from("=i", body, 4)))
                if name_here is not None:
                    found[name_here] = text(dict(attributes(body, LINK_BYTES))[IFNAME])
    return found


def links_elsewhere(
    request: bytes, wanted: Callable[[bytes], object] | None = None
) -> Iterator[tuple[int, list[bytes], bool | None]]:
    """Go through the namespaces into which links were moved: number, links, and whether these are all.

    That is None where the list was not read to its end. What goes wrong in one namespace is nothing to the others.

    Args:
        wanted: what of the links is kept, all if it is None.

    Raises:
        OSError: the kernel does not answer.
    """
    with contextlib.ExitStack() as held:
        one = held.enter_context(route_socket())
        for number in [found for body in dump(one, GETNSID, bytes(NSID_BYTES), partly=True) for found in _number(body)]:
            links: list[bytes] = []
            is_whole: bool | None = True
            try:
                asked = request + attribute(TARGET_NSID, struct.pack("=i", number))
                links, is_whole = look(one, GETLINK, asked, within_s=_WITHIN_S, wanted=wanted)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EACCES):  # it went meanwhile, or is not for us to see
                    is_whole = None
                    one = held.enter_context(route_socket())  # the answer to the former may yet come
            yield number, links, is_whole


def alias_of(body: bytes) -> str | None:
    """Tell the first name of a link that is pynet's and moved."""
    alias = _OUR_ALIAS.search(body)
    return alias[1].decode() if alias is not None else None


def links(one: socket.socket, request: bytes) -> list[bytes]:
    """List the links of this namespace; what comes or goes meanwhile may be missing. Raises OSError."""
    return dump(one, GETLINK, request, partly=True)


@contextlib.contextmanager
def _namespace(number: int | None, key: str) -> Iterator[int]:
    """Open the namespace that has a number: where the engine has it, or by a process that lives there."""
    for path in (seen(key), *(Path("/proc").glob("[0-9]*/ns/net") if number is not None else ())):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            found = _number_of(descriptor)
            if found is not None and number in (found, None):
                yield descriptor
                return
        finally:
            os.close(descriptor)
    raise HostError("the container's namespace is not visible here; mount the engine's folder, or share its processes")


def _number_of(descriptor: int) -> int | None:
    with route_socket() as one:
        request = bytes(NSID_BYTES) + attribute(NSID_OF_DESCRIPTOR, struct.pack("=i", descriptor))
        try:
            _, _, body = next(ask(one, GETNSID, 0, request))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None  # it is no network namespace
        return next(iter(_number(body)), None)


def _number(body: bytes) -> list[int]:
    numbers = [struct.unpack("=i", value)[0] for kind, value in attributes(body, NSID_BYTES) if kind == NSID]
    return [number for number in numbers if number >= 0]


def _leave() -> None:
    """Move this thread into a network namespace of its own (unshare(2))."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter(namespace: int) -> None:
    """Move this thread into a network namespace (setns(2))."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
