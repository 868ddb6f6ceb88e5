"""What was repaired so far."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import NamedTuple

import structlog

log = structlog.get_logger()

_REMEMBERED = 20


class Repaired(NamedTuple):
    """One repair; `time` is in seconds since 1970, `kind` one of those that are counted, `what` a sentence."""

    time: float
    kind: str
    what: str


class Repairs:
    """Counts repairs by kind: table, bridge, port, link, parent, address, route, forwarding."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.last: deque[Repaired] = deque(maxlen=_REMEMBERED)

    def note(self, kind: str, what: str, by: str | None = None) -> None:
        """Note one; `by` says who did the damage where that is known."""
        self.counted[kind] += 1
        self.last.append(Repaired(time=time.time(), kind=kind, what=what))
        log.warning("mended", damage=what, **({"by": by} if by else {}))
