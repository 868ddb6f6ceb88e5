"""A lab per engine for the whole run; every test leaves it as it found it, or fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import engines_missing, engines_run, engines_spared, left_out
from tests.engine.lab import Lab
from tests.lab.command import Unavailable
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan, Site
from tests.lab.wait import eventually

#: Version and iptables flavour, which is pynet's too, and what tests each proves: those without a mark of its own ("")
#: or with one of these. docs/contributing.md says why that is enough.
EVERYTHING = frozenset({"", "once", "smoke", "protocol"})
PROVES: dict[tuple[str, ...], frozenset[str]] = {
    ("28.5", "nft"): EVERYTHING,
    ("26.1", "legacy"): EVERYTHING - {"once"},
    ("26.1", "nft"): frozenset({"smoke"}),
    ("20.10", "nft"): frozenset({"protocol"}),
}
#: Others in their place, each of which runs everything, e.g. "own:nft own:legacy".
if "PYNET_ENGINES" in os.environ:
    PROVES = {tuple(one.split(":")): EVERYTHING for one in os.environ["PYNET_ENGINES"].split()}


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what goes through one engine in one process, and leave out what another engine says as well."""
    spared = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        version, iptables = callspec.params.get("session_lab", ("", "")) if callspec else ("", "")
        if version:
            item.add_marker(pytest.mark.xdist_group(f"{version}-{iptables}"))
            marks = {one.name for one in item.iter_markers()} & EVERYTHING or {""}
            if not marks & PROVES[version, iptables]:
                spared.append(item)
                name = f"{version} with iptables-{iptables}"
                engines_spared[name] = engines_spared.get(name, 0) + 1
    if spared:
        config.hook.pytest_deselected(items=spared)
        items[:] = [item for item in items if item not in spared]


@pytest.fixture(scope="session", params=PROVES, ids=lambda one: f"{one[0]}-{one[1]}")
def session_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    version, iptables = request.param
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(Engine(version, iptables=iptables))
        except Unavailable as error:
            engines_missing[f"{version} ({iptables})"] = str(error)
            left_out(f"engine {version}-{iptables}", error)
        lan = stack.enter_context(Lan(engine.netns))
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kind = ("--firewall", "iptables" if iptables == "legacy" else "nftables")
        daemon = stack.enter_context(Daemon(engine.netns, engine.plugins / "pynet.sock", state, *kind))
        lab = Lab(f"{engine.version} with iptables-{iptables}", engine, lan, daemon)
        lab.baseline = lab.state()
        yield lab


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The lab; afterwards nothing is left on the host, in the store, in the engine's chain."""
    engines_run[session_lab.name] += 1
    yield session_lab
    session_lab.clean()
    assert session_lab.state() == session_lab.baseline


@pytest.fixture(scope="module")
def module_site(session_lab: Lab) -> Iterator[Site]:
    with Site(session_lab.host) as site:
        yield site


@pytest.fixture
def site(lab: Lab, module_site: Site) -> Iterator[Site]:
    """The lab's machine on a LAN with a switch; afterwards nothing is left on the parent."""
    module_site.forget_neighbours()
    module_site.before = module_site.snapshot()
    yield module_site
    lab.clean()
    try:
        eventually(lambda: module_site.snapshot() == module_site.before)
    except TimeoutError:
        assert module_site.snapshot() == module_site.before
