"""Messages of libnetwork's remote protocol: what the engine sends and what it wants back, one type a message.

Mirrors libnetwork's drivers/remote/api/api.go and ipams/remote/api/api.go. Keys may be missing, null or
empty depending on the engine's version, so null is read as missing everywhere and every optional member takes
both. Members that pynet has no use for are left out; unknown ones are ignored, since newer engines send more.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from pynetdriver.errors import InvalidRequest

Id = Annotated[str, Meta(pattern=r"^[0-9a-z]{12,64}\Z")]
Port = Annotated[int, Meta(ge=0, le=65535)]
#: In one line: what controls a terminal, ends a line or turns the direction of writing is in no name and no address.
Text = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z")]

T = TypeVar("T")


class PortBinding(Struct, frozen=True):
    """A `-p`: `host_port` 0 asks for any; `host_port_end` ends the range to choose from, 0 for none."""

    protocol: int = field(name="Proto")
    port: Annotated[int, Meta(ge=1, le=65535)] = field(name="Port")
    host_ip: Text = field(name="HostIP", default="")
    host_port: Port = field(name="HostPort", default=0)
    host_port_end: Port = field(name="HostPortEnd", default=0)

    def __post_init__(self) -> None:
        """Do nothing: that the interpreter is entered lets other threads go on while thousands are read."""


class IpamData(Struct, frozen=True):
    """A pool of a new network; gateway and auxiliary addresses carry the pool's prefix length."""

    pool: Text = field(name="Pool")
    gateway: Text | None = field(name="Gateway", default=None)
    address_space: Text = field(name="AddressSpace", default="")
    aux_addresses: dict[str, Text] | None = field(name="AuxAddresses", default=None)


class NetworkOptions(Struct, frozen=True):
    """`generic` is what the user typed after `-o`."""

    generic: dict[str, str] | None = field(name="com.docker.network.generic", default=None)
    internal: bool = field(name="com.docker.network.internal", default=False)


class CreateNetworkRequest(Struct, frozen=True):
    """`docker network create`; the network's name is not sent."""

    network_id: Id = field(name="NetworkID")
    options: NetworkOptions | None = field(name="Options", default=None)
    ipv4_data: list[IpamData] | None = field(name="IPv4Data", default=None)
    ipv6_data: list[IpamData] | None = field(name="IPv6Data", default=None)


class NetworkRequest(Struct, frozen=True):
    """A network, by id."""

    network_id: Id = field(name="NetworkID")


class EndpointRequest(NetworkRequest, frozen=True):
    """An endpoint of a network, by id."""

    endpoint_id: Id = field(name="EndpointID")


class EndpointInterface(Struct, frozen=True, omit_defaults=True):
    """Addresses carry their prefix length; an answer may fill only members that came empty."""

    address: Text = field(name="Address", default="")
    address_ipv6: Text = field(name="AddressIPv6", default="")
    mac_address: Text = field(name="MacAddress", default="")


class CreateEndpointRequest(EndpointRequest, frozen=True):
    """One network of a starting container. `options` mixes the engine's keys and the user's."""

    interface: EndpointInterface | None = field(name="Interface", default=None)
    options: dict[str, Any] | None = field(name="Options", default=None)


class CreateEndpointResponse(Struct, frozen=True):
    """What the request left empty."""

    interface: EndpointInterface = field(name="Interface")


class PortOptions(Struct, frozen=True):
    """The container's published ports; `no_proxy_6to4` says that those of IPv6 are another network's."""

    port_map: list[PortBinding] | None = field(name="com.docker.network.portmap", default=None)
    no_proxy_6to4: bool = field(name="com.docker.network.driver.private.no_proxy_6to4", default=False)


class JoinRequest(EndpointRequest, frozen=True):
    """The container's namespace may not exist yet."""

    sandbox_key: Text = field(name="SandboxKey")
    options: PortOptions | None = field(name="Options", default=None)


class InterfaceName(Struct, frozen=True, omit_defaults=True):
    """The link to move into the sandbox, and its name there: prefix and number, or `destination`."""

    source: str = field(name="SrcName")
    prefix: str = field(name="DstPrefix")
    destination: str = field(name="DstName", default="")


class StaticRoute(Struct, frozen=True, omit_defaults=True):
    """`kind` 0 goes through `next_hop`, 1 is on the link; the engine panics on an empty destination."""

    destination: str = field(name="Destination")
    kind: int = field(name="RouteType")
    next_hop: str = field(name="NextHop", default="")


class JoinResponse(Struct, frozen=True, omit_defaults=True):
    """Gateways are bare addresses."""

    interface_name: InterfaceName = field(name="InterfaceName")
    gateway: str = field(name="Gateway", default="")
    gateway_ipv6: str = field(name="GatewayIPv6", default="")
    static_routes: list[StaticRoute] = field(name="StaticRoutes", default_factory=list)
    disable_gateway_service: bool = field(name="DisableGatewayService", default=False)


class ProgramRequest(EndpointRequest, frozen=True):
    """The endpoint carries the container's default route now: publish its ports there."""

    options: PortOptions | None = field(name="Options", default=None)


