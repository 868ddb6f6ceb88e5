"""The firewall: owners and their intents in, one transaction a change out.

`Firewall` is the seam for a second kind (legacy iptables by python-iptables); nftables is the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog

from pynetdriver.errors import HostError
from pynetdriver.kernel import ruleset
from pynetdriver.kernel.nftables import Nftables, NftablesError
from pynetdriver.plan import Intent

log = structlog.get_logger()

#: Commands longer than this take more than about 5 ms, so they leave the event loop.
_INLINE_BYTES = 32_768


class Firewall(Protocol):
    """Keeps what it was told, so that changes are deltas and a flushed table can be written anew."""

    #: How often `mend` is to be called: often where the kernel does not tell of changes.
    mend_every_s: float

    async def set(self, owner: str, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents; none removes it. Raises HostError, with nothing changed."""
        ...

    async def reset(self, owners: Mapping[str, Sequence[Intent]]) -> None:
        """Replace everything, in one transaction."""
        ...

    async def set_engine_bridges(self, names: frozenset[str]) -> None:
        """Say which bridges are the engine's own, to which containers of pynet have no way."""
        ...

    async def mend(self) -> bool:
        """Write everything anew if somebody removed or changed some of it; tells whether that was so."""
        ...

    async def rewrite(self) -> None:
        """Write everything anew, in one transaction."""
        ...


class NftablesFirewall:
    """A `Firewall` in the table `inet pynet`, which exists while there is any owner."""

    mend_every_s = 30.0

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables
        self._owners: dict[str, tuple[Intent, ...]] = {}
        self._chains: set[str] = set(ruleset.BASE_CHAINS)
        self._bridges: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()

    async def set(self, owner: str, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents."""
        # Shielded: a transaction in another thread cannot be called back, so it is waited for.
        await asyncio.shield(asyncio.ensure_future(self._set(owner, tuple(intents))))

    async def _set(self, owner: str, intents: tuple[Intent, ...]) -> None:
        async with self._lock:
            former = self._owners.get(owner, ())
            delta = ruleset.change(former, intents)
            if not delta:
                return
            first = not self._owners
            self._keep(owner, intents)
            try:
                await self._change("" if first or not self._owners else delta)
            except HostError:
                self._keep(owner, former)
                raise

    def _keep(self, owner: str, intents: tuple[Intent, ...]) -> None:
        self._chains.difference_update(ruleset.chains(self._owners.get(owner, ())))
        self._chains.update(ruleset.chains(intents))
        if intents:
            self._owners[owner] = intents
        else:
            self._owners.pop(owner, None)

    async def reset(self, owners: Mapping[str, Sequence[Intent]]) -> None:
        """Replace everything."""
        async with self._lock:
            self._owners.clear()
            self._chains = set(ruleset.BASE_CHAINS)
            for owner, intents in owners.items():
                self._keep(owner, tuple(intents))
            await self._change("")

    async def set_engine_bridges(self, names: frozenset[str]) -> None:
        """Say which bridges are the engine's own."""
        async with self._lock:
            former = self._bridges
            delta = ruleset.change_bridges(former, names)
            self._bridges = names
            try:
                if delta and self._owners:
                    await self._change(delta)
            except HostError:
                self._bridges = former
                raise

    async def mend(self) -> bool:
        """Write the table anew if it or one of its chains is gone; a chain that was emptied goes unseen."""
        async with self._lock:
            if not self._owners:
                return False
            try:
                listed = self._nftables.listing("chains inet")
            except NftablesError as error:
                raise HostError(f"cannot list nftables chains: {error}") from error
            chains = {one["chain"]["name"] for one in listed if one.get("chain", {}).get("table") == "pynet"}
            if chains.issuperset(self._chains):
                return False
            log.warning("table inet pynet was removed by somebody; writing it anew")
            await self._change("")
            return True

    async def rewrite(self) -> None:
        """Write the table anew."""
        async with self._lock:
            if self._owners:
                await self._change("")

    async def _change(self, delta: str) -> None:
        """Commit the delta, or the whole table if there is none or somebody else changed the table."""
        try:
            if delta:
                await self._commit(delta)
                return
        except NftablesError as error:
            log.warning("table inet pynet is not as pynet left it; writing it anew", error=str(error))
        intents = [intent for one in self._owners.values() for intent in one]
        try:
            commands = ruleset.removal(await asyncio.to_thread(self._listed), last=not intents)
            await self._commit(commands + ruleset.render(intents, self._bridges) if intents else commands)
        except NftablesError as error:
            raise HostError(f"nftables refused pynet's rules: {error}") from error

    def _listed(self) -> list[dict[str, Any]]:
        try:
            return self._nftables.listing(f"table {ruleset.TABLE}")
        except NftablesError:
            return []  # there is none; anything else makes the next transaction fail

    async def _commit(self, commands: str) -> None:
        if len(commands) < _INLINE_BYTES:
            self._nftables.commit(commands)
        else:
            await asyncio.to_thread(self._nftables.commit, commands)
