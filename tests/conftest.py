"""What all tests share: leftovers of killed runs are swept first, and the end says which engines ran."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.sweep import sweep

#: Engines that tests ran through, by what they are, and why others did not.
engines_run: Counter[str] = Counter()
engines_missing: dict[str, str] = {}
#: How many tests an engine is spared, since others of its kind say the same.
engines_spared: dict[str, int] = {}


@pytest.fixture(scope="session", autouse=True)
def _swept() -> Iterator[None]:
    if os.geteuid() == 0:
        sweep()
    yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process covered, if it is one of several."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["engines"] = (dict(engines_run), engines_missing, engines_spared)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process covered."""
    run, missing, spared = getattr(node, "workeroutput", {}).get("engines", ({}, {}, {}))
    engines_run.update(run)
    engines_missing.update(missing)
    engines_spared.update(spared)  # every process collects all tests, so the numbers are the same


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was covered, so that nothing is skipped unseen."""
    if not engines_run and not engines_missing:
        return
    terminalreporter.section("engines")
    for name, count in engines_run.items():
        terminalreporter.write_line(f"ran {count} tests through {name}")
    for name, count in engines_spared.items():
        terminalreporter.write_line(f"left out {count} tests through {name}, which other engines stand for (each_kind)")
    for name, reason in engines_missing.items():
        terminalreporter.write_line(f"NOT RUN: engine {name}: {reason}", red=True)
