"""HTTP: what is served on sockets that listen already. The only place that knows aiohttp.

| module | what |
|---|---|
| `protocol` | what the engine asks: libnetwork's remote drivers |
| `admin` | what root asks: state, metrics, reconciliation |
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from aiohttp import web

from pynetdriver.sockets import BACKLOG

#: The engine keeps idle connections; one closed by us as it writes costs it a retry without the body.
KEEPALIVE_S = 24 * 3600.0


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
            await web.SockSite(self._runner, one, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Take no more calls and finish those in hand; the sockets are closed then."""
        await self._runner.cleanup()
