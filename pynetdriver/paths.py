"""Where files are: pynet's own, and the host's, which in the managed plugin are below /host."""

from __future__ import annotations

from pathlib import Path

#: Where engines look for a driver named pynet (libnetwork's discovery, moby pkg/plugins/discovery.go).
SOCKET = Path("/run/docker/plugins/pynet.sock")
#: Where the daemon keeps networks, endpoints and leases.
STATE_DIR = Path("/var/lib/pynet")
#: What `plugin/config.json` mounts there.
HOST = Path("/host")
#: Whether this process is in the managed plugin.
MANAGED = (HOST / "run/docker").is_dir()


def folder_beside(sock: Path) -> Path:
    """Name the folder that belongs to a socket of the engine's: /run/docker/plugins/pynet for its pynet.sock."""
    return sock.with_suffix("")


def admin_socket(sock: Path) -> Path:
    """Name the socket that goes with one of the engine's."""
    return folder_beside(sock) / "admin.sock"


def seen(path: str | Path) -> Path:
    """Give the path by which this process sees an absolute one of the host's."""
    # The engine's keys begin with /var/run, which is a link to /run (FHS 3.0).
    below = HOST / str(path).replace("/var/run/", "/run/", 1).removeprefix("/")
    return below if below.exists() else Path(path)
