"""An engine without any pynet for each version; every test leaves it so, or fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import engines_missing, engines_run
from tests.lab.command import Unavailable
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.registry import Registry
from tests.plugin.managed import Managed

VERSIONS = ("26.1", "28.5")


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
            pytest.skip(f"no managed plugin in engine {request.param}: {error}")
        managed.baseline = managed.state()
        yield managed


@pytest.fixture
def managed(session_managed: Managed) -> Iterator[Managed]:
    """The host; afterwards nothing of pynet is left on it."""
    engines_run[f"{session_managed.engine.version} with the managed plugin"] += 1
    yield session_managed
    session_managed.clean()
    assert session_managed.state() == session_managed.baseline
