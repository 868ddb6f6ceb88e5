"""The table `bridge pynet`: what containers may not say to those on a bridge of others, and to the host there.

It is the same beside both kinds of firewall: legacy tables see packets alone, and only those that the host takes in.
A frame is judged as it comes out of the container, before the bridge looks where it goes. What stands in a VLAN, behind
extension headers or in fragments is judged too; of frames with several VLAN tags nothing can be said, so none passes.

| guard | keeps back |
|---|---|
| ra | router advertisements and redirects, of IPv4 (RFC 1256, RFC 792) and IPv6 (RFC 4861, RFC 6105) |
| dhcp | what is for the port of DHCP clients, of IPv4 and IPv6 |
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import structlog

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, EngineBridges, Firewall, Flow
from pynetdriver.firewall.library import NftablesError
from pynetdriver.firewall.nftables import Nftables
from pynetdriver.firewall.tables import Table
from pynetdriver.firewall.transaction import Form
from pynetdriver.plan import Guard, Intent, Owner

log = structlog.get_logger()

BRIDGED = "bridge pynet"
_SETS = ("ra", "dhcp")
# Types are compared as bytes, since the library would look for the type of an IP packet where a VLAN tag may stand. A
# first fragment that does not show what it is a part of is none that anybody needs to send (RFC 7112).
_CHAINS = """
  chain fragments {
    meta l4proto != { icmpv6, udp } return
    meta protocol ip6 frag frag-off != 0 return
    meta l4proto udp @th,16,16 != 0 return
    meta l4proto icmpv6 @th,0,8 != 0 return
    drop
  }
  chain router {
    meta protocol { 8021q, 8021ad } drop
    meta protocol ip6 exthdr frag exists jump fragments
    meta protocol ip6 meta l4proto icmpv6 @th,0,8 134 drop
    meta protocol ip6 meta l4proto icmpv6 @th,0,8 137 drop
    meta protocol ip meta l4proto icmp @th,0,8 5 drop
    meta protocol ip meta l4proto icmp @th,0,8 9 drop
  }
  chain server {
    meta protocol { 8021q, 8021ad } drop
    meta protocol ip6 exthdr frag exists jump fragments
    meta protocol ip6 meta l4proto udp @th,16,16 546 drop
    meta protocol ip meta l4proto udp @th,16,16 68 drop
  }
  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname @ra jump router
    iifname @dhcp jump server
  }
