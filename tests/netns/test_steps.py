"""A call that breaks at any step leaves store and kernel agreeing."""

import json
import sys
from pathlib import Path

import pytest

from tests.lab.daemon import PROJECT
from tests.lab.netns import Namespace

from .steps import CALLS

HOWS = ("fail", "fail on", "cancel", "kill")
#: How many steps each call has, with either kind: one that is not counted is one that nobody breaks.
STEPS = {
    "create network": 20,
    "create endpoint": 4,
    "join": 1,
    "join a routed network": 2,
    "program": 3,
    "revoke": 3,
    "leave": 3,
    "delete endpoint": 4,
    "delete network": 13,
    "delete empty network": 9,
    "create network on a bridge of others": 18,
    "create endpoint on a bridge of others": 5,
    "delete network on a bridge of others": 16,
    "create network on a parent with another": 14,
    "create endpoint on a parent": 6,
    "leave on a parent": 2,
    "delete network on a parent with another": 13,
    "try a parent": 6,
}
#: The second kind where the calls' rules differ most: the other calls differ in what is no kind's business.
CASES: list[tuple[str, str, tuple[str, ...]]] = [(call, "nftables", HOWS) for call in CALLS if call != "try a parent"]
#: A link that could not be removed after the trial is found at the next one, or at a restart.
CASES += [("try a parent", "nftables", ("kill",))]
CASES += [(call, "iptables", HOWS) for call in ("create network", "program", "delete network")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("call", "firewall", "hows"), CASES, ids=lambda one: one if isinstance(one, str) else "")
def test_call_is_undone_or_finished_when_it_breaks(
    folder: Path, call: str, firewall: str, hows: tuple[str, ...]
) -> None:
    """Whatever step fails: creates and changes are undone, deletes are finished, and the call can be repeated."""
    with Namespace() as netns:
        command = (sys.executable, "-m", "tests.netns.steps", netns.name, str(folder), call, firewall, *hows)
        said = netns.run("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(PROJECT), *command, timeout_s=280)
        assert json.loads(said.splitlines()[-1]) == [STEPS[call]] * len(hows), said
