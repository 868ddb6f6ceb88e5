"""libnftables, in this process: one transaction a call, no `nft` process; and the firewall in the table `inet pynet`.

The distribution's own Python binding is not on the package index, so the seven functions that are needed
are bound here. Errors cost 15 ms (the library re-reads the ruleset), successes 0.1 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, Firewall, Flow, ruleset
from pynetdriver.firewall.counters import Counted, Counters, attributed
from pynetdriver.locks import aside
from pynetdriver.plan import Intent, Publication

log = structlog.get_logger()

#: Commands longer than this take more than about 5 ms, so they leave the event loop.
_INLINE_BYTES = 32_768

#: Counters of ports that are not published any more are looked for this long after; all of a time at once.
_SETTLE_S = 0.5
#: So many counters are forgotten at a time: meanwhile, for about 1 ms, calls wait for the library.
_FORGOTTEN = 50

#: NFT_CTX_OUTPUT_JSON and NFT_CTX_OUTPUT_TERSE (libnftables.h); the latter leaves out elements of sets.
_JSON_OUTPUT, _TERSE = 1 << 4, 1 << 11


class NftablesError(Exception):
    """The kernel or the library refused a transaction; nothing of it was carried out."""


#: The library has state that its contexts share, so no two threads are in it at once.
_ONE_AT_A_TIME = threading.Lock()


class Nftables:
    """A libnftables context."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            HostError: it is not installed.
        """
        try:
            self._library = ctypes.CDLL("libnftables.so.1")
        except OSError:
            raise HostError("libnftables.so.1 is missing; install the package libnftables1 (or nftables)") from None
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def commit(self, commands: str) -> None:
        """Carry out all commands, or none and raise NftablesError."""
        with _ONE_AT_A_TIME:
            self._run(commands)

    def listing(self, what: str, *, elements: bool = False) -> list[dict[str, Any]]:
        """List e.g. `chain ip filter FORWARD` as libnftables-json(5) objects; NftablesError if absent."""
        with _ONE_AT_A_TIME:
            self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT if elements else _JSON_OUTPUT | _TERSE)
            try:
                output = self._run(f"list {what}")
            finally:
                self._library.nft_ctx_output_set_flags(self._context, 0)
        try:
            objects: list[dict[str, Any]] = json.loads(output)["nftables"]
        except ValueError:  # libnftables 1.0.6 and a table with flags
            raise NftablesError(f"the listing of {what} is no JSON") from None
        return objects

    def _run(self, commands: str) -> str:
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        message = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        if code != 0:
            raise NftablesError(message.strip().partition("\n")[0])
        return str(output)


class NftablesFirewall:
    """A `Firewall` in the table `inet pynet`, which exists while there is any owner."""

    kind = "nftables"
    mend_every_s = 30.0

    def __init__(self, nftables: Nftables, former: Firewall | None = None) -> None:
        """Have nothing to write yet.

        Args:
            former: what held the rules until the last stop; it is emptied once they are here.
        """
        self._nftables = nftables
        self._former = former
        self._owners: dict[str, tuple[Intent, ...]] = {}
        self._chains: set[str] = set(ruleset.BASE_CHAINS)
        self._bridges: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self._counters = Counters()
        self._tidying: asyncio.Task[None] | None = None

    async def set(self, owner: str, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents."""
        # Shielded: a transaction in another thread cannot be called back, so it is waited for.
        await asyncio.shield(asyncio.ensure_future(self._set(owner, tuple(intents))))

    async def _set(self, owner: str, intents: tuple[Intent, ...]) -> None:
        async with self._lock:
            former = self._owners.get(owner, ())
            delta = await aside(lambda: ruleset.change(former, intents), len(former) + len(intents))
            if not delta:
                return
            first = not self._owners
            self._keep(owner, intents)
            try:
                await self._change("" if first or not self._owners else delta)
            except HostError:
                self._keep(owner, former)
                raise
            if any(isinstance(one, Publication) for one in former) and (self._tidying is None or self._tidying.done()):
                self._tidying = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        """Forget the counters of what is not published any more, so that who comes next begins with none."""
        await asyncio.sleep(_SETTLE_S)
        try:
            _, stale = await asyncio.to_thread(self._attributed)
            for start in range(0, len(stale), _FORGOTTEN):
                commands = ruleset.forget(stale[start : start + _FORGOTTEN])
                await asyncio.to_thread(self._nftables.commit, commands)
        except (HostError, NftablesError) as error:
            # Somebody may have removed the table meanwhile.
            log.info("cannot forget counters of former ports", error=str(error))

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
            if self._former is not None:
                await self._former.reset({})
                self._former = None

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

    async def traffic(self) -> dict[Flow, Count]:
        """Read the counters."""
        found, _ = await asyncio.to_thread(self._attributed)
        return found

    async def differences(self) -> list[str]:
        """Say which chains, sets and maps have not as many rules or elements as were written."""
        async with self._lock:
            if not self._owners:
                return []
            intents = [intent for one in self._owners.values() for intent in one]
            try:
                listed = await asyncio.to_thread(self._nftables.listing, f"table {ruleset.TABLE}", elements=True)
            except NftablesError:
                return [f"table {ruleset.TABLE} is gone"]
            found = ruleset.listed_sizes(one for one in listed if "metainfo" not in one)
            return [
                f"{name} of table {ruleset.TABLE} has {found.get(name, 0)} of {size} entries"
                for name, size in ruleset.sizes(intents, self._bridges).items()
                if found.get(name, 0) != size
            ]

    async def rewrite(self) -> None:
        """Write the table anew."""
        async with self._lock:
            if self._owners:
                # One that somebody put to sleep takes no chains in the transaction that wakes it.
                with contextlib.suppress(NftablesError):
                    await self._commit(f"add table {ruleset.TABLE}")
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

    def _attributed(self) -> tuple[dict[Flow, Count], list[Counted]]:
        published = [one for intents in list(self._owners.values()) for one in intents if isinstance(one, Publication)]
        return attributed(self._counters.read(), published)

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
