"""Descriptors of this process: some are kept for what the engine waits for, whoever else would have them all."""

from __future__ import annotations

import resource

#: Enough for calls side by side: sockets of netlink, the store's files, commands, and the engine's connections.
_KEPT = 256


def most() -> int:
    """Tell how many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_kept(number: int) -> bool:
    """Tell whether a new descriptor is one of those that are kept for the engine's calls, so to be closed again.

    The kernel gives the lowest number that is free (open(2)), so this one says how many are in use at least.
    """
    return number >= given(most())


def given(limit: int) -> int:
    """Tell how many of so many descriptors are not kept."""
    return limit - min(_KEPT, limit // 8)
