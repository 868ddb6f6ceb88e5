"""Run a function of a test inside a namespace, in a process of its own: sockets and rules belong to a process's."""

from collections.abc import Callable

from tests.lab.netns import Namespace
from tests.lab.zygote import zygote


def inside(netns: Namespace, experiment: Callable[..., None], *arguments: str) -> None:
    """Call a function of a module there; what it raises ends the test."""
    outcome = zygote().run(netns.path, arguments, function=f"{experiment.__module__}:{experiment.__name__}")
    assert outcome.code == 0, outcome.output + outcome.errors
