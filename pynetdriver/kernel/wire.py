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

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_ADDRESS, _LOCAL, _TARGET_NSID, _DESTINATION = 1, 2, 10, 1
_LOWER, _MASTER, _LINKINFO, _GROUP, _EXT_MASK, _LOWER_NSID, _KIND = 5, 10, 18, 27, 29, 37, 1
_SKIP_STATS = 8
_WAIT_S = 5.0


#: SIOCGIFINDEX of linux/sockios.h, with struct ifreq: a name of 16 bytes and an index.
_GET_INDEX, _IFREQ = 0x8933, struct.Struct("=16si20x")


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
        return int(_IFREQ.unpack(fcntl.ioctl(_lookup(), _GET_INDEX, _IFREQ.pack(name.encode(), 0)))[1])
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
    request = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    with told("list this host's links"), route_socket() as one:
        return [_link_seen(body) for body in dump(one, _GETLINK, request, partly=True)]


def _link_seen(body: bytes) -> LinkSeen:
    found = dict(attributes(body, 16))
    kind = dict(attributes(found.get(_LINKINFO, b""))).get(_KIND, b"").rstrip(b"\0").decode(errors="replace")
    lower = 0 if _LOWER_NSID in found else _number(found, _LOWER)
    return LinkSeen(kind, _number(found, _GROUP), lower, _number(found, _MASTER))


def all_addresses() -> list[tuple[int, IPNetwork]]:
    """List this namespace's addresses with their prefix lengths, after the indices of links; for threads.

    Raises HostError.
    """
    with told("list this host's addresses"), route_socket() as one:
        return [
            (struct.unpack_from("=4xI", body)[0], _address(body)) for body in dump(one, _GETADDR, bytes(8), partly=True)
        ]


def all_routes() -> list[IPNetwork]:
    """List what this namespace has routes to, in all tables, default routes left out; for threads. Raises HostError."""
    found: dict[tuple[bytes, int], None] = {}
    with told("list this host's routes"), route_socket() as one:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
            for body in dump(one, _GETROUTE, request, partly=True):
                destination = dict(attributes(body, 12)).get(_DESTINATION)
                if destination and body[1]:
                    found[destination, body[1]] = None
    return [_prefix(*one) for one in found]


def addresses_of(index: int, namespace: int | None = None) -> tuple[IPNetwork, ...]:
    """List the addresses of one link, which takes no longer the more others have.

    Args:
        namespace: the number of the one that the link is in, None for this one.

    Raises:
        HostError: it is not there, or the kernel does not answer.
    """
    where = b"" if namespace is None else attribute(_TARGET_NSID, struct.pack("=i", namespace))
    with told("list the addresses of a link"), route_socket() as one:
        return tuple(_address(body) for body in dump(one, _GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, index) + where))


def _address(body: bytes) -> IPNetwork:
    values = dict(attributes(body, 8))
    return _prefix(values.get(_LOCAL) or values[_ADDRESS], body[1])


def _prefix(raw: bytes, length: int) -> IPNetwork:
    return IPNetwork(f"{IPAddress(int.from_bytes(raw), 4 if len(raw) == 4 else 6)}/{length}")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Translate the kernel's refusal; `what` was to be done."""
    try:
        yield
    except NetlinkError as error:
        raise HostError.of(error.code, what) from error
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, what) from error
