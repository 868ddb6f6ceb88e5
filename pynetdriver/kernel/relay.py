"""Carries from a held host port to its container what the kernel cannot translate, on a thread of its own.

That is what comes to ::1, since the kernel routes nothing to or from it, what comes over IPv6 for a container that has
IPv4 alone, what containers of a network that keeps them apart send to each other's host ports, and broadcasts. The
container sees its network's gateway as the source. Relayed connections end with the daemon.

The daemon's loop and the thread share what is in here, under one lock, which is held for a few datagrams or pieces of
a stream at a time. The thread begins with the first port and ends with the last.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import struct
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog
from netaddr import IPAddress

from pynetdriver import descriptors
from pynetdriver.locks import Calls
from pynetdriver.names import ENGINE_BRIDGE
from pynetdriver.seldom import Seldom

log = structlog.get_logger()

#: How long a UDP client may be silent, and the container to it: UDPConnTrackTimeout of the engine's docker-proxy.
IDLE_S = 90
#: The most flows of all ports; a flow takes up to two sockets, and half of the descriptors are left to other work.
MOST, _SHARE_OF_DESCRIPTORS = 16384, 4
#: Of these one source keeps an eighth when others want some.
_SHARE_OF_SOURCE = 8
#: No delay (Nagle), and keepalive for peers that vanished: Go's defaults, so docker-proxy's too.
_SETTINGS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
)
#: What one socket gets done before others have their turn; flows that end at once with their port, the rest follows.
_BATCH, _AT_ONCE, _ENDING_S = 16, 256, 10
#: How long the thread pauses after each turn of a socket while the engine waits for an answer.
_REST_S = 0.001
_CHUNK = 65536
_SWEEP_S = 1.0
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: How a datagram's own address is asked for, and told; the numbers of IPv4 are those of linux/in.h.
_NOTED = {socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO), socket.AF_INET: (socket.IPPROTO_IP, 8)}
_NOTE = {socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO), socket.AF_INET: (socket.IPPROTO_IP, 8)}
_RESET = struct.pack("ii", 1, 0)


class _Turn:
    """A lock whose waiters get it in turn: who gives it up and takes it again at once comes after them."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._held = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


class _Flow(Protocol):
    """One TCP connection, or one UDP client."""

    active: float

    def close(self, reset: bool) -> None:
        """Close its sockets; `reset` leaves nothing behind that would keep the host port."""


@dataclass(eq=False)
class _Port:
    """A held socket, and where what it gets goes: a connection to the first of the addresses that answers."""

    held: socket.socket
    addresses: tuple[IPAddress, ...]
    number: int
    only_broadcasts: bool
    #: By whom they are and, for UDP, whom they asked; who was silent longest comes first. And the same by source.
    flows: OrderedDict[object, _Flow] = field(default_factory=OrderedDict)
    sources: dict[str, OrderedDict[object, None]] = field(default_factory=dict)


