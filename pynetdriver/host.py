"""Where files of the host are: in the managed plugin, whose own root hides them, below /host."""

from __future__ import annotations

from pathlib import Path

#: What `plugin/config.json` mounts there.
HOST = Path("/host")
#: Whether this process is in the managed plugin.
MANAGED = (HOST / "run/docker").is_dir()


def seen(path: str | Path) -> Path:
    """Give the path by which this process sees an absolute one of the host's."""
    # The engine's keys begin with /var/run, which is a link to /run (FHS 3.0).
    below = HOST / str(path).replace("/var/run/", "/run/", 1).removeprefix("/")
    return below if below.exists() else Path(path)
