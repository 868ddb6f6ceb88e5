"""What the demo shows: numbered steps, commands with their real output, times; decides nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DemoFailed(Exception):
    """Something is not as the demo is about to say."""


class Screen:
    """Writes to stdout, line by line.

    Args:
        steps: how many there will be.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Say what comes, and afterwards how long it took."""
        self._done += 1
        start = time.monotonic()
        self._write(f"\n[{self._done}/{self._steps}] {title}")
        yield
        self._write(f"      ({time.monotonic() - start:.1f} s)")

    def command(self, where: str, command: str) -> None:
        """Show what a person on the machine `where` would type."""
        self._write(f"      {where}# {command}")

    def output(self, text: str) -> None:
        """Show what a command answered."""
        for line in text.strip().splitlines():
            self._write(f"      {line}")

    def say(self, text: str) -> None:
        """Tell what was seen; check it before."""
        self._write(f"    → {text}")

    def title(self, text: str) -> None:
        """Write a line of its own."""
        self._write(text)

    def _write(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def check(truth: object, sentence: str) -> None:
    """Go on only if it is true.

    Raises:
        DemoFailed: with the sentence that tells what is wrong.
    """
    if not truth:
        raise DemoFailed(sentence)
