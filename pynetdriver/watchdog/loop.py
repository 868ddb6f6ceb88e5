"""How a watchdog goes on: a step that fails is logged and done again after a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from pynetdriver.errors import PynetError

log = structlog.get_logger()

PAUSE_S = 1.0


async def run_loops(*steps: Callable[[], Awaitable[None]]) -> None:
    """Do each step again and again until cancelled."""
    async with asyncio.TaskGroup() as loops:
        for step in steps:
            loops.create_task(_again_and_again(step))


async def _again_and_again(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except PynetError as error:
            log.error("watchdog", error=str(error))
            await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # A task group ignores a task that ends cancelled, and the loop would be missing unnoticed.
            log.exception("what a watchdog waited for was cancelled")
            await asyncio.sleep(PAUSE_S)
        except Exception:
            log.exception("watchdog met an internal error")
            await asyncio.sleep(PAUSE_S)
