"""A call that breaks at any step leaves store and kernel agreeing."""

import sys
from pathlib import Path

import pytest

from tests.lab.daemon import PROJECT
from tests.lab.netns import Namespace

from .steps import CALLS

HOW = ("fail", "fail on", "cancel", "kill")
#: The second kind where the calls' rules differ most: the other calls differ in what is no kind's business.
CASES = [(call, how, "nftables") for call in CALLS for how in HOW if call != "try a parent"]
#: A link that could not be removed after the trial is found at the next one, or at a restart.
CASES += [("try a parent", "kill", "nftables")]
CASES += [(call, how, "iptables") for call in ("create network", "program", "delete network") for how in HOW]


@pytest.mark.parametrize(("call", "how", "firewall"), CASES)
def test_call_is_undone_or_finished_when_it_breaks(folder: Path, call: str, how: str, firewall: str) -> None:
    """Whatever step fails: creates and changes are undone, deletes are finished, and the call can be repeated."""
    with Namespace() as netns:
        command = (sys.executable, "-m", "tests.netns.steps", netns.name, str(folder), call, how, firewall)
        said = netns.run("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(PROJECT), *command)
        assert int(said.split()[-1]) >= 1, said
