"""Carries from a held host port to its container what the kernel cannot translate, on the daemon's own loop.

That is what comes to ::1, since the kernel routes nothing to or from it, what comes over IPv6 for a container that has
IPv4 alone, and what containers of a network that keeps them apart send to each other's host ports. The container sees
its network's gateway as the source. Relayed connections end with the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial

import structlog
from netaddr import IPAddress

log = structlog.get_logger()

#: How long a UDP client may be silent, and the container to it: UDPConnTrackTimeout of the engine's docker-proxy.
IDLE_S = 90
#: Small pieces are not held back, and who is gone without a word is noticed: Go's defaults, so docker-proxy's too.
_SETTINGS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
)
#: What one port takes before the loop turns to others, and how long one waits that could take no more.
_BATCH, _PAUSE_S = 64, 1
_CHUNK = 65536
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: How a datagram's own address is asked for, and told; the numbers of IPv4 are those of linux/in.h.
_NOTED = {socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO), socket.AF_INET: (socket.IPPROTO_IP, 8)}
_NOTE = {socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO), socket.AF_INET: (socket.IPPROTO_IP, 8)}
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Flow:
    """One TCP connection, or one UDP client, with its sockets."""

    sockets: list[socket.socket]
    active: float = 0  #: when it last had something to carry, on the loop's clock
    task: asyncio.Task[None] | None = None

    def close(self, reset: bool) -> None:
        """Close at once; `reset` leaves nothing behind that would keep the host port."""
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            if one.fileno() >= 0:
                loop.remove_reader(one.fileno())
                loop.remove_writer(one.fileno())
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.close()


@dataclass(eq=False)
class _Port:
    """A held socket, and where what it gets goes: a connection to the first of the addresses that answers."""

    held: socket.socket
    ready: Callable[[_Port], None]
    addresses: tuple[IPAddress, ...]
    number: int
    flows: dict[object, _Flow] = field(default_factory=dict)


class Relay:
    """All ports that are relayed; a TCP socket listens already when it comes here."""

    def __init__(self) -> None:
        self._ports: dict[int, _Port] = {}
        self._flows = 0
        #: One for all ports, which the loop watches: a thousand of them cost the loop what one does.
        self._ready = select.epoll()
        self._watched = False

    def open(self, held: socket.socket, protocol: str, addresses: tuple[IPAddress, ...], number: int) -> None:
        """Begin to relay what a socket gets to a container's port."""
        held.setblocking(False)
        if protocol == "udp":
            held.setsockopt(*_NOTED[held.family], 1)
        if not self._watched:
            asyncio.get_running_loop().add_reader(self._ready.fileno(), self._serve)
            self._watched = True
        port = _Port(held, self._receive if protocol == "udp" else self._accept, addresses, number)
        self._ports[held.fileno()] = port
        self._ready.register(held.fileno(), select.EPOLLIN)

    def close(self, held: socket.socket) -> None:
        """End all that is relayed for a socket, which stays open; does nothing for one that is not relayed."""
        port = self._ports.pop(held.fileno(), None)
        if port is not None:
            self._ready.unregister(held.fileno())
            for flow in port.flows.values():
                flow.close(reset=True)
                if flow.task is not None:
                    flow.task.cancel()

    def _serve(self) -> None:
        for number, _ in self._ready.poll(0):
            port = self._ports.get(number)
            if port is not None:
                port.ready(port)

    def _pause(self, port: _Port) -> None:
        def resume() -> None:
            if self._ports.get(number) is port:
                self._ready.modify(number, select.EPOLLIN)

        number = port.held.fileno()
        self._ready.modify(number, 0)
        asyncio.get_running_loop().call_later(_PAUSE_S, resume)

    def _is_full(self) -> bool:
        """Leave half of the descriptors that the daemon may have to its other work; a flow takes up to two."""
        return self._flows * 4 >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def _begin(self, port: _Port, key: object, flow: _Flow, work: Coroutine[None, None, None]) -> None:
        self._flows += 1
        port.flows[key] = flow
        flow.task = asyncio.get_running_loop().create_task(work)
        flow.task.add_done_callback(partial(self._end, port, key))

    def _end(self, port: _Port, key: object, task: asyncio.Task[None]) -> None:
        self._flows -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.debug("relayed connection broke", port=port.number, error=repr(error))
        port.flows.pop(key).close(reset=error is not None)

    def _accept(self, port: _Port) -> None:
        for _ in range(_BATCH):
            try:
                if self._is_full():
                    raise OSError("too many relayed connections")
                client, _ = port.held.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning("connections to a container have to wait", port=port.number, error=str(error))
                self._pause(port)
                return
            # What is left of it shall not keep the next holder from the host port.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._begin(port, client, flow := _Flow([client]), _carry(port, flow, client))

    def _receive(self, port: _Port) -> None:
        for _ in range(_BATCH):
            try:
                data, notes, _, client = port.held.recvmsg(_CHUNK, socket.CMSG_SPACE(20))
            except OSError:
                return
            source = _answering(port.held.family, notes[0][2])
            flow = port.flows.get((client, source))
            with contextlib.suppress(OSError):
                if flow is None:
                    if self._is_full() or source is None:
                        continue
                    flow = _Flow([socket.socket(_FAMILIES[port.addresses[0].version], socket.SOCK_DGRAM)])
                    flow.sockets[0].setblocking(False)
                    self._begin(port, (client, source), flow, _answer(port, flow, client, source))
                    flow.sockets[0].connect((str(port.addresses[0]), port.number))
                flow.active = asyncio.get_running_loop().time()
                try:
                    flow.sockets[0].send(data)
                except ConnectionRefusedError:  # says that an earlier one was; this one was not sent
                    flow.sockets[0].send(data)


def _answering(family: int, note: bytes) -> bytes | None:
    """Make of the note that came with a datagram the one that goes with its answer; None for multicast, broadcast.

    It holds the address that the client sent to; the link is left to routing (ipv6(7): struct in6_pktinfo, address
    and link; ip(7): struct in_pktinfo, link, the host's own address, and the address that was sent to).
    """
    if family == socket.AF_INET6:
        return None if note[0] == 0xFF else note[:16] + bytes(4)
    return bytes(4) + note[4:8] + bytes(4) if note[4:8] == note[8:12] else None


async def _carry(port: _Port, flow: _Flow, client: socket.socket) -> None:
    _prepare(client)
    for address in port.addresses:
        container = socket.socket(_FAMILIES[address.version], socket.SOCK_STREAM)
        flow.sockets.append(container)
        _prepare(container)
        try:
            await asyncio.get_running_loop().sock_connect(container, (str(address), port.number))
            break
        except OSError:  # the program may listen in one family alone
            if address == port.addresses[-1]:
                raise
    async with asyncio.TaskGroup() as both:
        both.create_task(_pump(client, container))
        both.create_task(_pump(container, client))


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
        await asyncio.sleep(0)  # two fast ends would never let go of the loop
    sink.shutdown(socket.SHUT_WR)


async def _answer(port: _Port, flow: _Flow, client: tuple[str, int], source: bytes) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < flow.active + IDLE_S:
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout_at(flow.active + IDLE_S):
                data = await loop.sock_recv(flow.sockets[0], _CHUNK)
        except OSError:  # nobody listens in the container, or the time is over
            continue
        flow.active = loop.time()
        with contextlib.suppress(OSError):
            level, kind = _NOTE[port.held.family]
            port.held.sendmsg([data], [(level, kind, source)], 0, client)


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    for level, option, value in _SETTINGS:
        connection.setsockopt(level, option, value)
