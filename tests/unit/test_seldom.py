"""Failures alike are one line, whatever addresses their messages hold."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from pynetdriver.process.daemon import _unexpected
from pynetdriver.server import _logger


async def test_failures_that_differ_by_what_they_name_are_alike() -> None:
    """Those of the HTTP library, and those that nobody caught."""
    logger = _logger()
    with capture_logs() as lines:
        for number in range(3):
            logger.warning("connection from %s broke", f"192.0.2.{number}")
            _unexpected(asyncio.get_running_loop(), {"message": f"Exception in callback <Task {number}>"})
    assert [line["event"] for line in lines] == ["connection from %s broke", "Exception in callback"]
