"""HTTP: sockets that only root can open, and what is served on them. The only place that knows aiohttp.

| module | what |
|---|---|
| `protocol` | what the engine asks: libnetwork's remote drivers |
| `admin` | what root asks: state, metrics, reconciliation |
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

from pynetdriver.errors import PynetError

#: The engine keeps idle connections; one closed by us as it writes costs it a retry without the body.
KEEPALIVE_S = 24 * 3600.0
#: Connections that wait until they are taken.
_BACKLOG = 1024


def unix_socket(path: Path) -> socket.socket:
    """Listen at a path; who connects waits until a server takes the connection.

    Raises:
        PynetError: the path is in use, or is something else than a socket.
    """
    one = socket.socket(socket.AF_UNIX)
    try:
        _clear_stale(path)
        former = os.umask(0o177)
        try:
            one.bind(str(path))
        finally:
            os.umask(former)
        one.listen(_BACKLOG)
    except OSError as error:
        one.close()
        raise PynetError(f"cannot listen on {path}: {error.strerror or error}") from error
    except PynetError:
        one.close()
        raise
    return one


def tcp_socket(host: str, port: int) -> socket.socket:
    """Listen at an address and port. Raises PynetError."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        raise PynetError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


class Server:
    """Serves one application on sockets that listen already."""

    def __init__(self, application: web.Application, sockets: Iterable[socket.socket], grace_s: float) -> None:
        """Take over the sockets.

        Args:
            grace_s: how long calls in hand may take when it is stopped.
        """
        self._sockets = list(sockets)
        self._runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=grace_s
        )

    async def start(self) -> None:
        """Take connections."""
        await self._runner.setup()
        for one in self._sockets:
            await web.SockSite(self._runner, one, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Take no more calls and finish those in hand; the sockets are closed then."""
        await self._runner.cleanup()


def _clear_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more; make the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PynetError(f"{path} exists and is not a socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise PynetError(f"another process serves {path} already; stop it first")
