"""What published ports carry, as counted by the table `inet pynet`; read without libnftables.

In the library there is one thread at a time, and the event loop would wait for one that lists thousands of counters.
Messages: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, Direction, Flow
from pynetdriver.nlmsg import GENERAL, NETFILTER, attribute, attributes, dump
from pynetdriver.plan import PROTOCOLS, PortForward

_GET_ELEMENTS = 10 << 8 | 13  # NFNL_SUBSYS_NFTABLES and NFT_MSG_GETSETELEM
_INET = 1  # NFPROTO_INET
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_KEY, _EXPRESSION, _VALUE, _DATA = 1, 7, 1, 2
_BYTES, _PACKETS = 1, 2
_WAIT_S = 5.0

#: Parts of a key, each in registers of 4 bytes.
_SETS = {
    "traffic4": struct.Struct("=B3xB3x2s2x4s"),
    "traffic6": struct.Struct("=B3xB3x2s2x16s"),
    "traffic4_at": struct.Struct("=B3x4sB3x2s2x4s"),
    "traffic6_at": struct.Struct("=B3x16sB3x2s2x16s"),
}
_WAYS: tuple[Direction, Direction] = ("in", "out")  # IP_CT_DIR_ORIGINAL and IP_CT_DIR_REPLY


class Counted(NamedTuple):
    """What the kernel tells apart: a port on the address `asked`, 0.0.0.0 or :: for any; `container` answers."""

    direction: Direction
    asked: str
    protocol: str
    host_port: int
    container: str


def attributed(
    counters: Mapping[Counted, Count], published: Iterable[PortForward]
) -> tuple[dict[Flow, Count], list[Counted]]:
    """Assign counters to published ports; also name those of what is not published."""
    ports = {(one.protocol, one.host_port, str(one.host_address)): str(one.address) for one in published}
    found: dict[Flow, Count] = {}
    stale = []
    for one, carried in counters.items():
        if ports.get((one.protocol, one.host_port, one.asked)) == one.container:
            found[Flow(one.direction, one.protocol, one.asked, one.host_port)] = carried
        else:
            stale.append(one)
    return found, stale


class Counters:
    """Reads the counters by one socket: when one closes, the kernel has writers of rules wait until all is settled."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        self._socket.settimeout(_WAIT_S)
        self._one_at_a_time = threading.Lock()

    def read(self) -> dict[Counted, Count]:
        """Read all counters, for threads: it takes 0.1 s for 10,000. There are none without the table.

        Raises:
            HostError: the kernel does not answer.
        """
        found: dict[Counted, Count] = {}
        try:
            with self._one_at_a_time:
                elements = {name: list(self._elements(name)) for name in _SETS}
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise HostError.of(error.errno or errno.EIO, "read the counters of published ports") from error
            return found
        for name, form in _SETS.items():
            for element in elements[name]:
                parts = dict(attributes(element))
                if _EXPRESSION not in parts:
                    continue  # somebody else's
                counter = dict(attributes(dict(attributes(parts[_EXPRESSION]))[_DATA]))
                key = form.unpack(dict(attributes(parts[_KEY]))[_VALUE])
                found[_counted(*key)] = Count(int.from_bytes(counter[_PACKETS]), int.from_bytes(counter[_BYTES]))
        return found

    def _elements(self, name: str) -> Iterator[bytes]:
        """List the elements of a set. Raises OSError."""
        request = GENERAL.pack(_INET, 0, 0)
        request += attribute(_LIST_TABLE, b"pynet\0") + attribute(_LIST_SET, name.encode() + b"\0")
        for body in dump(self._socket, _GET_ELEMENTS, request):
            listed = dict(attributes(body, GENERAL.size)).get(_LIST_ELEMENTS, b"")
            yield from (element for _, element in attributes(listed))


def _counted(way: int, *parts: Any) -> Counted:
    *asked, protocol, port, container = parts
    family, any_address = (socket.AF_INET, bytes(4)) if len(container) == 4 else (socket.AF_INET6, bytes(16))
    return Counted(
        _WAYS[way],
        socket.inet_ntop(family, *asked or [any_address]),
        PROTOCOLS[protocol],
        int.from_bytes(port),
        socket.inet_ntop(family, container),
    )
