"""The engine's calls: HTTP in, one handler, JSON out.

Rules of the wire are those of libnetwork's remote driver: bodies are JSON whatever the headers say, only
status 200 with a JSON body is a yes, an unknown path is 404, an error carries its text under both `Err`
and `Error`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import web

from pynetdriver.docker import messages as wire
from pynetdriver.docker.ipam_driver import IpamDriver
from pynetdriver.docker.network_driver import NetworkDriver
from pynetdriver.errors import NO_DESCRIPTORS, InvalidRequest, Overdue, PynetError, outcome, reason, shortened
from pynetdriver.locks import Calls

log = structlog.get_logger()

CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"
#: What `docker network connect` asks for; the engine keeps a refused one in the container's settings.
_CONNECTING = {
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.Join",
    "/NetworkDriver.ProgramExternalConnectivity",
    "/IpamDriver.RequestAddress",
}
_WAY_OUT = (
    "; after a refused docker network connect, stop the container and run docker network disconnect NETWORK CONTAINER,"
    " or it does not start again"
)
#: The engine itself waits without end for a v1 plugin.
DEADLINE_S = 15.0
#: All 65,535 ports of a protocol, each exposed and published with an address of its own, have 8 MB.
MAXIMUM_BODY_BYTES = 8 << 20
#: What is larger takes more than about 5 ms to read, so it leaves the event loop.
_INLINE_BYTES = 1 << 16


#: What the engine sends the published ports with.
_WITH_PORTS = {f"/NetworkDriver.{name}" for name in ("CreateEndpoint", "Join", "ProgramExternalConnectivity")}

Observe = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Route:
    """A method of the protocol: the form of its request (None if it has no body), and who answers."""

    request: type[Any] | None
    handler: Callable[..., Awaitable[Any]]


def routes(network: NetworkDriver, ipam: IpamDriver, engine_started: Callable[[], None]) -> dict[str, Route]:
    """The whole protocol; `engine_started` is called when an engine introduces itself."""

    async def activate() -> wire.ActivateResponse:
        engine_started()
        return wire.ActivateResponse(["NetworkDriver", "IpamDriver"])

    async def network_capabilities() -> wire.NetworkCapabilities:
        engine_started()
        return wire.NetworkCapabilities()

    async def ipam_capabilities() -> wire.IpamCapabilities:
        return wire.IpamCapabilities()

    async def discover(request: wire.AnyRequest) -> wire.Empty:
        return wire.Empty()

    async def allocate(request: wire.NetworkRequest) -> wire.Empty:
        raise InvalidRequest("pynet networks live on one host; create this one without --scope swarm")

    async def free(request: wire.NetworkRequest) -> wire.Empty:
        return wire.Empty()

    return {
        "/Plugin.Activate": Route(None, activate),
        "/NetworkDriver.GetCapabilities": Route(None, network_capabilities),
        "/NetworkDriver.GwAllocCheck": Route(wire.GwAllocCheckRequest, network.check_gateways),
        "/NetworkDriver.AllocateNetwork": Route(wire.NetworkRequest, allocate),
        "/NetworkDriver.FreeNetwork": Route(wire.NetworkRequest, free),
        "/NetworkDriver.CreateNetwork": Route(wire.CreateNetworkRequest, network.create_network),
        "/NetworkDriver.DeleteNetwork": Route(wire.NetworkRequest, network.delete_network),
        "/NetworkDriver.CreateEndpoint": Route(wire.CreateEndpointRequest, network.create_endpoint),
        "/NetworkDriver.DeleteEndpoint": Route(wire.EndpointRequest, network.delete_endpoint),
        "/NetworkDriver.EndpointOperInfo": Route(wire.EndpointRequest, network.oper_info),
        "/NetworkDriver.Join": Route(wire.JoinRequest, network.join),
        "/NetworkDriver.Leave": Route(wire.EndpointRequest, network.leave),
        "/NetworkDriver.ProgramExternalConnectivity": Route(wire.ProgramRequest, network.program),
        "/NetworkDriver.RevokeExternalConnectivity": Route(wire.EndpointRequest, network.revoke),
        "/NetworkDriver.DiscoverNew": Route(wire.AnyRequest, discover),
        "/NetworkDriver.DiscoverDelete": Route(wire.AnyRequest, discover),
        "/IpamDriver.GetCapabilities": Route(None, ipam_capabilities),
        "/IpamDriver.GetDefaultAddressSpaces": Route(None, ipam.address_spaces),
        "/IpamDriver.RequestPool": Route(wire.RequestPoolRequest, ipam.request_pool),
        "/IpamDriver.ReleasePool": Route(wire.PoolRequest, ipam.release_pool),
        "/IpamDriver.RequestAddress": Route(wire.RequestAddressRequest, ipam.request_address),
        "/IpamDriver.ReleaseAddress": Route(wire.ReleaseAddressRequest, ipam.release_address),
    }


class Protocol:
    """Answers calls by the routes."""

    def __init__(self, table: dict[str, Route], observe: Observe, calls: Calls, deadline_s: float = DEADLINE_S) -> None:
        """Answer nothing yet; `observe` is told of each call: its method, the status of the answer, seconds."""
        self._table = table
        self._observe = observe
        self._deadline_s = deadline_s
        self._calls = calls

    def application(self) -> web.Application:
        """Make what a server serves."""
        application = web.Application(client_max_size=MAXIMUM_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.Response:
        route = self._table.get(request.path) if request.method == "POST" else None
        if route is None:
            return _answer(404, _error(f"pynet has no method {shortened(request.path)}"))
        started = time.perf_counter()
        asked = None
        self._calls.in_hand += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await request.read()
                if len(body) > wire.LARGE_BYTES and request.path not in _WITH_PORTS:
                    raise web.HTTPRequestEntityTooLarge(wire.LARGE_BYTES, len(body))
                if route.request is not None or body.strip() not in (b"", b"null"):
                    asked = await _read(body, route.request or wire.AnyRequest)
                result = await (route.handler() if route.request is None else route.handler(asked))
            status, answer = 200, result
        except TimeoutError:
            overdue = Overdue(f"not done within {self._deadline_s:g} s; see pynet's log for what it waits for")
            status, answer = overdue.status, _error(_with_way_out(request.path, str(overdue)))
        except PynetError as error:
            status, answer = error.status, _error(_with_way_out(request.path, str(error)))
        except web.HTTPRequestEntityTooLarge:
            status, answer = (
                413,
                _error(f"{request.path[1:]} is too large a request; publish fewer ports in one container"),
            )
        except web.HTTPException as error:
            status, answer = error.status, _error(str(error.reason))
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                log.exception("unexpected failure", call=request.path)
            status, answer = 500, _error(f"pynet could not do this: {reason(error.errno)}")
        except Exception:
            log.exception("unexpected failure", call=request.path)
            status, answer = 500, _error("pynet met an internal error; its log has the details")
        finally:
            self._calls.in_hand -= 1
        seconds = time.perf_counter() - started
        self._observe(request.path[1:], status, seconds)
        _log_call(request.path, asked, status, answer, seconds)
        return _answer(status, answer)


def _answer(status: int, body: msgspec.Struct) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=CONTENT_TYPE)


def _error(text: str) -> wire.ErrorResponse:
    return wire.ErrorResponse(text, text)


def _with_way_out(path: str, said: str) -> str:
    """Say how a container is started again that was to be connected."""
    return said + _WAY_OUT if path in _CONNECTING else said


async def _read(body: bytes, kind: type[Any]) -> Any:
    if len(body) <= _INLINE_BYTES:
        return wire.decode_request(body, kind)
    return await asyncio.to_thread(wire.decode_request, body, kind)


def _log_call(path: str, asked: object, status: int, answer: msgspec.Struct, seconds: float) -> None:
    """Write one line a call, with ids shortened."""
    ids = {key: getattr(asked, f"{key}_id", "") for key in ("network", "endpoint")}
    words: dict[str, Any] = {key: id[:12] for key, id in ids.items()}
    words = {key: value for key, value in words.items() if value}
    words["ms"] = round(seconds * 1000, 1)
    if isinstance(answer, wire.ErrorResponse):
        log.warning(path[1:], outcome=outcome(status), status=status, error=answer.err, **words)
    else:
        log.info(path[1:], outcome=outcome(status), **words)
