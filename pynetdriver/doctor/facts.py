"""What the doctor knows: what daemon and engine said, and what the kernel has, as plain records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netaddr import IPNetwork

from pynetdriver.admin.answers import Network, Status
from pynetdriver.names import LINK_GROUP
from pynetdriver.plan import Bridge


@dataclass(frozen=True)
class Plugin:
    """A managed plugin of the engine's, by its whole name."""

    name: str
    enabled: bool


@dataclass(frozen=True)
class Told:
    """What the daemon and the engine said, or that they said nothing.

    Args:
        sockets: where pynet serves engines, the host's own first.
        state_dir: where the daemon keeps its state, if it does not say so itself.
        status: what the daemon is, None if it did not say so.
        networks: those that the daemon knows, None if it did not say so.
        answers: whether the daemon answered anything, be it a refusal.
        refusal: why status or networks are not there.
        plugins: the engine's managed plugins, None if the engine could not be asked.
        lost: names of the engine's networks that are pynet's and that the daemon does not know, by id.
    """

    sockets: Sequence[Path]
    state_dir: Path
    status: Status | None = None
    networks: Sequence[Network] | None = None
    answers: bool = False
    refusal: str = ""
    plugins: Sequence[Plugin] | None = None
    lost: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A link of this namespace; `running` says that there is something at its other end."""

    name: str
    index: int
    kind: str
    up: bool
    running: bool
    mtu: int
    group: int
    master: str | None
    lower: str | None
    elsewhere: bool

    @property
    def is_bridge(self) -> bool:
        return self.kind == Bridge.kind

    @property
    def is_ours(self) -> bool:
        """Whether it is a bridge or port of pynet's own."""
        return self.group == LINK_GROUP


@dataclass(frozen=True)
class HostAddress:
    """An address of a link; `advertised` says that a router's advertisement brought it."""

    link: str
    address: IPNetwork
    advertised: bool


@dataclass(frozen=True)
class HostRoute:
    """A route of the main table to a prefix; None for a route by several links."""

    to: IPNetwork
    link: str | None


@dataclass(frozen=True)
class Way:
    """Where this host sends a packet: `kind` is unicast, local, blackhole, unreachable or prohibit."""

    kind: str
    link: str | None


@dataclass(frozen=True)
class Table:
    """A table of nftables."""

    family: str
    name: str
    dormant: bool


@dataclass(frozen=True)
class BaseChain:
    """A chain of nftables that packets enter at a hook, by its number in linux/netfilter.h."""

    family: str
    table: str
    name: str
    hook: int
    drops: bool


def is_ours(name: str) -> bool:
    """Tell whether a network's link is one that pynet makes for it alone."""
    return re.fullmatch(r"pn-[0-9a-z]{12}", name) is not None


def title(network: Network) -> str:
    """What a user calls a network."""
    return network.name or network.id[:12]


def versions(network: Network) -> list[int]:
    """The IP versions of a network."""
    return sorted({IPNetwork(one.pool).version for one in network.subnets})
