"""Sockets: opened before anything else, so that who calls waits for an answer in place of being refused."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from pynetdriver.errors import PynetError

#: Connections that wait until they are taken.
BACKLOG = 1024
#: The first descriptor that a service manager passes (sd_listen_fds(3)).
_FIRST_PASSED = 3


@contextlib.contextmanager
def listening(paths: Iterable[Path]) -> Iterator[list[socket.socket]]:
    """Listen at paths until the end of the block, for root alone, on the service manager's socket if it passed one.

    Raises:
        PynetError: a path is in use, or is something else than a socket.
    """
    with contextlib.ExitStack() as held:
        yield [held.enter_context(_listening(path)) for path in paths]


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen at a path until the end of the block, on the service manager's socket if it passed one."""
    passed = _passed_sockets().get(str(path))
    if passed is not None:
        yield passed
        return
    with socket.socket(socket.AF_UNIX) as one:
        try:
            _bind(one, path)
            yield one
        finally:
            # It was bound, also if a signal came right after that, or served, and closed by who did.
            if one.fileno() < 0 or one.getsockname():
                path.unlink(missing_ok=True)


def tcp_socket(address: str) -> socket.socket:
    """Listen at HOST:PORT, [HOST]:PORT for an IPv6 address. Raises PynetError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PynetError(f'cannot listen at "{address}"; write an address and a port, such as 127.0.0.1:9478')
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise PynetError(f"cannot listen at {address}: {getattr(error, 'strerror', None) or error}") from error


@cache
def _passed_sockets() -> dict[str, socket.socket]:
    """Map paths to the sockets that a service manager passed (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    try:
        count = int(os.environ["LISTEN_FDS"])
        found = [socket.socket(fileno=one) for one in range(_FIRST_PASSED, _FIRST_PASSED + count)]
    except (KeyError, ValueError, OSError) as error:
        raise PynetError(f"cannot take over what the service manager passes as LISTEN_FDS: {error}") from error
    return {
        str(one.getsockname()): one for one in found if (one.family, one.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    }


def _bind(one: socket.socket, path: Path) -> None:
    """Listen at a path; who connects waits until a server takes the connection.

    Raises:
        PynetError: the path is in use, or is something else than a socket.
    """
    try:
        _clear_stale(path)
        former = os.umask(0o177)
        try:
            one.bind(str(path))
        finally:
            os.umask(former)
        one.listen(BACKLOG)
    except OSError as error:
        raise PynetError(f"cannot listen on {path}: {error.strerror or error}") from error


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
        probe.setblocking(False)  # or else a listener that takes no connection is waited for
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise PynetError(f"another process serves {path} already; stop it first")
