"""Takes connections, no more than there may be: asyncio's own server takes all, and logs each that it cannot take."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from netaddr import IPAddress

from pynetdriver.descriptors import is_kept
from pynetdriver.seldom import Seldom

#: What is taken before the loop turns to others, and how long one waits who can take no more.
_BATCH, _PAUSE_S = 64, 0.2


@dataclass(frozen=True)
class Bounds:
    """What a listener takes: so many connections at a time, each for so many seconds in all."""

    connections: int
    seconds: float


@dataclass(eq=False)
class _Taken:
    connection: socket.socket
    source: str
    transport: asyncio.Transport | None = None
    end: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.end is not None:
            self.end.cancel()
        if self.transport is not None:
            self.transport.abort()
        elif self.connection.fileno() >= 0:
            with contextlib.suppress(OSError):  # reset already
                self.connection.shutdown(socket.SHUT_RDWR)


class Listener:
    """Serves a socket that listens already.

    With bounds, one connection too many ends the oldest of the source that has most, so that nobody keeps others out;
    and none is taken whose descriptor is kept for the engine. Without them all are taken, for as long as they like.
    """

    def __init__(
        self, held: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], bounds: Bounds | None = None
    ) -> None:
        """Take over the socket; `protocol` makes what serves one connection."""
        self._held = held
        self._protocol = protocol
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._taken: list[_Taken] = []  # the oldest first; what has ended is taken out when there are too many
        self._tasks: set[asyncio.Task[None]] = set()
        self._resumes: asyncio.TimerHandle | None = None
        self._seldom = Seldom()

    def start(self) -> None:
        """Take connections."""
        self._held.setblocking(False)
        self._loop.add_reader(self._held.fileno(), self._take)

    async def close(self) -> None:
        """Take no more; those that were taken go on."""
        if self._resumes is not None:
            self._resumes.cancel()
        self._loop.remove_reader(self._held.fileno())
        self._held.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, peer = self._held.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._seldom.warning("connections have to wait", at=self._where(), error=error.strerror)
                self._loop.remove_reader(self._held.fileno())
                self._resumes = self._loop.call_later(_PAUSE_S, self.start)
                return
            if self._bounds is not None and is_kept(connection.fileno()):
                connection.close()
                self._seldom.warning("connections are refused: the open files that are left are for the engine's calls")
                continue
            one = _Taken(connection, _source(peer))
            if self._bounds is not None:
                self._make_room(self._bounds.connections)
                self._taken.append(one)
            task = self._loop.create_task(self._serve(one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _make_room(self, most: int) -> None:
        if len(self._taken) < most:
            return
        self._taken = [one for one in self._taken if one.connection.fileno() >= 0]
        if len(self._taken) >= most:
            self._seldom.warning("the oldest connections make way for new ones", at=self._where(), most=most)
            ((greediest, _),) = Counter(one.source for one in self._taken).most_common(1)
            oldest = next(one for one in self._taken if one.source == greediest)
            self._taken.remove(oldest)
            oldest.close()

    async def _serve(self, one: _Taken) -> None:
        one.connection.setblocking(False)
        transport, _ = await self._loop.connect_accepted_socket(self._protocol, one.connection)
        one.transport = transport
        if self._bounds is not None:
            one.end = self._loop.call_later(self._bounds.seconds, transport.abort)

    def _where(self) -> str:
        name = self._held.getsockname()
        return name if isinstance(name, str) else f"{name[0]} port {name[1]}"


def _source(peer: object) -> str:
    """Name whom a connection is from: a machine has all of a /64 for itself."""
    if not isinstance(peer, tuple):
        return ""
    address = IPAddress(peer[0].partition("%")[0])
    return str(address) if address.version == 4 else str(int(address) >> 64)
