"""HTTP over a Unix socket as the engine speaks it; leaves the meaning of the bodies to the caller."""

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What the engine sends with every call to a plugin; there is no Content-Type.
#: Source: moby pkg/plugins/transport.
PLUGIN_HEADERS = {
    "Accept": "application/vnd.docker.plugins.v1.2+json",
    "User-Agent": "Go-http-client/1.1",
}


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the Unix socket at `path`."""

    def __init__(self, path: Path, timeout_s: float = 10) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(path: Path, target: str, timeout_s: float = 10) -> tuple[int, bytes]:
    """Return status and body of a GET of `target` from the socket at `path`."""
    return _request(path, "GET", target, None, {}, timeout_s)


def call(
    path: Path, method: str, body: Mapping[str, Any] | None = None, timeout_s: float = 30
) -> tuple[int, dict[str, Any]]:
    """Call a plugin's `method`, such as "NetworkDriver.Join", as the engine does.

    Args:
        body: None sends an empty body, as for `Plugin.Activate`.
    """
    data = None if body is None else json.dumps(body).encode()
    status, answer = _request(path, "POST", "/" + method, data, PLUGIN_HEADERS, timeout_s)
    decoded: dict[str, Any] = json.loads(answer or b"{}")
    return status, decoded


def _request(
    path: Path,
    verb: str,
    target: str,
    data: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> tuple[int, bytes]:
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request(verb, target, data, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
