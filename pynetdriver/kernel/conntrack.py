"""Connections that the kernel remembers, where they contradict what is published now.

A flow keeps the way that its first packet took: a client that sent to a UDP port before it was published, or while
another container had it, goes on doing so for as long as it keeps sending. Such entries are found and deleted beside
the calls, in a thread: looking through the kernel's table takes 10 ms even if it is empty, and none of it is needed
for the port to work. What is stale is decided by what is published when it is found, so no order of calls can harm a
flow that is right. Messages: ctnetlink, linux/netfilter/nfnetlink_conntrack.h. pyroute2 parses an entry in 0.3 ms,
which a host with 10,000 of them would feel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog
from netaddr import IPAddress

from pynetdriver.nlmsg import DUMP, GENERAL, NESTED, NETFILTER, ask, attribute, attributes, order
from pynetdriver.plan import PROTOCOLS, PortForward

log = structlog.get_logger()

_PROTOCOLS = {name: number for number, name in PROTOCOLS.items()}
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET, _DELETE
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _FILTER = 1, 2, 12, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
#: CTA_FILTER_F_CTA_PROTO_NUM and _DST_PORT (net/netfilter/nf_conntrack_netlink.c): from kernel 5.8 on.
_FILTER_BY = 1 << 3 | 1 << 5
#: The kernel filters by one port and family at a time; for more ports, or few entries, it is quicker to see all.
_FILTERED, _FEW = 4, 5_000
#: While the kernel walks its table, no RCU grace period ends, so making and removing links waits for it on the whole
#: host. So there is one walk for all that changes within this time, however many containers start at once.
_SETTLE_S = 0.5

_FAMILIES = (socket.AF_INET, socket.AF_INET6)

#: IP protocol number and host port.
Port = tuple[int, int]
#: A container's address and port. One and the same container may have had a host port with another of its ports.
Place = tuple[IPAddress, int]


@dataclass(frozen=True)
class _Entry:
    """A flow to `target`, answered from `replier`; `key` is what names it to the kernel."""

    port: Port
    target: IPAddress
    replier: Place
    key: bytes


class Conntrack:
    """Knows what is published, and has contradicting flows forgotten."""

    def __init__(self, is_local: Callable[[IPAddress], Awaitable[bool]]) -> None:
        self._is_local = is_local
        self._published: dict[Port, dict[IPAddress, Place]] = {}
        self._pending: dict[Port, set[Place]] = {}
        self._worker: asyncio.Task[None] | None = None

    def keep(self, come: Iterable[PortForward]) -> None:
        """Take note of what is published already."""
        for one in come:
            self._published.setdefault(_port(one), {})[one.host_address] = _place(one)

    def change(self, gone: Iterable[PortForward] = (), come: Iterable[PortForward] = ()) -> None:
        """Take note of a change that is in force now, and look for flows that contradict it."""
        for one in gone:
            targets = self._published.get(_port(one), {})
            if targets.get(one.host_address) == _place(one):
                del targets[one.host_address]
            if not targets:
                self._published.pop(_port(one), None)
            self._pending.setdefault(_port(one), set()).add(_place(one))
        for one in come:
            self._pending.setdefault(_port(one), set())
            self.keep([one])
        self._look()

    def recheck(self) -> None:
        """Look for flows that contradict anything published: some began while there were no rules."""
        for port in self._published:
            self._pending.setdefault(port, set())
        self._look()

    def _look(self) -> None:
        if self._pending and (self._worker is None or self._worker.done()):
            self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Finish what is in hand."""
        if self._worker is not None:
            await self._worker

    async def _work(self) -> None:
        while self._pending:
            await asyncio.sleep(_SETTLE_S)
            pending, self._pending = self._pending, {}
            try:
                entries = await asyncio.to_thread(_entries, frozenset(pending))
                stale = [one for one in entries if await self._is_stale(one, pending[one.port])]
                if stale:
                    await asyncio.to_thread(_delete, stale)
                    log.info("forgot flows that contradict published ports", flows=len(stale))
            except OSError as error:
                log.warning("cannot look for stale flows; old ones may last until they expire", error=str(error))

    async def _is_stale(self, entry: _Entry, gone: set[Place]) -> bool:
        targets = self._published.get(entry.port, {})
        wildcard = IPAddress(0, entry.target.version)
        wanted = targets.get(entry.target, targets.get(wildcard))
        if entry.replier[0] == entry.target:
            return wanted is not None and await self._is_local(entry.target)
        # No rules of others lead to the container that has the port now: such a flow is from before a crash.
        is_ours = entry.replier in gone or (wanted is not None and entry.replier[0] == wanted[0])
        return is_ours and entry.replier != wanted


