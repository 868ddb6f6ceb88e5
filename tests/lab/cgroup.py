"""The cgroups that an engine leaves when it is killed; leaves making them to the engine."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .wait import eventually

TREE = Path("/sys/fs/cgroup")


def remove(parent: str, folder: Path) -> None:
    """Remove the cgroups of a halted machine.

    Args:
        parent: what the engine got as `--cgroup-parent`, e.g. "/pnlab-1-ab".
        folder: of the machine, where its engine's data tell the managed plugins.
    """
    # A cgroup is busy for a moment after its last process is gone.
    eventually(lambda: not _remaining(parent, folder))


def _remaining(parent: str, folder: Path) -> list[Path]:
    return [cgroup for cgroup in _cgroups(parent, folder) if _remains(cgroup)]


def _cgroups(parent: str, folder: Path) -> Iterator[Path]:
    # Version 2 has one tree, version 1 one for each controller.
    yield from TREE.glob(parent.lstrip("/"))
    yield from TREE.glob(f"*{parent}")
    # A managed plugin ignores --cgroup-parent: its cgroup is made in or beside the
    # one that runc itself is in.
    for plugin in (folder / "data/plugins").glob("[0-9a-f]" * 64):
        yield from list(TREE.glob(f"**/{plugin.name}"))


def _remains(cgroup: Path) -> bool:
    """Try to remove a cgroup with those in it; true if it is still there."""
    with contextlib.suppress(OSError):
        # Deepest first. The files in a cgroup are the kernel's and don't count.
        for inner in sorted(cgroup.glob("**/"), reverse=True):
            inner.rmdir()
    return cgroup.exists()
