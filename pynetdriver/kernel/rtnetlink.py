"""Links and addresses asked of the kernel by hand (rtnetlink(7)), and its refusals as errors of pynet's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from netaddr import IPAddress, IPNetwork
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import HostError
from pynetdriver.nlmsg import attribute, attributes, dump

# Kinds of messages, and multicast groups, of linux/rtnetlink.h and linux/net_namespace.h.
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR = 16, 17, 18, 20, 21, 22
DELROUTE, GETROUTE, DELNSID, GETNSID = 25, 26, 89, 90
LINK_GROUPS, ADDRESS_GROUPS, ROUTE_GROUPS, NSID_GROUPS = (1,), (5, 9), (7, 11), (28,)
# What messages begin with: struct ifinfomsg, struct ifaddrmsg, struct rtmsg, struct rtgenmsg.
LINK = struct.Struct("=BxHiII")
LINK_BYTES, ADDRESS_BYTES, ROUTE_BYTES, NSID_BYTES = 16, 8, 12, 4
# Attributes of linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/net_namespace.h.
MAC, IFNAME, MTU, LOWER, MASTER, PROTINFO, LINKINFO, ALIAS, STATS64 = 1, 3, 4, 5, 10, 12, 18, 20, 23
GROUP, EXT_MASK, LOWER_NSID, NEW_NSID, TARGET_NSID = 27, 29, 37, 45, 46
INFO_KIND, INFO_SLAVE_DATA = 1, 5
_ADDRESS, _LOCAL, _ADDRESS_NSID = 1, 2, 10
DESTINATION, OUT_LINK, NSID, NSID_OF_DESCRIPTOR = 1, 4, 1, 3
#: Flags of a link, and of an address that is usable at once (linux/if.h, linux/if_addr.h).
IFF_UP, IFF_PROMISC, IFA_F_NODAD = 0x1, 0x100, 0x02
#: Of a route that needs no next hop (rtnetlink(7)).
SCOPE_LINK = 253
#: A routing protocol number that nobody else uses (linux/rtnetlink.h, iproute2's rt_protos): "p" in ASCII.
ROUTE_PROTOCOL = 0x70
# linux/netlink.h.
_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
_SKIP_STATS = 8
_WAIT_S = 5.0

# linux/sockios.h, linux/if.h: struct ifreq begins with a name of 16 bytes, an index or flags follow.
_GET_INDEX, _GET_FLAGS, _SET_FLAGS = 0x8933, 0x8913, 0x8914
_IFREQ_INDEX, _IFREQ_FLAGS = struct.Struct("=16si20x"), struct.Struct("=16sH22x")


def link_request(index: int = 0, *, with_counters: bool = False) -> bytes:
    """Write a request for a link, or all of them; counters are most of an answer."""
    request = LINK.pack(0, 0, index, 0, 0)
    return request if with_counters else request + attribute(EXT_MASK, struct.pack("=I", _SKIP_STATS))


#: Requests for the lists of all links and addresses.
ALL_LINKS, ALL_ADDRESSES = link_request(), bytes(ADDRESS_BYTES)


@cache
def _lookup() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def index_of(name: str) -> int | None:
    """Look up a link's index, None if there is none of that name.

    The C library opens a socket for that, and takes it for absent where there is no descriptor left. Raises OSError.
    """
    if len(name.encode()) >= 16:
        return None
    try:
        answer = fcntl.ioctl(_lookup(), _GET_INDEX, _IFREQ_INDEX.pack(name.encode(), 0))
        return int(_IFREQ_INDEX.unpack(answer)[1])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def index_of_present(name: str) -> int:
    """Look up the index of a link that has to be there. Raises OSError."""
    index = index_of(name)
    if index is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return index


def flags_of(link: str, flags: int | None = None) -> int:
    """Read a link's flags, or set them (netdevice(7)); of promiscuity it is what users asked for. Raises OSError."""
    request = _IFREQ_FLAGS.pack(link.encode(), flags or 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        answer = fcntl.ioctl(one, _GET_FLAGS if flags is None else _SET_FLAGS, request)
    return int(_IFREQ_FLAGS.unpack(answer)[1])


def route_socket() -> socket.socket:
    """Open a socket for requests whose answers come at once."""
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    one.settimeout(_WAIT_S)
    # What a request says is to be left out is left out by the kernel.
    one.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
    return one


class LinkSeen(NamedTuple):
    """A link of a list, with the indices of the one that it stands on and of its master; 0 for none."""

    kind: str
    group: int
    lower: int
    master: int


# Each list has a socket of its own: on one that is shared, of two lists at a time one is refused (EBUSY), and what is
# left of one that was given up is in the way of the next.


def all_links() -> list[LinkSeen]:
    """List the links of this namespace; for threads. Raises HostError."""
    with host_errors("list this host's links"), route_socket() as one:
        return [_link_seen(body) for body in dump(one, GETLINK, ALL_LINKS, partly=True)]


def _link_seen(body: bytes) -> LinkSeen:
    found = dict(attributes(body, LINK_BYTES))
    kind = text(dict(attributes(found.get(LINKINFO, b""))).get(INFO_KIND))
    lower = 0 if LOWER_NSID in found else number(found.get(LOWER))
    return LinkSeen(kind, number(found.get(GROUP)), lower, number(found.get(MASTER)))


def all_addresses() -> list[tuple[int, IPNetwork]]:
    """List this namespace's addresses with their prefix lengths, after the indices of links; for threads.

    Raises HostError.
    """
    with host_errors("list this host's addresses"), route_socket() as one:
        bodies = dump(one, GETADDR, ALL_ADDRESSES, partly=True)
    return [(struct.unpack_from("=4xI", body)[0], _address(body)) for body in bodies]


def all_routes() -> list[IPNetwork]:
    """List what this namespace has routes to, in all tables, default routes left out; for threads. Raises HostError."""
    found: dict[tuple[bytes, int], None] = {}
    with host_errors("list this host's routes"), route_socket() as one:
        for body in routes(one, partly=True):
            destination = dict(attributes(body, ROUTE_BYTES)).get(DESTINATION)
            if destination and body[1]:
                found[destination, body[1]] = None
    return [_prefix(*one) for one in found]


def routes(one: socket.socket, protocol: int = 0, *, partly: bool = False) -> Iterator[bytes]:
    """Go through messages about routes of both families, of one protocol or all. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from dump(one, GETROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, protocol, 0, 0, 0), partly=partly)


def addresses_of(index: int, namespace: int | None = None) -> tuple[IPNetwork, ...]:
    """List the addresses of one link, which takes no longer the more others have.

    Args:
        namespace: the number of the one that the link is in, None for this one.

    Raises:
        HostError: it is not there, or the kernel does not answer.
    """
    where = b"" if namespace is None else attribute(_ADDRESS_NSID, struct.pack("=i", namespace))
    with host_errors("list the addresses of a link"), route_socket() as one:
        return tuple(_address(body) for body in dump(one, GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, index) + where))


def raw_address(body: bytes) -> tuple[bytes, int]:
    """Take from a message the address of a link as bytes, and its prefix length."""
    values = dict(attributes(body, ADDRESS_BYTES))
    return values.get(_LOCAL) or values.get(_ADDRESS, b""), body[1]


def _address(body: bytes) -> IPNetwork:
    return _prefix(*raw_address(body))


def _prefix(raw: bytes, length: int) -> IPNetwork:
    return IPNetwork(f"{IPAddress(int.from_bytes(raw), 4 if len(raw) == 4 else 6)}/{length}")


def number(value: bytes | None) -> int:
    """Read an attribute as a number; 0 if it is not there."""
    return int.from_bytes(value or b"", sys.byteorder)


def text(value: bytes | None) -> str:
    """Read an attribute as text; empty if it is not there."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


@contextlib.contextmanager
def host_errors(what: str) -> Iterator[None]:
    """Translate the kernel's refusal; `what` was to be done."""
    try:
        yield
    except NetlinkError as error:
        raise HostError.of(error.code, what) from error
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, what) from error
