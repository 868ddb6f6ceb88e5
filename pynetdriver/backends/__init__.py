"""Backends: what networks and endpoints look like on the host. One file each, pure, found by name.

A backend module has one subclass of `Backend`, and its name is the value of `-o backend=`. What several have in
common is in modules whose names begin with `_`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import combinations
from pkgutil import iter_modules
from typing import Any, ClassVar, Generic, TypeVar

from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import options as kinds
from pynetdriver.errors import InvalidOption, InvalidRequest
from pynetdriver.model import DhcpClient, Endpoint, Network
from pynetdriver.options import declared, option, parse_options
from pynetdriver.plan import Plan, SandboxInterface, StaticRoute
from pynetdriver.pool import overlap

#: RFC 8200, section 5.
IPV6_MINIMUM_MTU = 1280
#: Destinations of default routes.
EVERYWHERE = {4: IPNetwork("0.0.0.0/0"), 6: IPNetwork("::/0")}
#: Why an endpoint cannot have an address of the host.
OWN_ADDRESS = (
    "address {} is this host's own; choose another, and keep containers from it with --aux-address or --ip-range when"
    " the network is created"
)


@dataclass(frozen=True)
class Attachment:
    """What the engine does inside the sandbox: the link to move in, and the way out, if there is one."""

    link: str
    prefix: str
    gateway4: IPAddress | None = None
    gateway6: IPAddress | None = None
    routes: tuple[StaticRoute, ...] = ()


@dataclass(frozen=True)
class Lan:
    """A link to other machines, and whether these are asked for an address before a container gets it."""

    link: str
    asked: bool = True


@dataclass(frozen=True)
class Publishing:
    """How ports of a network are published.

    `addresses`, one of a family at most, are those of the host where a port without one is. In the IP versions
    `untranslated` ports are opened at the container's address, not on the host. `isolated` containers do not reach
    each other, so that the host relays when one asks a port of another.
    """

    addresses: tuple[IPAddress, ...]
    untranslated: frozenset[int] = frozenset()
    isolated: bool = False


@dataclass(frozen=True)
class EngineOptions:
    """What the engine itself reads, whatever the driver, and hands on; nothing of it is pynet's to do."""

    enable4: bool | None = option(
        "com.docker.network.enable_ipv4",
        kind=kinds.boolean,
        meaning="read by the engine (28 and newer), as `--ipv4`",
        default=None,
        shown="the engine's",
    )
    enable6: bool | None = option(
        "com.docker.network.enable_ipv6",
        kind=kinds.boolean,
        meaning="read by the engine (28 and newer), as `--ipv6`; older ones need that flag",
        default=None,
        shown="the engine's",
    )
    announcements: int | None = option(
        "com.docker.network.advertise_addr_nmsgs",
        kind=kinds.integer(0, 3),
        meaning="how often the engine announces a container's address (engine 28 and newer)",
        default=None,
        shown="the engine's",
    )
    announcement_interval: int | None = option(
        "com.docker.network.advertise_addr_ms",
        kind=kinds.integer(100, 2000),
        meaning="milliseconds between two announcements of the engine",
        default=None,
        shown="the engine's",
    )


Chosen = TypeVar("Chosen", bound=EngineOptions)


def mtu_option(shown: str) -> Any:
    """Declare the field `mtu: int | None`; `shown` says where it comes from if it is not given."""
    return option(
        "com.docker.network.driver.mtu",
        "mtu",
        kind=kinds.integer(68, 65535, zero_is_none=True),
        meaning="MTU of every link of the network in bytes, 0 for the default; at least 1280 with IPv6",
        default=None,
        shown=shown,
    )


def prefix_option() -> Any:
    """Declare the field `prefix: str`."""
    return option(
        "com.docker.network.container_iface_prefix",
        kind=kinds.link_prefix,
        meaning="name of the interface in the container, before its number",
        default="eth",
        unset="",
    )


def check_mtu(network: Network, mtu: int | None) -> None:
    """Refuse an MTU that is too small for IPv6 (RFC 8200, section 5). Raises InvalidOption."""
    if mtu is not None and mtu < IPV6_MINIMUM_MTU and has_ipv6(network):
        raise InvalidOption.value("com.docker.network.driver.mtu", str(mtu), f"{IPV6_MINIMUM_MTU} to 65535 with IPv6")


def check_subnets(network: Network) -> None:
    """Refuse subnets of one network that overlap. Raises InvalidRequest."""
    for one, other in combinations(network.subnets, 2):
        if overlap(one.pool, other.pool):
            raise InvalidRequest(f"subnet {one.pool} overlaps {other.pool}, both of this network; choose others")


def has_ipv6(network: Network) -> bool:
    """Tell whether a network has an IPv6 subnet."""
    return any(subnet.pool.version == 6 for subnet in network.subnets)


def dhcp_option(meaning: str) -> Any:
    """Declare the field `dhcp: bool`."""
    return option("dhcp", kind=kinds.boolean, meaning=meaning, default=False)


def conflict_check_option(where: str) -> Any:
    """Declare the field `conflict_check: bool`; `where` says where there is somebody to ask."""
    return option(
        "conflict_check",
        kind=kinds.boolean,
        meaning="before a container gets an address, other machines on the LAN are asked whether they have it (ARP, "
        f"neighbour discovery); {where}",
        default=True,
    )


def check_dhcp(network: Network) -> None:
    """Refuse subnets where the LAN's DHCP server gives addresses. Raises InvalidOption."""
    if network.subnets:
        raise InvalidOption(
            "dhcp=true takes addresses from the LAN's DHCP server, so nobody else may give them: create the network"
            " with --ipam-driver null and without --subnet"
        )


