"""An engine for each version, without any pynet or with the managed plugin; every test leaves it so, or fails.

The plugin is installed once an engine: tests that install it themselves come first, on a bare one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import engines_missing, engines_run, left_out
from tests.lab.command import Unavailable
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.registry import Registry
from tests.plugin.managed import Managed

VERSIONS = ("26.1", "28.5")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests on a bare engine before those that find the plugin installed."""
    here = [number for number, item in enumerate(items) if "session_managed" in _fixtures(item)]
    ordered = sorted((items[number] for number in here), key=lambda item: "managed" in _fixtures(item))
    for number, item in zip(here, ordered, strict=True):
        items[number] = item


def _fixtures(item: pytest.Item) -> list[str]:
    return list(getattr(item, "fixturenames", ()))


@pytest.fixture(
    scope="session", params=[pytest.param(one, marks=pytest.mark.xdist_group(f"plugin-{one}")) for one in VERSIONS]
)
def session_managed(request: pytest.FixtureRequest) -> Iterator[Managed]:
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(Engine(request.param))
            managed = Managed(
                engine, stack.enter_context(Lan(engine.netns)), stack.enter_context(Registry(engine.netns))
            )
            managed.publish()
        except Unavailable as error:
            engines_missing[f"{request.param} with the managed plugin"] = str(error)
            left_out(f"plugin {request.param}", error)
        managed.baseline = managed.state()
        yield managed
        _bare(managed)


@pytest.fixture
def bare(session_managed: Managed) -> Iterator[Managed]:
    """The host without a plugin; afterwards nothing of pynet is left on it."""
    if session_managed.installed:
        _bare(session_managed)
    engines_run[f"{session_managed.engine.version} with the managed plugin"] += 1
    yield session_managed
    _bare(session_managed)


@pytest.fixture
def managed(session_managed: Managed) -> Iterator[Managed]:
    """The host with the plugin as it is installed by default; afterwards nothing but that is left on it."""
    if not session_managed.installed:
        session_managed.install()
        session_managed.installed = session_managed.state()
    engines_run[f"{session_managed.engine.version} with the managed plugin"] += 1
    yield session_managed
    try:
        session_managed.reset()
        assert session_managed.state() == session_managed.installed
    except BaseException:
        # The next test gets one that is installed anew.
        session_managed.clean()
        raise


def _bare(managed: Managed) -> None:
    managed.clean()
    assert managed.state() == managed.baseline