"""
DECLARATIONS = f"table {BRIDGED} {{\n" + "".join(f"  set {name} {{ typeof iifname; }}\n" for name in _SETS) + "}\n"
BARE = DECLARATIONS.removesuffix("}\n") + f"{_CHAINS}}}\n"
_FORMS = dict.fromkeys(_SETS, Form(("ifname",)))
_RULES = sum(line.startswith("    ") and " hook " not in line for line in _CHAINS.splitlines())


class Bridged:
    """A `Firewall` with this table beside one of either kind, which gets all other intents."""

    def __init__(self, inner: Firewall) -> None:
        """Load libnftables. Raises HostError."""
        self._nftables = Nftables(BRIDGED, BARE, DECLARATIONS, _FORMS)
        self._inner = inner
        self.kind = inner.kind
        self.check_every_s = inner.check_every_s
        self._owners: dict[Owner, frozenset[Guard]] = {}
        self._lock = asyncio.Lock()
        #: Why the kernel took no table when it was written last; said once, and no damage.
        self._refused = ""

    @property
    def is_empty(self) -> bool:
        """Whether no owner has anything here."""
        return not self._owners and self._inner.is_empty

    def kept_apart(self) -> list[int]:
        """List the IP versions whose strangers are kept apart by rules that are there, whoever wrote them."""
        return self._inner.kept_apart()

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents."""
        guards, others = _parted(intents)
        former = self._owners.get(owner, frozenset())
        if guards != former:
            await self._set(owner, guards)
        try:
            await self._inner.set(owner, others)
        except HostError:
            if guards != former:
                await self._set(owner, former)
            raise

    async def reset(self, owners: Mapping[Owner, Sequence[Intent]]) -> None:
        """Replace everything."""
        async with self._lock:
            parted = {owner: _parted(intents) for owner, intents in owners.items()}
            self._owners = {owner: guards for owner, (guards, _) in parted.items() if guards}
            try:
                self._write()
            except HostError as error:
                log.error(
                    "containers on adopted bridges are not kept from acting as router or DHCP server", error=error
                )
        await self._inner.reset({owner: others for owner, (_, others) in parted.items()})

    async def set_engine_bridges(self, bridges: EngineBridges) -> None:
        """Say which bridges are the engine's own."""
        await self._inner.set_engine_bridges(bridges)

    async def repair(self) -> bool:
        """Write everything anew if somebody removed or changed some of it."""
        wrong = False
        try:
            async with self._lock:
                differs = bool(self._owners) and bool(await asyncio.to_thread(self._difference, elements=False))
                if differs and self._refused:
                    self._write_again()
                elif differs:
                    wrong = True
                    log.warning("table bridge pynet was changed by somebody; writing it anew")
                    self._write()
                else:
                    self._refused = ""
        finally:
            is_repaired = await self._inner.repair()
        return is_repaired or wrong

    async def rewrite(self) -> None:
        """Write everything anew."""
        try:
            async with self._lock:
                if self._owners:
                    self._write_again()
        finally:
            await self._inner.rewrite()

    async def traffic(self) -> dict[Flow, Count] | None:
        """Tell what published ports carried."""
        return await self._inner.traffic()

    async def differences(self) -> list[str]:
        """Say what of it is not as it was written."""
        async with self._lock:
            found = await asyncio.to_thread(self._difference) if self._owners else []
        return [*found, *await self._inner.differences()]

    async def _set(self, owner: Owner, guards: frozenset[Guard]) -> None:
        async with self._lock:
            former = self._owners.get(owner, frozenset())
            first = not self._owners
            self._keep(owner, guards)
            try:
                if first or not self._owners:
                    self._write()
                    return
                try:
                    self._nftables.commit(_change(former, guards))
                except NftablesError as error:
                    log.warning("table bridge pynet is not as pynet left it; writing it anew", error=str(error))
                    self._write()
            except HostError:
                self._keep(owner, former)
                raise

    def _keep(self, owner: Owner, guards: frozenset[Guard]) -> None:
        if guards:
            self._owners[owner] = guards
        else:
            self._owners.pop(owner, None)

    def _elements(self) -> dict[str, list[str]]:
        return _elements(guard for guards in self._owners.values() for guard in guards)

    def _write_again(self) -> None:
        """Do so, but say nothing of what was refused before."""
        former = self._refused
        try:
            self._write()
        except HostError:
            if self._refused != former:
                raise

    def _write(self) -> None:
        """Replace the table, or remove it if nothing is guarded."""
        if not self._owners and self._nftables.listing() is None:
            return
        commands = f"table {BRIDGED}\ndelete table {BRIDGED}\n"
        if self._owners:
            commands += BARE + "".join(
                f"{_command('add', name, found)}\n" for name, found in self._elements().items() if found
            )
        try:
            self._nftables.commit(commands)
            self._refused = ""
        except NftablesError as error:
            self._refused = str(error)
            raise HostError(
                "this kernel or libnftables takes no rules for bridges, by which containers on an adopted bridge are"
                f" kept from acting as router or DHCP server: {error}; load nf_tables_bridge, or let them act with"
                " ra_guard=false and dhcp_guard=false"
            ) from error

    def _difference(self, *, elements: bool = True) -> list[str]:
        listed = self._nftables.listing(elements=elements) or Table()
        found = {name: size for name, (_, size) in listed.sets.items()}
        wanted = {name: len(ports) for name, ports in self._elements().items()}
        is_right = sum(listed.chains.values()) == _RULES and (found == wanted or not elements)
        return [] if is_right else [f"table {BRIDGED} is gone or was changed"]


def _parted(intents: Sequence[Intent]) -> tuple[frozenset[Guard], tuple[Intent, ...]]:
    guards = frozenset(one for one in intents if isinstance(one, Guard))
    return guards, tuple(one for one in intents if not isinstance(one, Guard))


def _elements(guards: Iterable[Guard]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {name: set() for name in _SETS}
    for one in guards:
        found[one.against].add(f'"{one.port}"')
    return {name: sorted(ports) for name, ports in found.items()}


def _command(verb: str, name: str, ports: Iterable[str]) -> str:
    return f"{verb} element {BRIDGED} {name} {{ {', '.join(sorted(ports))} }}"


def _change(former: Iterable[Guard], new: Iterable[Guard]) -> str:
    before, after = _elements(former), _elements(new)
    lines = []
    for name in before:
        for verb, ports in (
            ("delete", set(before[name]) - set(after[name])),
            ("add", set(after[name]) - set(before[name])),
        ):
            if ports:
                lines.append(f"{_command(verb, name, ports)}\n")
    return "".join(lines)
