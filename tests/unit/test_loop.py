"""Loops of the watchdog go on whatever ends one of their steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from pynetdriver.errors import HostError
from pynetdriver.watchdog import loop


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HostError("the kernel does not answer"), "watchdog"),
        (KeyError("a mistake"), "watchdog met an internal error"),
        (asyncio.CancelledError(), "what a watchdog waited for was cancelled"),
    ],
)
async def test_a_step_that_fails_is_done_again(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause, and said in the log; also one whose awaited task was cancelled by somebody else."""
    monkeypatch.setattr(loop, "PAUSE_S", 0.0)
    steps = 0
    done = asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            raise error
        done.set()
        await asyncio.sleep(3600)

    with capture_logs() as lines:
        task = asyncio.create_task(loop.run_loops(step))
        await asyncio.wait_for(done.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [line["event"] for line in lines] == [said]


async def test_loops_end_together() -> None:
    """When told to."""
    started: list[int] = []

    def step(number: int) -> Callable[[], Awaitable[None]]:
        async def one() -> None:
            started.append(number)
            await asyncio.sleep(3600)

        return one

    task = asyncio.create_task(loop.run_loops(step(1), step(2)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started == [1, 2]
