"""The firewall: owners and their intents in, one transaction a change out; in two kinds.

| module | what |
|---|---|
| `choice` | which kind this host has |
| `ruleset`, `nftables`, `counters` | the table `inet pynet`: as text, pure; kept in the kernel; its counters |
| `library`, `compiler`, `transaction`, `tables` | libnftables; text as messages, by it and by hand; the kernel |
| `chains`, `iptables`, `xtables` | chains in legacy tables: as text, pure; written by python-iptables; read |
| `engine` | the rules of pynet in the engine's own chain for others |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from pynetdriver.plan import Intent

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


class Firewall(Protocol):
    """Keeps what it was told, so that changes are deltas and a flushed table can be written anew."""

    #: nftables or iptables.
    kind: str
    #: How often `mend` is to be called: often where the kernel does not tell of changes.
    mend_every_s: float

    async def set(self, owner: str, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents; none removes it. Raises HostError, with nothing changed."""
        ...

    async def reset(self, owners: Mapping[str, Sequence[Intent]]) -> None:
        """Replace everything, in one transaction or one for each table."""
        ...

    async def set_engine_bridges(self, names: frozenset[str]) -> None:
        """Say which bridges are the engine's own, to which containers of pynet have no way."""
        ...

    async def mend(self) -> bool:
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
