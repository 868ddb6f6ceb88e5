"""A host for each test; all of them need root."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import Host

#: Files that take more than half a minute each on a quiet machine: `make test-fast` leaves them out.
SLOW = {
    *("test_adoption", "test_dhcp", "test_doctor", "test_healing", "test_metrics"),
    *("test_doors", "test_engine_bridges", "test_random", "test_relay", "test_steps", "test_strangers"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("tests/netns makes network namespaces, which takes root", pytrace=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, since a socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="pn-") as name:
        yield Path(name)


@pytest.fixture
def firewall() -> str:
    """The kind of firewall; tests about rules name this as a parameter with both kinds."""
    return "nftables"


@pytest.fixture
def host(_root: None, folder: Path, firewall: str) -> Iterator[Host]:
    """A namespace with a daemon that has nothing yet."""
    with Host(folder, firewall) as made:
        yield made
