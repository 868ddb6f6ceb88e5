"""Netlink messages by hand (netlink(7)), where a library would take apart much that nobody asked for."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count
from math import inf
from typing import NamedTuple

#: Kinds, flags and the mark of an attribute that holds others (linux/netlink.h).
ERROR, DONE = 2, 3
REQUEST, ACK, DUMP, INTERRUPTED = 0x1, 0x4, 0x300, 0x10
NESTED = 0x8000
#: The family of netfilter's messages, and what these begin with (struct nfgenmsg of linux/netfilter/nfnetlink.h).
NETFILTER, GENERAL = 12, struct.Struct("=BBH")
#: Length, kind, flags, sequence number, port (struct nlmsghdr).
_HEADER = struct.Struct("=IHHII")
_DATAGRAM_BYTES = 1 << 17
#: A list that changed while it was read is read again: so often at once, then so often with a pause before each.
_AT_ONCE, _LATER, _PAUSE_S = 5, 20, 0.03
_sequence = count(1)


class Message(NamedTuple):
    """A request of a transaction."""

    kind: int
    flags: int
    body: bytes


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """Write a request."""
    return _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Take a datagram apart: kind, flags, sequence number, sender's port and body of each message."""
    start = 0
    while start + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, start)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, port, data[start + _HEADER.size : start + length]
        start += (length + 3) & ~3


def attribute(kind: int, data: bytes) -> bytes:
    """Write an attribute, with its padding."""
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Go through the attributes that begin at `start`, each with its kind."""
    while start + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, start)
        if length < 4:
            return
        yield kind & 0x3FFF, data[start + 4 : start + length]
        start += (length + 3) & ~3


def ask(one: socket.socket, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Go through the messages of the answer: kind, flags, body. Raises OSError if the kernel refuses."""
    wanted = next(_sequence) & 0xFFFFFFFF
    one.send(message(kind, flags, body, wanted))
    while True:
        for found, more, sequence, _, content in messages(one.recv(_DATAGRAM_BYTES)):
            if sequence != wanted:
                continue  # of an answer that was not read to its end
            if found in (DONE, ERROR):
                (code,) = struct.unpack_from("=i", content)
                if code:
                    raise OSError(-code, os.strerror(-code))
                yield found, more, content
                return
            yield found, more, content


def order(one: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Have something done. Raises OSError if the kernel refuses."""
    for _ in ask(one, kind, ACK | flags, body):
        pass


def dump(one: socket.socket, kind: int, body: bytes, *, partly: bool = False) -> list[bytes]:
    """Ask for a list, and return the bodies of its messages; one that changes all the time is for threads.

    Args:
        partly: see `look`, for a list that changes all the time.

    Raises:
        OSError: the kernel refuses, or the list changes for half a second and longer and is needed whole.
    """
    found, is_whole = look(one, kind, body, _AT_ONCE if partly else _AT_ONCE + _LATER)
    if not (is_whole or partly):
        raise OSError(errno.EAGAIN, "a list changes faster than it can be read")
    return found


def look(
    one: socket.socket,
    kind: int,
    body: bytes,
    times: int = _AT_ONCE,
    within_s: float = inf,
    wanted: Callable[[bytes], object] | None = None,
) -> tuple[list[bytes], bool]:
    """Ask for a list until it is seen whole; returns the bodies of its messages, and whether it was.

    A socket carries one list at a time (net/netlink/af_netlink.c, __netlink_dump_start).

    Args:
        times: so often at most; then it is what was seen in all looks together. What came or went meanwhile may be in
            it or not, and what is in it twice is later as it was seen last.
        within_s: no look begins later than that after the first.
        wanted: what of it is kept, all if it is None.

    Raises:
        OSError: the kernel refuses.
    """
    seen: dict[bytes, None] = {}
    until = time.monotonic() + within_s
    for number in range(times):
        if number and time.monotonic() > until:
            break
        if number >= _AT_ONCE:
            time.sleep(_PAUSE_S)
        bodies, is_whole = [], True
        for found, flags, content in ask(one, kind, DUMP, body):
            is_whole &= not flags & INTERRUPTED
            if found != DONE and (wanted is None or wanted(content)):
                bodies.append(content)
        if is_whole:
            return bodies, True
        seen |= dict.fromkeys(bodies)
    return list(seen), False