def client_on(link: str, endpoint: Endpoint, default: bytes, listen: tuple[str, ...] = ()) -> DhcpClient:
    """Make an endpoint a DHCP client on a link; `default` is its client id if it has none yet."""
    client_id = bytes.fromhex(endpoint.client_id) or default
    return DhcpClient(link, endpoint.mac, client_id, f"pynet-{client_id[-6:].hex()}", listen)


def mac_client_id(mac: str) -> bytes:
    """Make a client id of a MAC: its hardware type, 1 for Ethernet, and itself (RFC 2132, section 9.14)."""
    return bytes.fromhex("01" + mac.replace(":", ""))


def with_mac_client_id(endpoint: Endpoint) -> Endpoint:
    """Have an endpoint whose MAC was given be itself for a DHCP server."""
    return replace(endpoint, client_id=mac_client_id(endpoint.mac).hex()) if endpoint.mac_given else endpoint


def gateways(network: Network, endpoint: Endpoint) -> dict[int, IPAddress]:
    """Tell the way out by IP version: that of the subnet in which the endpoint is, none of an internal network."""
    found: dict[int, IPAddress] = {}
    if endpoint.lease and endpoint.lease.gateway and not network.internal:
        found[4] = endpoint.lease.gateway
    for given in (endpoint.address4, endpoint.address6):
        for subnet in network.subnets:
            gateway = subnet.default_gateway or subnet.gateway
            if given is not None and given.ip in subnet.pool and gateway and not network.internal:
                found[given.version] = gateway
    return {version: gateway for version, gateway in found.items() if version not in endpoint.cut_off}


def leased_routes(network: Network, endpoint: Endpoint) -> tuple[StaticRoute, ...]:
    """Tell the routes that a DHCP server gave; an internal network has none."""
    routes = endpoint.lease.routes if endpoint.lease and not network.internal else ()
    return tuple(StaticRoute(to, next_hop if int(next_hop) else None) for to, next_hop in routes)


def sandbox_interface(attachment: Attachment, endpoint: Endpoint) -> SandboxInterface:
    """Tell what the engine made of an endpoint's link in its sandbox; one whose lease is lost has no IPv4 address."""
    has_lost = endpoint.lease is not None and endpoint.lease.lease_s == 0
    addresses = [endpoint.address6, *([] if has_lost else [endpoint.address4])]
    gateways = [one for one in (attachment.gateway4, attachment.gateway6) if one is not None]
    ways = (*attachment.routes, *(StaticRoute(EVERYWHERE[one.version], one) for one in gateways))
    return SandboxInterface(attachment.prefix, tuple(one for one in addresses if one is not None), ways)


class Backend(ABC, Generic[Chosen]):
    """A kind of network. Its methods are pure, and parse the options of the network that they are asked about."""

    #: A dataclass of the options that users type; see `pynetdriver.options`.
    Options: type[Chosen]
    #: Options that say which backend is meant where `backend` does not.
    IMPLIED_BY: ClassVar[tuple[str, ...]] = ()
    #: Whether the facts of its links are those of the present rather than those of when the network was made.
    FOLLOWS_HOST: ClassVar[bool] = False

    def options(self, network: Network) -> Chosen:
        """Read what the user typed. Raises InvalidOption."""
        return parse_options(self.Options, network.options)

    def named_links(self, network: Network, uplink: str | None) -> tuple[str, ...]:
        """Name the links on which the network is to stand, whose facts the following functions then find.

        Args:
            uplink: the link that carries the host's default route.
        """
        return ()

    def skipped_gateways(self, given: Mapping[str, str], internal: bool) -> frozenset[int]:
        """Tell the IP versions for which a network of these options needs no gateway address."""
        return frozenset()

    @abstractmethod
    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse what cannot work, or clashes with other networks or the host's addresses, given by link."""

    @abstractmethod
    def network_plan(self, network: Network) -> Plan:
        """Tell what a network wants to exist."""

    @abstractmethod
    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """Tell what an endpoint wants to exist, its published ports included."""

    def lan(self, network: Network) -> Lan | None:
        """Tell on which LAN containers have their addresses beside other machines; None if there are no others."""
        return None

    def dhcp_client(self, network: Network, endpoint: Endpoint) -> DhcpClient | None:
        """Tell who asks the LAN's DHCP server for the endpoint's address, None if it is not to be asked.

        An endpoint that has no client id yet gets one.
        """
        return None

    def host_addresses(self, network: Network) -> dict[IPNetwork, IPAddress | None]:
        """Tell the subnets in which the host takes an address besides a gateway's, and the one that the user named."""
        return {}

    def admitted(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Refuse an endpoint that the network cannot have, or complete it with what the network decides."""
        return endpoint

    def publishing(self, network: Network) -> Publishing | None:
        """Tell how ports are published; None if containers are reached at their own addresses alone."""
        return None

    @abstractmethod
    def attachment(self, network: Network, endpoint: Endpoint) -> Attachment:
        """Tell what Join answers."""


DEFAULT = "bridge"
NAMES = tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


@cache
def backend_named(name: str) -> Backend[Any]:
    """Find a backend.

    Raises:
        InvalidOption: there is none of that name.
    """
    if name not in NAMES:
        raise InvalidOption.value("backend", name, ", ".join(NAMES))
    module = import_module(f"{__name__}.{name}")
    (backend,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Backend) and one.__module__ == module.__name__
    )
    return backend()


def owners_of(option: str) -> list[str]:
    """List the backends that know an option's name."""
    return [
        name for name in NAMES if any(option in one.names for one in declared(backend_named(name).Options).values())
    ]
