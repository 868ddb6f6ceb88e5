"""Clear away what a killed test run left; a run that ends well leaves nothing.

The processes of a lab machine end with the run that made them. Its namespaces,
folders and cgroups stay, and carry that run's process id in their names.
"""

import tempfile
from pathlib import Path

from . import cgroup
from .command import run
from .netns import FOLDER, PREFIX, Namespace
from .wait import alone

#: Tests run in several processes, each of which sweeps at first.
LOCK = Path("/run/pnlab.lock")


def sweep() -> list[str]:
    """Remove what runs that are no more have left, and return its names; one process at a time."""
    with alone(LOCK):
        return _sweep()


def _sweep() -> list[str]:
    temporary = Path(tempfile.gettempdir())
    found = [path.name for place in (FOLDER, temporary) for path in place.glob(f"{PREFIX}*-*")]
    dead = sorted({name for name in found if not _alive(name)})
    for name in dead:
        folder = temporary / name
        cgroup.remove(f"/{name}", folder)
        Namespace(name).close()
        run("rm", "-rf", "--one-file-system", str(folder))
    return dead


def _alive(name: str) -> bool:
    pid = name.removeprefix(PREFIX).partition("-")[0]
    # A name of another form is not ours to judge.
    return not pid.isdecimal() or Path("/proc", pid).exists()
