"""Between the engine's own networks and pynet's: whoever asks is told what a network of the engine's would be told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from tests.engine.lab import Lab
from tests.engine.reach import (
    CLOSED_PORT,
    OPTION,
    PUBLIC_PORT,
    TWIN,
    Answer,
    Cell,
    Kind,
    address_of,
    host_port_of,
    known,
    measure,
    told,
)

pytestmark = pytest.mark.smoke

ENGINES = ("28.5", "26.1")
COMPARED = ("nat", "nat2", "internal", "no-icc", "unprotected", "routed", "isolated", "only4")


@dataclass(frozen=True)
class Rule:
    """A difference that is wanted: where it is, and why, in one sentence for users."""

    reason: str
    applies: Callable[
        [Cell, Answer | None, Answer | None], bool
    ]  #: given what the engine's networks are told, and these
    engines: tuple[str, ...]


def _questions(lab: Lab, source: str, kinds: Sequence[Kind]) -> Iterator[tuple[Cell, str, int]]:
    """Ask what other networks publish, by the host's addresses and by that of the own gateway, and what they do not."""
    place = next((kind for kind in kinds if source == f"{kind.name}-a"), None)
    if place is None:
        return
    if place.name.removeprefix(TWIN) == "internal":
        # As a container does that may change its routes.
        for family in (4, 6):
            way = ("ip", f"-{family}", "route", "replace", "default", "via", address_of(place, family, 1))
            assert lab.sandbox(source, *way, stderr=subprocess.DEVNULL).wait() == 0
    for kind in kinds:
        if kind.name.removeprefix(TWIN) == place.name.removeprefix(TWIN):
            continue
        for family in (4, 6):
            host = {"lan": lab.lan.HOST6 if family == 6 else lab.lan.HOST4}
            if place.ipv6 or family == 4:
                host["doorstep"] = address_of(place, family, 1)
            asked = [(via, address, "all", host_port_of(kind, "all")) for via, address in host.items()]
            if kind.ipv6 or family == 4:
                container = address_of(kind, family, 0x10)
                asked += [("container", container, port, number) for port, number in PORTS.items()]
                yield Cell(source, kind.name, "container", "", "icmp", family), container, 0
            for via, address, port, number in asked:
                for protocol in ("tcp", "udp"):
                    yield Cell(source, kind.name, via, port, protocol, family), address, number


def _is(cell: Cell, source: str, target: str | None = None) -> bool:
    return cell.place.removeprefix(TWIN) == source and target in (None, cell.network.removeprefix(TWIN))


PORTS = {"all": PUBLIC_PORT, "closed": CLOSED_PORT}
BETTER = (
    Rule(
        "An internal network does not reach a routed one.",
        lambda cell, own, new: _is(cell, "internal", "routed") and cell.via == "container" and bool(own) and not new,
        ("28.5",),
    ),
    Rule(
        "An internal network reaches no port that takes IPv6 to a container with IPv4 alone.",
        lambda cell, own, new: _is(cell, "internal", "only4") and cell.family == 6 and bool(own) and not new,
        ("29", *ENGINES),
    ),
    Rule(
        "A container of a network that keeps addresses is seen with its own at published ports, not with a proxy's.",
        lambda cell, own, new: (
            _is(cell, "routed")
            and cell.via != "container"
            and own is not None
            and own.seen.endswith("-gateway")
            and new is not None
            and new.seen == cell.source.removeprefix(TWIN)
        ),
        ("28.5",),
    ),
    Rule(
        "IPv6 is closed as IPv4 is: container addresses to other networks, and all to internal ones.",
        lambda cell, own, new: (
            cell.family == 6 and (cell.via == "container" or _is(cell, "internal")) and bool(own) and not new
        ),
        ("26.1",),
    ),
    Rule(
        "UDP ports answer containers of other networks; the proxy of engine 26 does so from another address.",
        lambda cell, own, new: cell.protocol == "udp" and cell.via != "container" and not own and bool(new),
        ("26.1",),
    ),
    Rule(
        "A port published on IPv6 sees who asks; with engine 26 it sees its proxy.",
        lambda cell, own, new: (
            cell.family == 6
            and cell.via != "container"
            and own is not None
            and own.seen == f"{cell.network.removeprefix(TWIN)}-gateway"
            and new is not None
            and new.seen == cell.source.removeprefix(TWIN)
        ),
        ("26.1",),
    ),
)


@pytest.mark.timeout(300)
def test_the_engines_networks_and_pynets_are_as_the_engines_among_themselves(lab: Lab) -> None:
    """Every difference is listed, and everything that is listed is a difference."""
    version = next((one for one in ENGINES if lab.engine.version.startswith(one)), None)
    if version is None:
        pytest.skip(f"compared on engines {' and '.join(ENGINES)} only")
    compared = [kind for kind in known(version) if kind.name in COMPARED]
    # Bridges with names of their own: what they are is to be known from rules.
    kinds = [replace(one, options=(*one.options, f"{OPTION}name=e-{one.name}")) for one in compared]
    kinds += [replace(one, name=TWIN + one.name, driver="pynet") for one in compared]
    found = measure(lab, "bridge", kinds, "a", _questions)
    rules = [rule for rule in BETTER if version in rule.engines]
    unlisted, matched = [], set[str]()
    for cell, answer in found.items():
        if cell.source.startswith(TWIN) == cell.network.startswith(TWIN):
            continue
        own = found[replace(cell, source=cell.source.removeprefix(TWIN), network=cell.network.removeprefix(TWIN))]
        plain = answer and Answer(*(one.removeprefix(TWIN) for one in answer))
        if plain == own:
            continue
        reasons = {rule.reason for rule in rules if rule.applies(cell, own, plain)}
        matched |= reasons
        if not reasons:
            what = f"{cell.source} -> {cell.network} {cell.via}:{cell.port} {cell.protocol} ipv{cell.family}"
            unlisted.append(f"{what}: {told(cell, own)} -> {told(cell, answer)}")
    assert not unlisted, "what the engine's networks are told -> what is told:\n" + "\n".join(unlisted)
    stale = [rule.reason for rule in rules if rule.reason not in matched]
    assert not stale, "listed, but not a difference"
