"""Rate limit for log lines: one line a minute for equal warnings."""

from __future__ import annotations

import time
from typing import Any

import structlog

log = structlog.get_logger()

_EVERY_S = 60.0


class Seldom:
    """Logs the same warning once a minute, and then how often it was left out. For one thread."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, event: str, **words: Any) -> None:
        """Log a warning unless it was logged a moment ago; `event` is one of few."""
        now = time.monotonic()
        last, left_out = self._said.get(event, (0.0, 0))
        if last and now < last + _EVERY_S:
            self._said[event] = (last, left_out + 1)
            return
        self._said[event] = (now, 0)
        log.warning(event, **words, **({"left_out": left_out} if left_out else {}))
