"""Who else holds an address, asked ahead of time where it can be, so that the start of a container need not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from netaddr import IPAddress

from pynetdriver.lan.probe import holders

#: Seconds for which an address that nobody answered for is taken to be free.
FRESH_S = 60.0
#: Of so many the last ones are remembered.
MOST = 4096

#: A link and an address on its LAN.
_Key = tuple[str, IPAddress]


@dataclass(frozen=True)
class _Free:
    """Nobody held it at `since`, but perhaps one of the MACs `own`."""

    since: float
    own: frozenset[str]


@dataclass(eq=False)
class _Question:
    """A probe that is on its way, and how many wait for its answer."""

    task: asyncio.Task[dict[IPAddress, str]]
    keys: list[_Key]
    free: _Free
    waiting: int = 0


class Conflicts:
    """Asks who holds an address, and remembers for a while that nobody did.

    A link that is given another LAN within that time, or is made anew under the same name, goes unnoticed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        ask: Callable[[str, Collection[IPAddress], Collection[str]], Awaitable[dict[IPAddress, str]]] = holders,
    ) -> None:
        """Begin with nothing remembered.

        Args:
            clock: seconds that only grow.
            ask: what `holders` does; raises what it raises.
        """
        self._clock = clock
        self._ask = ask
        self._free: dict[_Key, _Free] = {}
        self._questions: dict[_Key, _Question] = {}

    async def holder(self, link: str, address: IPAddress, own: Collection[str] = ()) -> str | None:
        """Return the MAC of whoever holds an address, None if nobody does.

        Known at once if nobody held it within the last `FRESH_S`, else asked, which takes at most 0.1 s; who asks for
        the same address meanwhile waits for the same answer.

        Args:
            own: MACs that do not count.

        Raises:
            HostError: nobody can be asked on this link; see `holders`.
        """
        key, macs = (link, address), frozenset(one.lower() for one in own)
        free = self._free.get(key)
        if free is not None and self._clock() - free.since < FRESH_S and free.own <= macs:
            return None
        question = self._questions.get(key)
        if question is not None and question.free.own <= macs:
            mac = (await self._answer(question)).get(address)
            if mac not in macs:
                return mac
        return (await self._answer(self._begin(link, [address], macs))).get(address)

    async def ask_ahead(self, link: str, addresses: Collection[IPAddress]) -> dict[IPAddress, str]:
        """Ask for addresses that are to be used soon, up to some 1000 at once; return the MACs of those who hold some.

        Raises:
            HostError: nobody can be asked on this link; see `holders`.
        """
        return dict(await self._answer(self._begin(link, list(addresses), frozenset())))

    def forget(self, link: str, address: IPAddress) -> None:
        """Have an address asked for anew the next time, since it is used from now on, also if it is just asked for."""
        self._free.pop((link, address), None)
        self._questions.pop((link, address), None)

    def _begin(self, link: str, addresses: list[IPAddress], own: frozenset[str]) -> _Question:
        async def ask() -> dict[IPAddress, str]:
            return await self._ask(link, addresses, own)

        keys = [(link, address) for address in addresses]
        question = _Question(asyncio.create_task(ask()), keys, _Free(self._clock(), own))
        self._questions.update(dict.fromkeys(keys, question))
        question.task.add_done_callback(lambda _: self._end(question))
        return question

    async def _answer(self, question: _Question) -> dict[IPAddress, str]:
        question.waiting += 1
        try:
            return await asyncio.shield(question.task)
        finally:
            question.waiting -= 1
            if not question.waiting and not question.task.done():
                question.task.cancel()
                self._end(question)  # nobody joins what is being cancelled

    def _end(self, question: _Question) -> None:
        task = question.task
        answered = task.done() and not task.cancelled() and task.exception() is None
        for key in question.keys:
            # Not so if it was forgotten meanwhile, or is asked for again.
            if self._questions.get(key) is question:
                del self._questions[key]
                if answered and key[1] not in task.result():
                    self._remember(key, question.free)

    def _remember(self, key: _Key, free: _Free) -> None:
        self._free.pop(key, None)
        self._free[key] = free
        now = self._clock()
        for old in list(self._free):
            if len(self._free) <= MOST and now - self._free[old].since < FRESH_S:
                break
            del self._free[old]
