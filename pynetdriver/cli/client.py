"""HTTP over Unix sockets: the daemon's admin socket, and the engine's for the names that only it knows."""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pynetdriver.admin.answers import Network
from pynetdriver.errors import PynetError
from pynetdriver.paths import admin_socket

T = TypeVar("T")


class Silence(PynetError):
    """Nobody answered: what is at the socket may be no daemon, or one that hangs."""


_DAEMON_S = 60.0
#: Names are a nicety: an engine that is busy is not waited for.
_ENGINE_S = 2.0
_ENGINE = "unix:///var/run/docker.sock"


class _Refusal(msgspec.Struct):
    err: str = msgspec.field(name="Err", default="")


class Daemon:
    """The daemon whose first socket for engines is known."""

    def __init__(self, sock: Path, wait_s: float = _DAEMON_S) -> None:
        """Ask nothing yet; `wait_s` is how long an answer is waited for."""
        self._path = admin_socket(sock)
        self._wait_s = wait_s

    def ask(self, path: str, kind: type[T]) -> T:
        """Get an answer of a kind. Raises PynetError if there is none."""
        return self._call("GET", path, kind)

    def tell(self, path: str, kind: type[T]) -> T:
        """Have something done. Raises PynetError if it is not."""
        return self._call("POST", path, kind)

    def _call(self, verb: str, path: str, kind: type[T]) -> T:
        try:
            status, body = _request(self._path, verb, path, self._wait_s)
        except PermissionError:
            raise PynetError("only root may ask pynet: try again with sudo") from None
        except TimeoutError:
            raise Silence(f"pynet does not answer within {self._wait_s:g} s; its log says what it waits for") from None
        except (OSError, http.client.HTTPException) as error:
            raise Silence(
                f"pynet does not answer at {self._path} ({getattr(error, 'strerror', None) or error}); is it running?"
                " `pynet doctor` looks for the reason"
            ) from error
        try:
            if status != 200:
                raise PynetError(msgspec.json.decode(body, type=_Refusal).err)
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise PynetError(
                f"the daemon's answer is not of this pynet's form; are both of one version? ({error})"
            ) from error


class _Attached(msgspec.Struct):
    endpoint: str = msgspec.field(name="EndpointID", default="")


class _Attachments(msgspec.Struct):
    networks: dict[str, _Attached] = msgspec.field(name="Networks", default_factory=dict)


class _Container(msgspec.Struct):
    names: list[str] = msgspec.field(name="Names", default_factory=list)
    settings: _Attachments = msgspec.field(name="NetworkSettings", default_factory=_Attachments)


class _NamedNetwork(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")


def named(networks: list[Network]) -> list[Network]:
    """Put in the names that the engine of this host knows, if it answers."""
    known = ask_engine("/networks", list[_NamedNetwork])
    if known is None:
        return networks
    running = ask_engine("/containers/json", list[_Container])
    names = {one.id: one.name for one in known}
    containers = {
        attached.endpoint: one.names[0].removeprefix("/")
        for one in running or ()
        for attached in one.settings.networks.values()
        if one.names
    }

    def with_names(network: Network) -> Network:
        endpoints = [msgspec.structs.replace(one, container=containers.get(one.id)) for one in network.endpoints]
        return msgspec.structs.replace(network, name=names.get(network.id), endpoints=endpoints)

    return [with_names(one) for one in networks]


def ask_engine(target: str, kind: type[T]) -> T | None:
    """Get what the engine of this host says; None if it does not answer at once."""
    address = os.environ.get("DOCKER_HOST") or _ENGINE
    if not address.startswith("unix://"):
        return None
    try:
        return msgspec.json.decode(
            _request(Path(address.removeprefix("unix://")), "GET", target, _ENGINE_S)[1], type=kind
        )
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None


def _request(path: Path, verb: str, target: str, wait_s: float) -> tuple[int, bytes]:
    connection = _UnixConnection(path, wait_s)
    try:
        connection.request(verb, target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, wait_s: float) -> None:
        super().__init__("localhost", timeout=wait_s)
        self._path = path

    def connect(self) -> None:
        self.sock: Any = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
