"""The firewall: owners and their intents in, one transaction a change out; in two kinds.

| module | what |
|---|---|
| `choice` | which kind this host has |
| `ruleset`, `nftables`, `counters` | the table `inet pynet`: as text, pure; kept in the kernel; its counters |
| `library`, `compiler`, `transaction`, `tables` | libnftables; text as messages, by it and by hand; the kernel |
| `chains`, `iptables`, `xtables` | chains in legacy tables: as text, pure; written by python-iptables; read |
| `engine` | the rules of pynet in the engine's own chain for others |
| `bridges` | the engine's bridges, from the engine's own rules |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from pynetdriver.plan import Intent, Owner

Direction = Literal["in", "out"]


class Flow(NamedTuple):
    """What goes into a container, or comes out of it, through a published port; 0.0.0.0 and :: are any address."""

    direction: Direction
    protocol: str
    host_address: str
    host_port: int


class Count(NamedTuple):
    """What a flow came to, IP headers included."""

    packets: int
    octets: int


@dataclass(frozen=True)
class EngineBridges:
    """The bridges of the engine's own networks, and how these stand to pynet's."""

    names: frozenset[str] = frozenset()
    #: Those to and from which everything is dropped: internal ones, and new ones that no rule of the engine names yet.
    closed: frozenset[str] = frozenset()
    #: By IP version: those for which the engine's own rules decide about every packet from other networks.
    judged: frozenset[tuple[int, str]] = frozenset()
    #: Those of `judged` whose rules stand behind DOCKER-USER.
    passed_on: frozenset[tuple[int, str]] = frozenset()
    #: Whether the engine drops packets of other networks to unprotected ports, as engines before 29 do.
    isolated: bool = True

    @property
    def guarded(self) -> frozenset[str]:
        """Those into which pynet does not let everything."""
        return self.names | self.closed

    def judged_in(self, version: int) -> frozenset[str]:
        """Name those that judge for themselves in an IP version."""
        return frozenset(name for one, name in self.judged if one == version)


class Firewall(Protocol):
    """Keeps the intents of all owners, so that changes are deltas and a flushed table can be written anew."""

    #: nftables or iptables.
    kind: str
    #: How often `repair` is to be called: often where the kernel does not tell of changes.
    check_every_s: float

    @property
    def is_empty(self) -> bool:
        """Whether no owner has anything here."""
        ...

    def kept_apart(self) -> list[int]:
        """List the IP versions whose strangers are kept apart by rules that are there, whoever wrote them."""
        ...

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents; none removes it. Raises HostError, with nothing changed."""
        ...

    async def reset(self, owners: Mapping[Owner, Sequence[Intent]]) -> None:
        """Replace everything, in one transaction or one for each table."""
        ...

    async def set_engine_bridges(self, bridges: EngineBridges) -> None:
        """Say which bridges are the engine's own, to which containers of pynet have no way of their own."""
        ...

    async def repair(self) -> bool:
        """Write everything anew if somebody removed or changed some of it; tells whether that was so."""
        ...

    async def rewrite(self) -> None:
        """Write everything anew, in one transaction or one for each table."""
        ...

    async def traffic(self) -> dict[Flow, Count] | None:
        """Tell what published ports carried, those that carried any; None if this is not counted. Raises HostError."""
        ...

    async def differences(self) -> list[str]:
        """Say what of it is not as it was written; nothing is changed. Raises HostError."""
        ...
