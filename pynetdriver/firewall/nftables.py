"""The firewall in the table `inet pynet`: one transaction a change, written by netlink in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import structlog

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, EngineBridges, Firewall, Flow, ruleset
from pynetdriver.firewall.compiler import Compiler
from pynetdriver.firewall.counters import Counted, Counters, attributed
from pynetdriver.firewall.library import NftablesError
from pynetdriver.firewall.tables import Table, Tables
from pynetdriver.firewall.transaction import Form, messages
from pynetdriver.locks import aside
from pynetdriver.plan import Intent, Owner, PortForward

log = structlog.get_logger()

#: Commands longer than this take more than about 5 ms, so they leave the event loop.
_INLINE_BYTES = 32_768

#: Counters of ports that are not published any more are looked for this long after; all of a time at once.
_SETTLE_S = 0.5
#: So many counters are forgotten at a time: meanwhile, for about 1 ms, calls wait for the kernel.
_FORGOTTEN = 50


class Nftables:
    """Reads and writes one table; for any thread."""

    def __init__(
        self,
        table: str = ruleset.TABLE,
        bare: str = ruleset.BARE,
        declarations: str = ruleset.DECLARATIONS,
        forms: Mapping[str, Form] = ruleset.FORMS,
    ) -> None:
        """Load libnftables.

        Args:
            table: family and name, e.g. `inet pynet`.
            bare: the command that makes the table with nothing in its sets; see `Compiler`.
            declarations: the same with its maps and sets alone.
            forms: of the elements of these.

        Raises:
            HostError: the library is not installed.
        """
        self._family, self._name = table.split()
        self._compiler = Compiler(bare, declarations)
        self._forms = forms
        self._tables = Tables()

    def commit(self, commands: str) -> None:
        """Carry out all commands, or none and raise NftablesError."""
        self._tables.commit(messages(commands, self._forms, self._compiler.messages))

    def listing(self, *, elements: bool = False) -> Table | None:
        """Read the table, and count its elements on request; None if it is not there. Raises HostError."""
        return self._tables.table(self._family, self._name, elements=elements)

    def chains(self) -> set[str]:
        """Name the table's chains. Raises HostError."""
        return {chain for table, chain in self._tables.chains(self._family) if table == self._name}


class NftablesFirewall:
    """A `Firewall` in the table `inet pynet`, which exists while there is any owner."""

    kind = "nftables"
    check_every_s = 30.0

    def __init__(self, nftables: Nftables, former: Firewall | None = None) -> None:
        """Have nothing to write yet.

        Args:
            former: what held the rules until the last stop; it is emptied once they are here.
        """
        self._nftables = nftables
        self._former = former
        self._owners: dict[Owner, tuple[Intent, ...]] = {}
        self._chains: set[str] = set(ruleset.BASE_CHAINS)
        self._bridges = EngineBridges()
        self._lock = asyncio.Lock()
        self._counters = Counters()
        self._tidying: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no owner has anything here."""
        return not self._owners

    def kept_apart(self) -> list[int]:
        """List the IP versions of which strangers are in the table. Raises HostError."""
        listed = self._nftables.listing(elements=True) or Table()
        return [version for version in (4, 6) if listed.sets.get(f"strangers{version}", (0, 0))[1]]

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents."""
        # Shielded: a transaction in another thread cannot be cancelled.
        await asyncio.shield(asyncio.ensure_future(self._set(owner, tuple(intents))))

    async def _set(self, owner: Owner, intents: tuple[Intent, ...]) -> None:
        async with self._lock:
            former = self._owners.get(owner, ())
            delta = await aside(lambda: ruleset.change(former, intents), len(former) + len(intents))
            first = not self._owners
            self._keep(owner, intents)
            whole = first != (not self._owners)
            if not delta and not whole:
                return
            try:
                await self._change("" if whole else delta)
            except HostError:
                self._keep(owner, former)
                raise
            if any(isinstance(one, PortForward) for one in former) and (self._tidying is None or self._tidying.done()):
                self._tidying = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        """Remove the counters of former ports: whoever publishes such a port next begins with none."""
        await asyncio.sleep(_SETTLE_S)
        try:
            _, stale = await asyncio.to_thread(self._attributed)
            for start in range(0, len(stale), _FORGOTTEN):
                commands = ruleset.forget(stale[start : start + _FORGOTTEN])
                await asyncio.to_thread(self._nftables.commit, commands)
        except (HostError, NftablesError) as error:
            # Somebody may have removed the table meanwhile.
            log.info("cannot forget counters of former ports", error=str(error))

    def _keep(self, owner: Owner, intents: tuple[Intent, ...]) -> None:
        self._chains.difference_update(ruleset.chains(self._owners.get(owner, ())))
        self._chains.update(ruleset.chains(intents))
        if intents:
            self._owners[owner] = intents
        else:
            self._owners.pop(owner, None)

    async def reset(self, owners: Mapping[Owner, Sequence[Intent]]) -> None:
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

    async def set_engine_bridges(self, bridges: EngineBridges) -> None:
        """Say which bridges are the engine's own."""
        async with self._lock:
            former = self._bridges
            delta = ruleset.change_bridges(former, bridges)
            self._bridges = bridges
            try:
                if delta and self._owners:
                    await self._change(delta)
            except Exception:
                self._bridges = former
                raise

    async def repair(self) -> bool:
        """Write the table anew if it or one of its chains is gone; a chain that was emptied goes unseen."""
        async with self._lock:
            if not self._owners:
                return False
            if self._chains.issubset(await asyncio.to_thread(self._nftables.chains)):
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
            listed = await asyncio.to_thread(self._nftables.listing, elements=True)
            if listed is None:
                return [f"table {ruleset.TABLE} is gone"]
            found = ruleset.listed_sizes(listed)
            return [
                f"{name} of table {ruleset.TABLE} has {found.get(name, 0)} of {size} entries"
                for name, size in ruleset.sizes(intents, self._bridges).items()
                if found.get(name, 0) != size
            ]

    async def rewrite(self) -> None:
        """Write the table anew."""
        async with self._lock:
            if self._owners:
                # A table takes no base chains in the transaction that clears its flag `dormant`.
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
            listed = await asyncio.to_thread(self._nftables.listing)
            commands = ruleset.removal(listed or Table(), last=not intents)
            await self._commit(commands + ruleset.render(intents, self._bridges) if intents else commands)
        except NftablesError as error:
            raise HostError(f"nftables refused pynet's rules: {error}") from error

    def _attributed(self) -> tuple[dict[Flow, Count], list[Counted]]:
        published = [one for intents in list(self._owners.values()) for one in intents if isinstance(one, PortForward)]
        return attributed(self._counters.read(), published)

    async def _commit(self, commands: str) -> None:
        if len(commands) < _INLINE_BYTES:
            self._nftables.commit(commands)
        else:
            await asyncio.to_thread(self._nftables.commit, commands)