def _port(one: PortForward) -> Port:
    return _PROTOCOLS[one.protocol], one.host_port


def _place(one: PortForward) -> Place:
    return one.address, one.port


def _entries(ports: frozenset[Port]) -> list[_Entry]:
    """List the flows to these ports of anybody."""
    try:
        count = int(_COUNT.read_text())
    except OSError:
        return []  # no connection tracking, no flows
    if count == 0:
        return []
    walks = [(socket.AF_UNSPEC, b"")]
    if count > _FEW and len(ports) <= _FILTERED:
        walks = [(family, _filter(port)) for family in (socket.AF_INET, socket.AF_INET6) for port in ports]
    with _socket() as one:
        found = {entry.key: entry for walk in walks for entry in _walk(one, *walk) if entry.port in ports}
    return list(found.values())


def _walk(one: socket.socket, family: int, wanted: bytes) -> Iterator[_Entry]:
    for _, _, body in ask(one, _GET, DUMP, GENERAL.pack(family, 0, 0) + wanted):
        entry = _parsed(body) if body[0] in _FAMILIES else None
        if entry is not None:
            yield entry


def _parsed(body: bytes) -> _Entry | None:
    family = body[0]
    entry = dict(attributes(body, GENERAL.size))
    origin = dict(attributes(entry[_TUPLE_ORIG]))
    protocol = dict(attributes(origin[_TUPLE_PROTO]))
    if _TARGET_PORT not in protocol:
        return None
    (number,) = struct.unpack("!H", protocol[_TARGET_PORT])
    # CTA_IP_V4_SRC and _DST are 1 and 2, CTA_IP_V6_SRC and _DST 3 and 4.
    version: Literal[4, 6] = 4 if family == socket.AF_INET else 6
    source, target = (1, 2) if version == 4 else (3, 4)
    reply = dict(attributes(entry[_TUPLE_REPLY]))
    replier = IPAddress(int.from_bytes(dict(attributes(reply[_TUPLE_IP]))[source]), version)
    (from_port,) = struct.unpack("!H", dict(attributes(reply[_TUPLE_PROTO]))[_SOURCE_PORT])
    key = body[: GENERAL.size] + attribute(_TUPLE_ORIG | NESTED, entry[_TUPLE_ORIG]) + attribute(_ID, entry[_ID])
    asked = IPAddress(int.from_bytes(dict(attributes(origin[_TUPLE_IP]))[target]), version)
    return _Entry((protocol[_PROTO_NUM][0], number), asked, (replier, from_port), key)


def _delete(entries: Iterable[_Entry]) -> None:
    with _socket() as one:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # it has ended
                order(one, _DELETE, 0, entry.key)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)


def _filter(port: Port) -> bytes:
    protocol = attribute(_PROTO_NUM, bytes([port[0]])) + attribute(_TARGET_PORT, struct.pack("!H", port[1]))
    wanted = attribute(_TUPLE_ORIG | NESTED, attribute(_TUPLE_PROTO | NESTED, protocol))
    return wanted + attribute(_FILTER | NESTED, attribute(1, struct.pack("=I", _FILTER_BY)))
