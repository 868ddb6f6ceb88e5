"""Wait for a condition by asking again and again, or for others to be done; owns the one loop of that kind."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .command import PATIENCE, LabError

T = TypeVar("T")

#: For what pynet does at once, within a second on a quiet machine: one that is five times as slow keeps it, and
#: pynet's own looks at everything come every 30 s.
SOON_S = 10.0


def eventually(condition: Callable[[], T], timeout_s: float = 10, every_s: float = 0.05) -> T:
    """Return the first true value of `condition`; a slow machine gets `PATIENCE` times the time.

    A failed assertion, a failed command and an `OSError` count as "not yet".

    Raises:
        TimeoutError: names the last value, or is caused by the last exception.
    """
    timeout_s *= PATIENCE
    end = time.monotonic() + timeout_s
    while True:
        failure: Exception | None = None
        last: object = None
        try:
            value = condition()
            if value:
                return value
            last = value
        except (AssertionError, LabError, OSError) as error:
            failure = last = error
        if time.monotonic() > end:
            raise TimeoutError(f"not true after {timeout_s} s; last: {last!r}") from failure
        time.sleep(every_s)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same file, which is made and stays."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
