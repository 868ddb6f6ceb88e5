"""A call that breaks at any step leaves store and kernel agreeing."""

import sys
from pathlib import Path

import pytest

from tests.lab.daemon import PROJECT
from tests.lab.netns import Namespace

from .steps import CALLS


@pytest.mark.parametrize("how", ["fail", "fail on", "cancel", "kill"])
@pytest.mark.parametrize("call", CALLS)
def test_call_is_undone_or_finished_when_it_breaks(folder: Path, call: str, how: str) -> None:
    """Whatever step fails: creates and changes are undone, deletes are finished, and the call can be repeated."""
    with Namespace() as netns:
        script = f"cd {PROJECT} && exec {sys.executable} -m tests.netns.steps {netns.name} {folder} '{call}' '{how}'"
        said = netns.run("sh", "-c", script)
        assert int(said.split()[-1]) >= 1, said
