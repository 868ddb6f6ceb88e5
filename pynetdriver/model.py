"""What pynet remembers: networks, endpoints, pools, leases, host settings. Plain frozen records."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, TypeVar

import msgspec
from netaddr import AddrFormatError, IPAddress, IPNetwork

from pynetdriver.errors import PynetError

#: creating: the engine never got a yes; ready: it did; deleting: it was told so and work may be left.
Phase = Literal["creating", "ready", "deleting"]

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A row of the store; `phase` says what a restart has to do with it."""

    phase: Phase = "ready"


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """A link of the host that a network names, as it was before pynet did anything; `ours` if pynet made it."""

    name: str
    kind: str
    mtu: int
    mac: str = ""
    ours: bool = False
    up: bool = True
    #: The link that it is a port of.
    master: str | None = None
    addresses: tuple[IPNetwork, ...] = ()


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a backend needs to know of the host, as it was when the network was made, or is if that follows the host.

    `uplink_mtu` is the MTU in bytes of the link that carries the default route, `uplink` its name; `links` are those
    of which the backend asked for and which exist.
    """

    uplink_mtu: int = 1500
    uplink: str | None = None
    links: tuple[Link, ...] = ()

    def link(self, name: str | None) -> Link | None:
        """Find a link that was there by its name."""
        return next((one for one in self.links if one.name == name), None)


class Subnet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pool of a network with the address that the host takes in it.

    `space` is the address space that the IPAM driver named: within one, pools of networks that exist do
    not overlap. `aux` are addresses that nobody gets; `default_gateway` is the one of them that containers take for
    their gateway instead of the host's. `host` is an address that the host takes besides a gateway's. The gateway is
    `doubted` if the IPAM driver may have made it up and no machine of the LAN has answered for it yet.
    """

    pool: IPNetwork
    gateway: IPAddress | None = None
    space: str = ""
    aux: tuple[IPAddress, ...] = ()
    default_gateway: IPAddress | None = msgspec.field(name="way_out", default=None)
    host: IPAddress | None = None
    doubted: bool = False


class Network(Record, frozen=True, kw_only=True):
    """One `docker network`; `options` is what the user typed after `-o`."""

    id: str
    backend: str
    options: dict[str, str]
    subnets: tuple[Subnet, ...]
    internal: bool = False
    facts: Facts = Facts()


class PortMapping(msgspec.Struct, frozen=True):
    """A published port, after a host port was chosen; 0.0.0.0 and :: mean all host addresses.

    Host port 0: no port of the host leads there, the container's own address is reached instead.
    """

    protocol: str
    host_address: IPAddress
    host_port: int
    port: int


