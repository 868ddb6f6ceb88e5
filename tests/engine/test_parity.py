"""pynet and the engine's own bridge driver, from every source to every target: equal, but for what is listed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.engine.lab import Lab
from tests.engine.reach import Answer, Cell, known, measure, render, told

pytestmark = pytest.mark.smoke

ENGINES = ("28.5", "26.1")
HOST = (Answer("neighbour", "host"), Answer("neighbour", "host-second"))


@dataclass(frozen=True)
class Rule:
    """A difference that is wanted: where it is, and why, in one sentence for users."""

    reason: str
    applies: Callable[[Cell, Answer | None, Answer | None], bool]  #: given the built-in's answer and pynet's
    #: Those where it is a difference; of 29, which is not to be had here, its sources and rules say so.
    engines: tuple[str, ...] = ("29", *ENGINES)


def _published(cell: Cell) -> bool:
    return cell.via in ("lan", "gateway", "loopback") and cell.port != "machine"


def _direct(cell: Cell) -> bool:
    return cell.via in ("container", "quiet")


def _from_other_container(cell: Cell) -> bool:
    return cell.place not in (cell.network, "host", "neighbour")


BETTER = (
    Rule(
        "Packets for 127.0.0.1 that come from the LAN are dropped, so ports on it are for the host alone.",
        lambda cell, old, new: cell.source == "neighbour" and cell.via == "loopback" and not new,
    ),
    Rule(
        "A network without masquerading talks to machines and routed networks; the engine drops what they answer.",
        lambda cell, old, new: (
            cell.place == "no-masquerade"
            and (cell.via == "neighbour" or cell.network == "routed")
            and not old
            and new is not None
        ),
        ("29", "28.5"),
    ),
    Rule(
        "A network without masquerading reaches the published ports of other networks.",
        lambda cell, old, new: (
            cell.place == "no-masquerade" and cell.place != cell.network and _published(cell) and not old and bool(new)
        ),
    ),
    Rule(
        "A container that asks a published port is seen with the address that its network leaves with, not a proxy's.",
        lambda cell, old, new: (
            _published(cell)
            and _from_other_container(cell)
            and old is not None
            and old.seen == f"{cell.network}-gateway"
            and new is not None
            and (new.seen == cell.source or (cell.place == "host-address" and new.seen == "host-second"))
        ),
        ENGINES,
    ),
    Rule(
        "UDP ports answer containers too; the proxy of engine 26 answers them from another address than was asked.",
        lambda cell, old, new: cell.protocol == "udp" and _published(cell) and not old and bool(new),
        ("26.1",),
    ),
    Rule(
        "Container addresses are closed to other machines, as with engine 28; 26 has published ports open there.",
        lambda cell, old, new: _direct(cell) and cell.family == 4 and cell.source == "neighbour" and not new,
        ("26.1",),
    ),
    Rule(
        "IPv6 is closed as IPv4 is: to other machines and networks, and between containers without icc.",
        lambda cell, old, new: (
            _direct(cell) and cell.family == 6 and (cell.place != cell.network or cell.place == "no-icc") and not new
        ),
        ("26.1",),
    ),
    Rule(
        "IPv6 is translated as IPv4 is: containers leave with the host's address, as with engine 28.",
        lambda cell, old, new: cell.family == 6 and cell.via == "neighbour" and new in HOST,
        ("26.1",),
    ),
    Rule(
        "A port published on IPv6 sees who asks; with engine 26 it sees its proxy.",
        lambda cell, old, new: (
            cell.family == 6
            and _published(cell)
            and cell.source in ("host", "neighbour")
            and new is not None
            and new.seen in ("host", "neighbour")
        ),
        ("26.1",),
    ),
)


@pytest.mark.timeout(300)
def test_containers_are_reached_as_with_the_built_in_bridge(lab: Lab) -> None:
    """Every difference is listed, and everything that is listed is a difference."""
    version = next((one for one in ENGINES if lab.engine.version.startswith(one)), None)
    if version is None:
        pytest.skip(f"compared on engines {' and '.join(ENGINES)} only")
    builtin, pynet = (measure(lab, driver, known(version)) for driver in ("bridge", "pynet"))
    rules = [rule for rule in BETTER if version in rule.engines]
    unlisted = dict.fromkeys(builtin, "")
    matched: set[str] = set()
    for cell in builtin:
        if builtin[cell] == pynet[cell]:
            continue
        found = {rule.reason for rule in rules if rule.applies(cell, builtin[cell], pynet[cell])}
        matched |= found
        if not found:
            unlisted[cell] = f"{told(cell, builtin[cell])} -> {told(cell, pynet[cell])}"
    failures = render(unlisted)
    assert not failures, f"the built-in's answer -> that of pynet:\n{failures}"
    stale = [rule.reason for rule in rules if rule.reason not in matched]
    assert not stale, "listed, but not a difference"