class AnyRequest(Struct, frozen=True):
    """A call whose content has no bearing here."""


class Empty(Struct, frozen=True):
    """`{}`, the least that the engine takes for a yes."""


class OperInfoResponse(Struct, frozen=True):
    """The engine discards the content on Linux."""

    value: dict[str, str] = field(name="Value", default_factory=dict)


class ActivateResponse(Struct, frozen=True):
    """The engine's handshake with a v1 plugin."""

    implements: list[str] = field(name="Implements")


class NetworkCapabilities(Struct, frozen=True):
    """Networks of one host; engines from 28 on are told that GwAllocCheck is answered."""

    scope: str = field(name="Scope", default="local")
    connectivity_scope: str = field(name="ConnectivityScope", default="local")
    gw_alloc_checker: bool = field(name="GwAllocChecker", default=True)


class GwAllocCheckRequest(Struct, frozen=True):
    """A network to come, before the engine asks for its addresses."""

    options: NetworkOptions | None = field(name="Options", default=None)


class GwAllocCheckResponse(Struct, frozen=True):
    """Which families need no gateway address."""

    skip_ipv4: bool = field(name="SkipIPv4", default=False)
    skip_ipv6: bool = field(name="SkipIPv6", default=False)


class IpamCapabilities(Struct, frozen=True):
    """pynet has a store: it needs no replay at the engine's start."""

    requires_mac_address: bool = field(name="RequiresMACAddress", default=False)
    requires_request_replay: bool = field(name="RequiresRequestReplay", default=False)


class AddressSpacesResponse(Struct, frozen=True):
    """Names for local and global pools."""

    local: str = field(name="LocalDefaultAddressSpace")
    global_: str = field(name="GlobalDefaultAddressSpace")


class RequestPoolRequest(Struct, frozen=True):
    """`pool` empty asks for any; `sub_pool` is `--ip-range`."""

    address_space: Text = field(name="AddressSpace")
    pool: Text = field(name="Pool", default="")
    sub_pool: Text = field(name="SubPool", default="")
    options: dict[str, Any] | None = field(name="Options", default=None)
    v6: bool = field(name="V6", default=False)


class RequestPoolResponse(Struct, frozen=True):
    """`pool_id` is all that later calls bring back."""

    pool_id: str = field(name="PoolID")
    pool: str = field(name="Pool")
    data: dict[str, str] = field(name="Data", default_factory=dict)


class PoolRequest(Struct, frozen=True):
    """A pool, by id."""

    pool_id: Text = field(name="PoolID")


class RequestAddressRequest(PoolRequest, frozen=True):
    """`address` empty asks for any."""

    address: Text = field(name="Address", default="")
    options: dict[str, Any] | None = field(name="Options", default=None)


class RequestAddressResponse(Struct, frozen=True):
    """The address with the pool's prefix length."""

    address: str = field(name="Address")
    data: dict[str, str] = field(name="Data", default_factory=dict)


class ReleaseAddressRequest(PoolRequest, frozen=True):
    """A bare address of a pool."""

    address: Text = field(name="Address")


class ErrorResponse(Struct, frozen=True):
    """Network drivers' errors are read from `Err`, IPAM drivers' from either, by status."""

    err: str = field(name="Err")
    error: str = field(name="Error")


#: A request that is larger has many ports, and nothing but ports can make it so.
LARGE_BYTES = 1 << 20
#: Deeper than the deepest request by far.
_DEEP = 64
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

#: Ids and text have a pattern; msgspec would show it to the user.
_NO_MATCH = re.compile(r"matching regex (.*) - at `\$\.(.+)`\Z", re.DOTALL)


def decode_request(body: bytes, kind: type[T]) -> T:
    """Read a request.

    Raises:
        InvalidRequest: the body is empty (the engine's retry of a broken call: it must not count as
            done), is not JSON, or has not the form of `kind`.
    """
    if not body:
        raise InvalidRequest("empty request body: a broken call was retried without it; try again")
    if len(body) <= LARGE_BYTES and _is_too_deep(body):
        raise InvalidRequest("malformed request: it is nested too deep")
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError:  # perhaps for a null
            return msgspec.convert(_without_nulls(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        no_match = _NO_MATCH.search(str(error))
        said = str(error)
        if no_match:
            is_id = "0-9a-z" in no_match[1]
            said = f"{no_match[2]} " + ("is not an id" if is_id else "has characters that are not printed")
        raise InvalidRequest(f"malformed request: {said}") from None
    except RecursionError:
        raise InvalidRequest("malformed request: it is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"request body is not JSON: {error}") from None


def _is_too_deep(body: bytes) -> bool:
    """Tell whether lists and objects are in each other deeper than any request of an engine's, whoever reads them."""
    brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(_DEEP):
        inner = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if inner == brackets:
            break
        brackets = inner
    return bool(brackets) and len(brackets) > _DEEP


def _without_nulls(value: Any) -> Any:
    """Leave out the members of objects that are null, at any depth; a null in a list stays."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value
