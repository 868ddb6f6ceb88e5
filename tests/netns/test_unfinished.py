"""Removals that failed are finished by whoever comes first, once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pynetdriver.errors import PynetError
from tests.lab.netns import Namespace

from .inside import inside


def test_what_is_left_is_removed_once(folder: Path) -> None:
    """Of two that try at once one waits for the other, and nothing goes that was made anew since."""
    with Namespace() as netns:
        inside(netns, try_at_once, str(folder))


def try_at_once(folder: str) -> None:
    from .steps import DELETE_NETWORK, NETWORK, Process, Trap, fail

    async def run() -> None:
        trap = Trap(fail, lasting=True)
        async with Process(Path(folder), trap, "nftables") as process:
            journal, netlink = process.journal, process.netlink
            await process.call(*NETWORK)
            before = netlink.links()
            trap.set(1)
            with pytest.raises(PynetError):
                await process.call(*DELETE_NETWORK)
            trap.disarm()
            assert journal.unfinished
            removed, remove = list[str](), netlink.remove_link

            async def noted(name: str, kind: str) -> None:
                removed.append(name)
                await remove(name, kind)

            netlink.remove_link = noted  # type: ignore[method-assign]
            anew: Any = process.call(*NETWORK)
            await asyncio.gather(journal.retry(), journal.finish(lambda *_: True), anew)
            assert removed == ["pn-9f9f9f9f9f9f"] and not journal.unfinished
            assert netlink.links() == before

    asyncio.run(run())
