"""What this host has to remember, on disk: a few kinds of records behind one small interface.

What several hosts have to agree on needs another interface, with transactions between hosts, watches and leases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Change:
    """Put `data` under a key of a kind, or remove the key if `data` is None."""

    kind: str
    key: str
    data: bytes | None


class Store(Protocol):
    """Records by kind and key."""

    def load(self, kind: str) -> dict[str, bytes]:
        """Read all records of a kind."""
        ...

    def write(self, *changes: Change, fleeting: bool = False) -> None:
        """Carry out all changes or none; on return they survive a crash of the process and of the machine.

        Args:
            fleeting: they say nothing after a reboot, so they need not survive a crash of the machine.
        """
        ...
