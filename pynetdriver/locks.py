"""Locks by key, for calls that are about one thing; turns for others while a call is about many; work in the
background.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

#: To compute something of so many ports takes about 5 ms, and so does it to bind the sockets of so few.
MANY, PART = 500, 50


async def aside(work: Callable[[], T], size: int) -> T:
    """Do what only computes, in a thread if it is about many."""
    return await asyncio.to_thread(work) if size > MANY else work()


async def in_parts(all_of_it: Collection[T]) -> AsyncIterator[list[T]]:
    """Go through many in parts, between which others have their turn."""
    left: Iterator[T] = iter(all_of_it)
    while part := list(islice(left, PART)):
        yield part
        if len(part) == PART:
            await asyncio.sleep(0)


@dataclass
class Calls:
    """Calls of the engine that are not answered yet; work in the background pauses for them."""

    in_hand: int = 0


class Locks:
    """A lock per key, which exists while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def __call__(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class Background:
    """Work that goes on when the call that began it is over."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __call__(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Begin some."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def to_the_end(self, work: Coroutine[None, None, T]) -> T:
        """Wait for what goes on also when the waiting is over: the engine will not ask again."""
        return await asyncio.shield(self(work))