class Relay:
    """All ports that are relayed; a TCP socket listens already when it comes here.

    When all flows are taken, a new one takes the place of another: of the port that has most, so that each of the ports
    that want it has as many as any other, and there of the one that was silent longest; where one source has more than
    its share, of its own.
    """

    def __init__(self, calls: Calls, engine_bridges: Callable[[], Set[str]] = frozenset) -> None:
        """Relay nothing yet.

        Args:
            calls: those of the engine, which go first.
            engine_bridges: names the engine's bridges that are known besides those of its own naming; from any thread.
        """
        self._calls = calls
        self._engine_bridges = engine_bridges
        self._turn = _Turn()
        self._ports: dict[int, _Port] = {}
        self._busy: set[_Port] = set()
        self._count = 0
        #: What is to be done when a socket is ready, and sockets of ports that are closed.
        self._handlers: dict[int, Callable[[], None]] = {}
        self._masks: dict[int, int] = {}
        self._ending: deque[_Flow] = deque()
        self._given_up: dict[int, float] = {}  # host ports whose flows did not end at once; of the daemon's loop alone
        self._paused: list[_Port] = []
        self._sweeps_on = False  # more was idle than a turn ends
        self._ready = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ready.register(self._wake, select.EPOLLIN)
        self._thread: threading.Thread | None = None
        self._seldom = Seldom()

    def open(
        self,
        held: socket.socket,
        protocol: str,
        addresses: tuple[IPAddress, ...],
        number: int,
        only_broadcasts: bool = False,
    ) -> None:
        """Begin to relay what a socket gets to a container's port."""
        held.setblocking(False)
        if protocol == "udp":
            held.setsockopt(*_NOTED[held.family], 1)
        port = _Port(held, addresses, number, only_broadcasts)
        with self._turn:
            self._ports[held.fileno()] = port
            self._watch(held, select.EPOLLIN, partial(self._receive if protocol == "udp" else self._accept, port))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="relay", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:  # the port is held all the same, and its turn comes with the next one
                    self._seldom.warning("relaying cannot begin", error=str(error))

    def close(self, held: socket.socket) -> None:
        """End all that is relayed for a socket, which stays open; does nothing for one that is not relayed."""
        if held.fileno() not in self._ports:  # written by who calls this alone
            return
        with self._turn:
            port = self._ports.pop(held.fileno())
            self._watch(held, 0)
            self._ending += port.flows.values()
            self._busy.discard(port)
            port.flows.clear()
            port.sources.clear()
            self._end_some()
            if self._ending:
                self._given_up[held.getsockname()[1]] = time.monotonic()
            os.eventfd_write(self._wake, 1)

    def is_ending(self, number: int) -> bool:
        """Tell whether connections of a host port may still be there that was closed a moment ago."""
        return time.monotonic() < self._given_up.get(number, -math.inf) + _ENDING_S

    # Methods below are called with the lock held, except `_run`.

    def _run(self) -> None:
        """Serve until there is no port any more; for the thread."""
        wait_s, swept = -1.0, 0.0
        while True:
            for number, _ in self._ready.poll(wait_s):
                with self._turn:
                    handler = self._handlers.get(number)
                    if handler is not None:
                        self._guarded(handler)
                    elif number == self._wake:
                        os.eventfd_read(self._wake)
                if self._calls.in_hand:
                    time.sleep(_REST_S)
            with self._turn:
                self._guarded(self._end_some)
                if self._sweeps_on or time.monotonic() >= swept + _SWEEP_S:
                    self._guarded(self._sweep)
                    swept = time.monotonic()
                if not self._ports and not self._ending:
                    self._thread = None
                    return
                wait_s = 0.0 if self._ending or self._sweeps_on else _SWEEP_S if self._count or self._paused else -1.0

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._seldom.warning("relaying failed unexpectedly", exc_info=error)

    def _end_some(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._ending))):
            self._ending.popleft().close(reset=True)
            self._count -= 1

    def _sweep(self) -> None:
        """Forget UDP clients that were silent for long, and serve ports again that had to wait."""
        paused, self._paused = self._paused, []
        for port in paused:
            if self._ports.get(port.held.fileno()) is port:
                self._watch(port.held, select.EPOLLIN, partial(self._accept, port))
        left, before = _AT_ONCE, time.monotonic() - IDLE_S
        for port in [one for one in self._busy if one.held.type == socket.SOCK_DGRAM]:
            while left and port.flows and next(iter(port.flows.values())).active < before:
                self._end(port, next(iter(port.flows)), reset=False)
                left -= 1
        self._sweeps_on = not left

    def _watch(self, one: socket.socket, mask: int, handler: Callable[[], None] | None = None) -> None:
        """Have a handler called when a socket is ready, in place of another one; never, if the mask is 0."""
        number, former = one.fileno(), self._masks.get(one.fileno(), 0)
        if handler is not None:
            self._handlers[number] = handler
        if mask == former:
            return
        if mask == 0:
            self._ready.unregister(number)
            del self._masks[number], self._handlers[number]
            return
        (self._ready.modify if former else self._ready.register)(number, mask)
        self._masks[number] = mask

    def _end(self, port: _Port, key: object, reset: bool) -> None:
        flow = port.flows.pop(key)
        source = _source(key)
        del port.sources[source][key]
        if not port.sources[source]:
            del port.sources[source]
        if not port.flows:
            self._busy.discard(port)
        self._count -= 1
        flow.close(reset)

    def _begin(self, port: _Port, key: object, flow: _Flow, latest: socket.socket) -> bool:
        """Take up a flow, or end it; another one makes way if there are too many, or too few descriptors."""
        most = min(MOST, descriptors.most() // _SHARE_OF_DESCRIPTORS)
        if self._count >= most or descriptors.is_kept(latest.fileno()):
            self._seldom.warning("too many relayed connections: those silent longest make way", count=self._count)
            greediest = max({*self._busy, port}, key=lambda one: (len(one.flows), one is port))
            own = port.sources.get(_source(key), ())
            if greediest is port and len(own) > most // _SHARE_OF_SOURCE:
                self._end(port, next(iter(own)), reset=True)
            elif greediest.flows:
                self._end(greediest, next(iter(greediest.flows)), reset=True)
            else:
                flow.close(reset=True)
                return False
        self._count += 1
        self._busy.add(port)
        port.flows[key] = flow
        port.sources.setdefault(_source(key), OrderedDict())[key] = None
        return True

    def _touch(self, port: _Port, key: object, flow: _Flow) -> None:
        flow.active = time.monotonic()
        port.flows.move_to_end(key)
        port.sources[_source(key)].move_to_end(key)

    def _accept(self, port: _Port) -> None:
        for _ in range(_BATCH):
            try:
                client, peer = port.held.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._seldom.warning("connections to a container have to wait", port=port.number, error=error.strerror)
                self._watch(port.held, 0)
                self._paused.append(port)
                return
            # Remains of the connection must not keep the next endpoint from the host port.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            key = (peer, None)
            flow = _Stream(self, port, key, client)
            if self._begin(port, key, flow, client):
                flow.carry_on()

    def _receive(self, port: _Port) -> None:
        for _ in range(_BATCH):
            try:
                data, notes, _, client = port.held.recvmsg(_CHUNK, socket.CMSG_SPACE(20))
            except OSError:
                return
            source = _answering(port, notes[0][2], client[0], self._engine_bridges)
            if source is None:
                continue
            key = (client, source)
            flow = port.flows.get(key)
            with contextlib.suppress(OSError):
                if not isinstance(flow, _Client):
                    flow = _Client(self, port, key, source)
                    if not self._begin(port, key, flow, flow.container):
                        continue
                    try:
                        flow.connect()
                    except OSError:  # no way there now; the next datagram tries again
                        self._end(port, key, reset=False)
                        continue
                self._touch(port, key, flow)
                try:
                    flow.container.send(data)
                except ConnectionRefusedError:  # says that an earlier one was; this one was not sent
                    flow.container.send(data)


class _Client:
    """A UDP client: its socket to the container."""

    def __init__(self, relay: Relay, port: _Port, key: tuple[tuple[str, int], bytes], source: bytes) -> None:
        self.active = time.monotonic()
        self.container = socket.socket(_FAMILIES[port.addresses[0].version], socket.SOCK_DGRAM)
        self._relay, self._port, self._key, self._source = relay, port, key, source

    def connect(self) -> None:
        self.container.setblocking(False)
        self.container.connect((str(self._port.addresses[0]), self._port.number))
        self._relay._watch(self.container, select.EPOLLIN, self._answer)

    def close(self, reset: bool) -> None:
        self._relay._watch(self.container, 0)
        self.container.close()

    def _answer(self) -> None:
        if self._port.flows.get(self._key) is not self:  # its port is closed, and its end near
            return
        level, kind = _NOTE[self._port.held.family]
        for _ in range(_BATCH):
            try:
                data = self.container.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:  # nobody listens in the container
                continue
            self._relay._touch(self._port, self._key, self)
            with contextlib.suppress(OSError):
                self._port.held.sendmsg([data], [(level, kind, self._source)], 0, self._key[0])


@dataclass(eq=False)
class _Half:
    """One direction of a connection."""

    source: socket.socket
    sink: socket.socket
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    done: bool = False

    def move(self) -> bool:
        """Carry what there is and can be taken; tells whether there was anything. Raises OSError."""
        moved = False
        for _ in range(_BATCH):
            if self.done:
                break
            try:
                if not self.pending:
                    self.pending = memoryview(self.source.recv(_CHUNK))
                    moved = True
                    if not self.pending:
                        self.sink.shutdown(socket.SHUT_WR)
                        self.done = True
                        break
                self.pending = self.pending[self.sink.send(self.pending) :]
                moved = True
            except BlockingIOError:
                break
        return moved


class _Stream:
    """A TCP connection: to the container as soon as that takes it."""

    def __init__(self, relay: Relay, port: _Port, key: object, client: socket.socket) -> None:
        self.active = time.monotonic()
        self._relay, self._port, self._key = relay, port, key
        self._client = client
        self._container: socket.socket | None = None
        self._left: Iterator[IPAddress] = iter(port.addresses)
        self._halves: tuple[_Half, ...] = ()
        _prepare(client)

    def carry_on(self) -> None:
        """Do what can be done now; ends the flow with its last byte, or when something breaks."""
        if self._port.flows.get(self._key) is not self:  # its port is closed, and its end near
            return
        try:
            if not self._halves and not self._is_connected():
                return
            if sum(half.move() for half in self._halves):
                self._relay._touch(self._port, self._key, self)
        except OSError as error:
            log.debug("relayed connection broke", port=self._port.number, error=repr(error))
            self._relay._end(self._port, self._key, reset=True)
            return
        if all(half.done for half in self._halves):
            self._relay._end(self._port, self._key, reset=False)
            return
        for one in (half.source for half in self._halves):
            mask = 0
            for half in self._halves:
                if half.source is one and not half.pending and not half.done:
                    mask |= select.EPOLLIN
                if half.sink is one and half.pending:
                    mask |= select.EPOLLOUT
            self._relay._watch(one, mask, self.carry_on if mask else None)

    def close(self, reset: bool) -> None:
        for one in (self._client, self._container):
            if one is not None and one.fileno() >= 0:
                self._relay._watch(one, 0)
                _close(one, reset)

    def _is_connected(self) -> bool:
        """Go on with connecting; the program may listen in one family alone. Raises OSError if no address is left."""
        error = errno.ECONNREFUSED
        while True:
            if self._container is not None:
                error = self._container.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error == 0:
                    try:
                        self._container.getpeername()
                    except OSError:  # woken for nothing
                        return False
                    there = self._container
                    self._halves = (_Half(self._client, there), _Half(there, self._client))
                    return True
                self._relay._watch(self._container, 0)
                self._container.close()
                self._container = None
            address = next(self._left, None)
            if address is None:
                raise OSError(error, os.strerror(error))
            self._container = socket.socket(_FAMILIES[address.version], socket.SOCK_STREAM)
            _prepare(self._container)
            error = self._container.connect_ex((str(address), self._port.number))
            if error in (0, errno.EINPROGRESS):
                self._relay._watch(self._container, select.EPOLLOUT, self.carry_on)
                return False
            self._container.close()
            self._container = None


def _source(key: object) -> str:
    """Name whom a flow is from: a machine has all of a /64 for itself."""
    assert isinstance(key, tuple)
    address: str = key[0][0]
    if ":" not in address:
        return address
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8].hex()