class DhcpLease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a DHCP server granted; times are in seconds from `obtained`, None for a lease without end.

    `server` is option 54, `server_mac` who sent the frame: renewals go there, which is a router if the server is
    elsewhere. `routes` are destinations with their next hop, 0.0.0.0 for what is on the link itself. `mtu` is in
    bytes, `obtained` in seconds since 1970, when the lease was asked for. Sources: RFC 2131, 2132 and 3442.
    """

    address: IPNetwork
    server: IPAddress
    server_mac: str
    obtained: float
    gateway: IPAddress | None = None
    routes: tuple[tuple[IPNetwork, IPAddress], ...] = ()
    mtu: int | None = None
    renew_s: int | None = None
    rebind_s: int | None = None
    lease_s: int | None = None


class DhcpClient(msgspec.Struct, frozen=True):
    """A DHCP client: who asks for an address, and by which link."""

    #: The host's link to send by.
    link: str
    #: Source of the frames, and chaddr.
    mac: str
    #: All of option 61, its type byte first: tells clients with one MAC apart.
    client_id: bytes
    #: Option 12; empty for none.
    host_name: str = ""
    #: Links to listen on as well, such as the host's end of a container's pair.
    listen: tuple[str, ...] = ()


class DhcpIdentity(Record, frozen=True, kw_only=True):
    """Whom a DHCP server takes a container of a network for; the next container may take it over.

    `client_id` is option 61 in hexadecimal, `lease` the last one. If the user has `given` the MAC, only an endpoint
    with that MAC takes it over. `traits` are those of the endpoint that had it last.
    """

    network_id: str
    mac: str
    client_id: str
    lease: DhcpLease
    given: bool = False
    traits: str = ""


class Endpoint(Record, frozen=True, kw_only=True):
    """One attachment of one container run to one network.

    `mac_given` says that the engine named the MAC, or need not know it, and it must then not be returned. `sandbox` is
    the engine's key of the container's namespace while the endpoint is joined. `client_id` (hexadecimal) and `lease`
    are there if a DHCP server gave `address4`; `traits` then stand for what the engine said of the container. `cut_off`
    are the IP versions in which its container has no way out, since nobody had the gateway. `released6` was its IPv6
    address until its link in the container had it no more.
    """

    id: str
    network_id: str
    mac: str
    mac_given: bool
    address4: IPNetwork | None = None
    address6: IPNetwork | None = None
    ifname: str | None = None
    sandbox: str | None = None
    client_id: str = ""
    traits: str = ""
    lease: DhcpLease | None = None
    cut_off: tuple[int, ...] = ()
    released6: IPNetwork | None = None
    ports: tuple[PortMapping, ...] = ()

    @property
    def addresses(self) -> dict[int, IPAddress]:
        """Its addresses by IP version."""
        return {net.version: net.ip for net in (self.address4, self.address6) if net is not None}


class Pool(Record, frozen=True, kw_only=True):
    """A range of addresses that the engine holds; `range` is `--ip-range`."""

    id: str
    space: str
    subnet: IPNetwork
    range: IPNetwork | None = None


class Lease(Record, frozen=True, kw_only=True):
    """An address of a pool. `released` is None while it is held, then a number that grows with time."""

    pool_id: str
    address: IPAddress
    released: int | None = None


class Strangers(msgspec.Struct, frozen=True, omit_defaults=True):
    """Links of which the host routed no packets of an IP version until pynet had it forward.

    What comes in by one of `links` was not sent on to any link that was there: neither to one of `links` nor to one
    of `others`. `bridges` are those of them that carry packets from port to port, with the host routing or not.
    """

    version: int
    links: tuple[str, ...]
    others: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"strangers ipv{self.version} {' '.join(self.links)}"


class Setting(Record, frozen=True, kw_only=True):
    """A switch of others' that pynet changed, or would on its way back, with what was there before.

    `path` is its file, or stands for one where the kernel has none (see `kernel.settings`).

    `version` is the IP version of which it switches forwarding, 0 if it is a link's own. `boot` is the
    kernel's boot id: after a reboot the former value is void. `strangers` go with the host's own switch; records of
    version 0.2.0 have none.
    """

    path: str
    version: int
    former: str
    value: str
    boot: str = ""
    strangers: Strangers | None = None


#: Most addresses of a record are written often: a thousand published ports have two between them.
_text = lru_cache(1024)(str)


def _encode(value: Any) -> str:
    if isinstance(value, IPAddress):
        return _text(value)
    if isinstance(value, IPNetwork):
        return str(value)  # two of one subnet are equal, whatever their own addresses
    raise NotImplementedError(type(value))


def _decode(kind: type, value: Any) -> Any:
    return kind(value)


def encode(record: msgspec.Struct) -> bytes:
    """Write a record as JSON."""
    return msgspec.json.encode(record, enc_hook=_encode)


def decode(data: bytes, kind: type[T]) -> T:
    """Read back what `encode` wrote.

    Raises:
        PynetError: the record is damaged.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_decode)
    except (msgspec.DecodeError, AddrFormatError, UnicodeDecodeError, RecursionError) as error:
        name = re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
        raise PynetError(f"a {name} in pynet's state cannot be read: {error}") from error
