"""Run a function of a test inside a namespace, in a process of its own: sockets and rules belong to a process's."""

import sys
from collections.abc import Callable

from tests.lab.daemon import PROJECT
from tests.lab.netns import Namespace


def inside(netns: Namespace, experiment: Callable[..., None], *arguments: str) -> None:
    """Call a function of a module there; what it raises ends the test."""
    script = f"from {experiment.__module__} import {experiment.__name__} as run; run(*{arguments!r})"
    netns.run("sh", "-c", 'cd "$1" && exec "$2" -c "$3"', "sh", str(PROJECT), sys.executable, script)
