"""Netlink messages taken apart by hand, where a library would take apart much that nobody asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator

from netaddr import IPAddress, IPNetwork
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import HostError

#: Length, type, flags, sequence number, port id (struct nlmsghdr of linux/netlink.h).
HEADER = struct.Struct("=IHHII")
ERROR, DONE, REQUEST, DUMP, INTERRUPTED = 2, 3, 0x1, 0x301, 0x10
_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
_GETADDR, _ADDRESS, _LOCAL = 22, 1, 2
_WAIT_S = 5.0
#: A list that changed while it was read is read again: so often at once, then so often with a pause before each.
_AT_ONCE, _LATER, _PAUSE_S = 5, 20, 0.03


def route_socket() -> socket.socket:
    """Open a socket for requests whose answers come at once."""
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    one.settimeout(_WAIT_S)
    # What a request says is to be left out is left out by the kernel.
    one.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
    return one


def dump(one: socket.socket, kind: int, request: bytes, *, partly: bool = False) -> list[bytes]:
    """Ask for a list, and return the bodies of its messages; one that changes all the time is for threads.

    Args:
        partly: what comes or goes meanwhile may be missing, and rarely a neighbour of it.

    Raises:
        OSError: the kernel refuses, or the list changes for half a second and longer and is needed whole.
    """
    for number in range(_AT_ONCE + _LATER):
        if number >= _AT_ONCE:
            time.sleep(_PAUSE_S)
        bodies, whole = [], True
        one.send(HEADER.pack(HEADER.size + len(request), kind, DUMP, kind, 0) + request)
        for found, flags, body in _messages(one):
            if found == ERROR:
                (code,) = struct.unpack_from("=i", body)
                raise OSError(-code, os.strerror(-code))
            whole &= not flags & INTERRUPTED
            if found == DONE:
                break
            bodies.append(body)
        if whole or (partly and number + 1 == _AT_ONCE):
            return bodies
    raise OSError(errno.EAGAIN, "a list changes faster than it can be read")


def _messages(one: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    while True:
        data, start = one.recv(1 << 17), 0
        while start + HEADER.size <= len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, start)
            yield kind, flags, data[start + HEADER.size : start + length]
            start += (length + 3) & ~3


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Go through the attributes that begin at `start`, each with its kind."""
    while start + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


def addresses_of(index: int) -> tuple[IPNetwork, ...]:
    """List the addresses of one link, which takes no longer the more others have. Raises HostError."""
    found = []
    with told("list the addresses of a link"), route_socket() as one:
        for body in dump(one, _GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, index)):
            values = dict(attributes(body, 8))
            raw = values.get(_LOCAL) or values[_ADDRESS]
            address = IPAddress(int.from_bytes(raw), 4 if len(raw) == 4 else 6)
            found.append(IPNetwork(f"{address}/{body[1]}"))
    return tuple(found)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Translate the kernel's refusal; `what` was to be done."""
    try:
        yield
    except NetlinkError as error:
        raise HostError.of(error.code, what) from error
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, what) from error