def _answering(port: _Port, note: bytes, client: str, engine_bridges: Callable[[], Set[str]]) -> bytes | None:
    """Make of the note that came with a datagram the one that goes with its answer; None for what is not relayed.

    It holds the address that the client sent to; the link is left to routing (ipv6(7): struct in6_pktinfo, address
    and link; ip(7): struct in_pktinfo, link, the host's own address, and the address that was sent to). Multicast is
    not relayed, nor what has no source to answer to, nor broadcasts of the engine's containers or of the very one that
    would get it.
    """
    if port.held.family == socket.AF_INET6:
        return None if note[0] == 0xFF else note[:16] + bytes(4)
    link, ours, asked = note[:4], note[4:8], note[8:12]
    if ours == asked:
        return None if port.only_broadcasts else bytes(4) + ours + bytes(4)
    if (
        asked[0] & 0xF0 == 0xE0
        or client in ("0.0.0.0", *map(str, port.addresses))
        or _is_of_engine(struct.unpack("=i", link)[0], engine_bridges())
    ):
        return None
    return bytes(4) + ours + bytes(4)


def _is_of_engine(link: int, engine_bridges: Set[str]) -> bool:
    try:
        name = socket.if_indextoname(link)
    except OSError:
        return True
    return name in engine_bridges or ENGINE_BRIDGE.fullmatch(name) is not None


def _close(one: socket.socket, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    one.close()


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    for level, option, value in _SETTINGS:
        connection.setsockopt(level, option, value)
