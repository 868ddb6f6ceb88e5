"""Sockets that are bound to host ports, and who else is at a port, as far as /proc tells."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from netaddr import IPAddress

from pynetdriver.descriptors import is_kept

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_REFUSE, _TAKE = (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)  # BPF_RET
#: Programs for linux/filter.h that let in nothing, or broadcasts alone, the host's own included: they load the packet's
#: type (SKF_AD_PKTTYPE) and compare it with PACKET_BROADCAST and PACKET_LOOPBACK of linux/if_packet.h.
NOTHING = (_REFUSE,)
BROADCASTS = ((0x20, 0, 0, 0xFFFFF004), (0x15, 2, 0, 1), (0x15, 1, 0, 5), _REFUSE, _TAKE)
_SO_ATTACH_FILTER = 26
_NO_SUCH_SOCKETS = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


#: Writing out "::" takes longer than binding to it.
_text = lru_cache(256)(str)


def bind(
    protocol: str, address: IPAddress, number: int, is_only_closed: Callable[[], bool], listen: bool
) -> socket.socket | None:
    """Bind a socket; a TCP port also where only closed connections are left of a server.

    Returns:
        None where the kernel has no such sockets, so that nobody else can bind there either.

    Raises:
        OSError: the port is in use, or the host does not have the address.
    """
    kind, number_of_protocol = _SOCKETS[protocol]
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        bound = socket.socket(family, kind, number_of_protocol)
    except OSError as error:
        # A kernel without SCTP sockets still forwards SCTP, and one may lack IPv6; nobody else can bind there either.
        if error.errno in _NO_SUCH_SOCKETS:
            return None
        raise
    try:
        if is_kept(bound.fileno()):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind((_text(address), number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or protocol != "tcp" or not is_only_closed():
                raise
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((_text(address), number))
        if listen:
            # listen() checks again for other sockets at the port.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.listen(socket.SOMAXCONN)
        if protocol == "tcp":
            # The kernel compares both sockets' flags as they are at the second bind: this one is shared no more.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        bound.close()
        raise
    return bound


def let_in(bound: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """Have a socket take in only what a program of linux/filter.h lets through. Raises OSError."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    header = struct.pack("HP", len(program), ctypes.addressof(code))
    bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _own_sockets() -> Iterator[str]:
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(descriptor.readlink())


def is_only_closed(number: int, is_ending: bool) -> bool:
    """Tell whether a TCP port has connections that no process has any more, and besides them at most our own sockets.

    Those are in TIME_WAIT, or wait for the other side after a process was killed: our own, with relayed ones. Or they
    are relayed ones of ours which are about to end.
    """
    ours = set(_own_sockets())  # first, since they end meanwhile
    inodes = {columns[9] for columns in _sockets_at("tcp", number)}
    if "0" not in inodes and not is_ending:
        return False
    others = {f"socket:[{inode}]" for inode in inodes - {"0"}}
    return others <= ours


def _sockets_at(protocol: str, number: int) -> Iterator[list[str]]:
    """Yield the columns of proc_net_tcp.rst for a local port: 1 is the address, 9 the inode, 0 for none."""
    for table in (Path(f"/proc/self/net/{protocol}"), Path(f"/proc/self/net/{protocol}6")):
        if table.is_file():  # of SCTP it is a folder
            for line in table.read_text().splitlines()[1:]:
                columns = line.split()
                if int(columns[1].rpartition(":")[2], 16) == number:
                    yield columns


def process_at(protocol: str, number: int) -> str | None:
    """Name a process that has a socket at a port; looks through all of them."""
    inodes = {f"socket:[{columns[9]}]" for columns in _sockets_at(protocol, number)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in inodes:
                process = descriptor.parent.parent
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return None
