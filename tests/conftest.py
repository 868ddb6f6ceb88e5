"""What all tests share: leftovers of killed runs are swept first, and the end says what ran and what did not."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.lab.missing import excused, sentence
from tests.lab.sweep import sweep
from tests.vm import kernel

#: Engines that tests ran through, by what they are, and why others did not.
engines_run: Counter[str] = Counter()
engines_missing: dict[str, str] = {}
#: How many tests an engine is spared, since others say the same: see tests/engine/conftest.py.
engines_spared: dict[str, int] = {}
#: Ids of tests that failed, in their order.
failed: dict[str, None] = {}
#: What tests measured and people should read.
figures: list[str] = []
#: Tests that this kernel can't run, by the links that it can't make.
kernel_lacks: Counter[str] = Counter()


def left_out(name: str, why: object) -> NoReturn:
    """Skip a test for want of something, or fail it where nothing may be missing."""
    (pytest.skip if excused(name) else pytest.fail)(sentence(name, why))


@pytest.fixture(scope="session", autouse=True)
def _swept() -> Iterator[None]:
    if os.geteuid() == 0:
        sweep()
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this kernel can't run before an engine is started for it."""
    names = [name for marker in item.iter_markers("needs_kernel") for name in marker.args]
    if not names or os.geteuid() != 0:
        return
    missing = ", ".join(sorted(name for name in set(names) if kernel.lacks(name)))
    if missing and kernel.INSIDE:
        pytest.fail(f"the virtual machine's kernel has no {missing}", pytrace=False)
    if missing:
        kernel_lacks[missing] += 1
        pytest.skip(f"this kernel has no {missing}: `make test-vm` runs it")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what failed; pytest-xdist appends the group to an id."""
    if report.failed:
        failed.setdefault(re.sub(r"@[^]]*$", "", report.nodeid))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process covered, if it is one of several; else say what failed in the file PYNET_FAILED."""
    output = getattr(session.config, "workeroutput", None)
    if output is None and "PYNET_FAILED" in os.environ:
        Path(os.environ["PYNET_FAILED"]).write_text("".join(f"{one}\n" for one in failed))
    if output is not None:
        output["covered"] = (dict(engines_run), engines_missing, engines_spared, dict(kernel_lacks), figures)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process covered."""
    run, missing, spared, lacks, measured = getattr(node, "workeroutput", {}).get("covered", ({}, {}, {}, {}, []))
    engines_run.update(run)
    engines_missing.update(missing)
    engines_spared.update(spared)  # every process collects all tests, so the numbers are the same
    kernel_lacks.update(lacks)
    figures.extend(measured)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was covered, so that nothing is skipped unseen."""
    if not engines_run and not engines_missing and not kernel_lacks:
        return
    terminalreporter.section("covered")
    for name, count in engines_run.items():
        terminalreporter.write_line(f"ran {count} tests through {name}")
    for figure in figures:
        terminalreporter.write_line(figure)
    for name, count in engines_spared.items():
        terminalreporter.write_line(f"left out {count} tests through {name}, for which other engines stand")
    for name, reason in engines_missing.items():
        terminalreporter.write_line(f"NOT RUN: engine {name}: {reason}", red=True)
    for names, count in kernel_lacks.items():
        terminalreporter.write_line(
            f"NOT RUN HERE: {count} tests, since this kernel has no {names}: `make test-vm` runs them", yellow=True
        )
