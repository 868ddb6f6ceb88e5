"""HTTP: what is served on sockets that listen already. The only place that knows aiohttp.

| module | what |
|---|---|
| `protocol` | what the engine asks: libnetwork's remote drivers |
| `admin` | what root asks: state, metrics, reconciliation |
| `listener` | connections, and how many |
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pynetdriver.seldom import Seldom
from pynetdriver.server.listener import Bounds, Listener

#: The engine keeps idle connections; one closed by us as it writes costs it a retry without the body.
KEEPALIVE_S = 24 * 3600.0


class Server:
    """Serves one application on sockets that listen already."""

    def __init__(
        self,
        application: web.Application,
        sockets: Iterable[socket.socket],
        grace_s: float,
        bounds: Bounds | None = None,
    ) -> None:
        """Take over the sockets.

        Args:
            grace_s: how long calls in hand may take when it is stopped.
            bounds: how many connections there may be on each socket; see `Listener`.
        """
        self._sockets = list(sockets)
        self._bounds = bounds
        self._listeners: list[Listener] = []
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_logger(),
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=grace_s,
        )

    async def start(self) -> None:
        """Take connections."""
        await self._runner.setup()
        protocol = self._runner.server
        assert protocol is not None, "it was set up"
        self._listeners = [Listener(one, protocol, self._bounds) for one in self._sockets]
        for one in self._listeners:
            one.start()

    async def stop(self) -> None:
        """Take no more calls and finish those in hand; the sockets are closed then."""
        for one in self._listeners:
            await one.close()
        # A handler that has not begun is not told to end, and takes nothing in any more: all begin first.
        await asyncio.sleep(0)
        await self._runner.cleanup()


class _Seldom(logging.Handler):
    """Passes on what aiohttp logs: of who speaks no HTTP a line, of anything unexpected the traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seldom = Seldom()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._seldom.warning("what came is no request", status=error.code)
        else:
            # The message itself may hold addresses, of which there is no end.
            self._seldom.warning(str(record.msg), said=record.getMessage(), exc_info=error)


def _logger() -> logging.Logger:
    logger = logging.Logger("http")  # not known to others, and with no parent that would log all
    logger.addHandler(_Seldom())
    return logger
