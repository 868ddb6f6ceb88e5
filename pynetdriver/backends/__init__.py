"""Backends: what networks and endpoints look like on the host. One file each, pure, found by name.

A backend module has `Options` (a dataclass of its options, see `pynetdriver.options`) and the functions
of the `Backend` protocol below. Its module name is the value of `-o backend=`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, cast

from netaddr import IPAddress, IPNetwork

from pynetdriver.errors import InvalidOption
from pynetdriver.messages import StaticRoute
from pynetdriver.model import Endpoint, Network
from pynetdriver.options import declared
from pynetdriver.plan import Plan


@dataclass(frozen=True)
class Attachment:
    """What the engine does inside the sandbox: the link to move in, and the way out, if there is one."""

    link: str
    prefix: str
    gateway4: IPAddress | None = None
    gateway6: IPAddress | None = None
    routes: tuple[StaticRoute, ...] = ()


class Backend(Protocol):
    """A module of this package. Its functions are pure; options are parsed before any of them."""

    Options: type[Any]

    def named_link(self, network: Network) -> str | None:
        """Name the link that the network is to stand on, whose facts the following functions then find."""
        ...

    def skipped_gateways(self, given: Mapping[str, str], internal: bool) -> frozenset[int]:
        """Tell the IP versions for which a network of these options needs no gateway address."""
        ...

    def check(
        self, network: Network, networks: Mapping[str, Network], addresses: Iterable[tuple[str, IPNetwork]]
    ) -> None:
        """Refuse what cannot work, or clashes with other networks or the host's addresses, given by link."""
        ...

    def network_plan(self, network: Network) -> Plan:
        """Tell what a network wants to exist."""
        ...

    def endpoint_plan(self, network: Network, endpoint: Endpoint) -> Plan:
        """Tell what an endpoint wants to exist, its published ports included."""
        ...

    def publish_addresses(self, network: Network) -> tuple[IPAddress, ...]:
        """Tell the host addresses, one of a family at most, where a port without one is published."""
        ...

    def untranslated(self, network: Network) -> frozenset[int]:
        """Tell the IP versions in which ports are opened at the container's address, not on the host."""
        ...

    def keeps_apart(self, network: Network) -> bool:
        """Tell whether containers do not reach each other, so that the host relays when one asks a port of another."""
        ...

    def attachment(self, network: Network, endpoint: Endpoint) -> Attachment:
        """Tell what Join answers."""
        ...


DEFAULT = "bridge"
NAMES = tuple(sorted(module.name for module in iter_modules(__path__)))


def backend_named(name: str) -> Backend:
    """Find a backend.

    Raises:
        InvalidOption: there is none of that name.
    """
    if name not in NAMES:
        raise InvalidOption.value("backend", name, ", ".join(NAMES))
    return cast(Backend, import_module(f"{__name__}.{name}"))


def owners_of(option: str) -> list[str]:
    """List the backends that know an option's name."""
    return [
        name for name in NAMES if any(option in one.names for one in declared(backend_named(name).Options).values())
    ]
