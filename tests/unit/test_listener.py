"""How many connections a listener takes, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from pynetdriver.server.listener import Bounds, Listener


async def ended(client: socket.socket) -> bool:
    """Wait until a connection ends."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 9), 20) == b""
    except ConnectionResetError:
        return True


def clients(at: socket.socket, count: int, source: str) -> list[socket.socket]:
    found = [socket.create_connection(at.getsockname(), source_address=(source, 0)) for _ in range(count)]
    for one in found:
        one.setblocking(False)
    return found


async def test_who_has_most_loses_the_oldest() -> None:
    """However many come, the connection of another machine stays."""
    held = socket.create_server(("127.0.0.1", 0), backlog=200)
    listener = Listener(held, asyncio.Protocol, Bounds(8, 60))
    listener.start()
    (other,) = clients(held, 1, "127.0.0.2")
    await asyncio.sleep(0.1)
    greedy = clients(held, 100, "127.0.0.1")
    for one in greedy[:-7]:
        assert await ended(one)
    for one in (other, *greedy[-7:]):
        try:
            one.recv(1)
            raise AssertionError("it has ended")
        except BlockingIOError:
            pass
    await listener.close()
    for one in (other, *greedy):
        one.close()


async def test_a_connection_ends_in_time() -> None:
    """Whoever says nothing, and whoever goes on a byte at a time."""
    held = socket.create_server(("127.0.0.1", 0))
    listener = Listener(held, asyncio.Protocol, Bounds(8, 0.3))
    listener.start()
    silent, slow = clients(held, 2, "127.0.0.1")
    waiting = asyncio.create_task(ended(silent))
    async with asyncio.timeout(20):
        while not waiting.done():
            with contextlib.suppress(ConnectionError):  # it may have ended
                slow.send(b"x")
            await asyncio.sleep(0.02)
    assert await waiting and await ended(slow)
    await listener.close()
    silent.close()
    slow.close()


async def test_one_that_makes_way_may_be_reset_already() -> None:
    """Whoever comes and resets at once does not keep others waiting."""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    held = socket.create_server(("127.0.0.1", 0), backlog=200)
    listener = Listener(held, asyncio.Protocol, Bounds(2, 60))
    listener.start()
    for one in clients(held, 20, "127.0.0.1"):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    await asyncio.sleep(0.1)
    assert not failures
    await listener.close()
