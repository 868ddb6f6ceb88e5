"""The firewall in the legacy tables of iptables, by python-iptables and without any process.

That library takes 0.3 s to import and needs iptables' own libraries, so it is imported where this kind is in
force and a rule is to be written. Legacy tables are replaced as a whole by the kernel, so a change costs the more
the more rules there are, whoever's; the lock that iptables itself takes keeps others' changes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from netaddr import IPAddress

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, EngineBridges, Firewall, Flow, chains, xtables
from pynetdriver.firewall.chains import FIRST, JUMPS, USER, Chains, Content, Table
from pynetdriver.firewall.xtables import XtablesError
from pynetdriver.plan import Intent, Owner

log = structlog.get_logger()

#: iptables' own; /run/xtables.lock since its version 1.8.
_LOCK = Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))
_LOCK_TIMEOUT_S = 5.0
#: Somebody without the lock may change a table at the same time; the kernel then refuses ours.
_TRIES, _PAUSE_S = 10, 0.05
#: How many entries are kept beyond those in use.
_SPARE = 1000
#: An option of a rule and what it is given, if anything.
_OPTION = re.compile(r"(-\S+)(?: ([^-\s]\S*))?")
#: Below it is no pointer, but a number (proc(5), vm.mmap_min_addr).
_FIRST_ADDRESS = 4096
#: Targets of the table nat.
_TRANSLATIONS = {"DNAT", "SNAT", "MASQUERADE"}
#: NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED (linux/netfilter/nf_nat.h).
_MAP_ADDRESSES, _MAP_PORTS = 1, 2
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58}
#: Order of tables within a change: rules that drop are written before rules that translate.
_ORDER = ("raw", "mangle", "nat")

#: The library is not thread-safe.
_ONE_AT_A_TIME = threading.Lock()


class IptablesFirewall:
    """A `Firewall` in chains of its own, which exist while there is any owner."""

    kind = "iptables"
    check_every_s = 1.0

    def __init__(self, former: Firewall | None = None) -> None:
        """Have nothing to write yet.

        Args:
            former: what held the rules until the last stop; it is emptied once they are here.
        """
        self._former = former
        self._owners: dict[Owner, tuple[Intent, ...]] = {}
        self._contents: dict[Owner, Content] = {}
        self._bridges = EngineBridges()
        self._written: dict[Table, Chains] = {}
        #: Tables as they were when ours was last found to be right.
        self._tables_seen: dict[Table, xtables.Contents] = {}
        self._lock = asyncio.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether no owner has anything here."""
        return not self._owners

    def kept_apart(self) -> list[int]:
        """List the IP versions of which strangers are in the tables."""
        tables = [table for table in _present() if table[1] == "mangle"]
        return [table[0] for table in tables if xtables.read(*table).chains().get(chains.BEYOND)]

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents."""
        # Shielded: a change in another thread cannot be cancelled.
        await asyncio.shield(asyncio.ensure_future(self._set(owner, tuple(intents))))

    async def _set(self, owner: Owner, intents: tuple[Intent, ...]) -> None:
        async with self._lock:
            former = self._owners.get(owner, ())
            if former == intents:
                return
            self._keep(owner, intents)
            written = dict(self._written)
            try:
                await self._change()
            except HostError:
                self._keep(owner, former)
                await self._put_back(written)
                raise

    def _keep(self, owner: Owner, intents: tuple[Intent, ...]) -> None:
        if intents:
            self._owners[owner], self._contents[owner] = intents, chains.content(intents)
        else:
            self._owners.pop(owner, None)
            self._contents.pop(owner, None)

    async def reset(self, owners: Mapping[Owner, Sequence[Intent]]) -> None:
        """Replace everything; what is right already is not touched."""
        async with self._lock:
            self._owners.clear()
            self._contents.clear()
            for owner, intents in owners.items():
                self._keep(owner, tuple(intents))
            await self._change(whole=True)
            if self._former is not None:
                await self._former.reset({})
                self._former = None

    async def set_engine_bridges(self, bridges: EngineBridges) -> None:
        """Say which bridges are the engine's own."""
        async with self._lock:
            former, self._bridges = self._bridges, bridges
            written = dict(self._written)
            try:
                if self._owners:
                    await self._change()
            except Exception:
                self._bridges = former
                await self._put_back(written)
                raise

    async def repair(self) -> bool:
        """Put right what others changed of ours, also the place of a jump that has to be the first one."""
        async with self._lock:
            if not self._owners:
                return False
            looks = {table: xtables.read(*table) for table, wanted in self._written.items() if wanted}
            changed = {table: contents for table, contents in looks.items() if self._tables_seen.get(table) != contents}
            if not changed:
                return False
            wrong = await asyncio.to_thread(self._wrong, changed)
            if wrong:
                names = ", ".join(f"IPv{version} {name}" for version, name in wrong)
                log.warning("chains of pynet were changed by somebody; writing them anew", tables=names)
                await self._change(whole=True)
            return bool(wrong)

    async def traffic(self) -> dict[Flow, Count] | None:
        """Tell nothing: to count, each packet would have to meet a rule for each port."""
        return None

    async def differences(self) -> list[str]:
        """Name the tables in which something of ours was changed."""
        async with self._lock:
            looks = {table: xtables.read(*table) for table, wanted in self._written.items() if wanted and self._owners}
            wrong = await asyncio.to_thread(self._wrong, looks)
            return [f"pynet's chains in the IPv{version} table {name} were changed" for version, name in wrong]

    async def rewrite(self) -> None:
        """Write everything anew that is not as it has to be."""
        async with self._lock:
            if self._owners:
                await self._change(whole=True)

    async def _change(self, *, whole: bool = False) -> None:
        """Bring the tables to what all owners want, those that need it by what is known, or all of them."""
        wanted = chains.render(self._contents.values(), self._bridges)
        if not _has_ipv6():
            wanted = {table: one for table, one in wanted.items() if table[0] == 4}
        for table in sorted({*wanted, *self._written, *(_present() if whole else ())}, key=_place):
            after = wanted.get(table, {})
            if whole or after != self._written.get(table, {}):
                await asyncio.to_thread(_bring, table, after)
                self._written[table] = after
                self._tables_seen.pop(table, None)
        _forget(wanted)

    async def _put_back(self, former: Mapping[Table, Chains]) -> None:
        """Undo a change that failed half way; `repair` tries again what cannot be undone now."""
        if self._written != former:
            with contextlib.suppress(HostError):
                await self._change()

    def _wrong(self, changed: Mapping[Table, xtables.Contents]) -> list[Table]:
        """Tell which of the changed tables do not have our part as it has to be."""
        wrong = []
        with _library():
            for table, contents in changed.items():
                if _difference(table, contents.chains(), self._written[table]).is_none:
                    self._tables_seen[table] = contents
                else:
                    wrong.append(table)
        return wrong


def _has_ipv6() -> bool:
    """Tell whether the kernel was not told to do without."""
    return Path("/proc/sys/net/ipv6").exists()


def left_behind() -> bool:
    """Tell whether there are chains of ours in the legacy tables, but for the user's."""
    for table in _present():
        with contextlib.suppress(XtablesError):
            if any(map(_is_ours, xtables.read(*table).chains())):
                return True
    return False


def _present() -> list[Table]:
    """List the tables that are there and may have something of ours; those that are not stay absent."""
    tables = [(version, table) for version in (4, 6) for table in xtables.present(version) if table in JUMPS]
    return [one for one in tables if one != (6, "raw")]


def _place(table: Table) -> tuple[int, int]:
    return _ORDER.index(table[1]), table[0]


@dataclass(frozen=True)
class _Built:
    """A rule as python-iptables makes it, and as it is found again."""

    entry: Any
    mask: Any
    key: bytes


@dataclass
class _Difference:
    """What to do to a table, in this order."""

    create: list[str]
    fill: dict[str, tuple[tuple[bytes, ...], list[_Built]]]
    jumps: dict[str, tuple[int, _Built, bool]]
    #: Chains to empty, and whether to delete them: not while a rule of somebody else leads there.
    remove: dict[str, bool]

    @property
    def is_none(self) -> bool:
        return not (self.create or self.fill or self.jumps or self.remove)


def _difference(table: Table, found: Mapping[str, tuple[bytes, ...]], wanted: Chains) -> _Difference:
    """Compare what is in a table with what we want there; what is the user's has only to exist."""
    version, name = table
    result = _Difference([one for one in wanted if one not in found], {}, {}, {})
    for chain, rules in wanted.items():
        if _is_ours(chain):
            built = [_build(version, rule) for rule in rules]
            if found.get(chain, ()) != tuple(one.key for one in built):
                result.fill[chain] = found.get(chain, ()), built
    jumps = {_build(version, f"-j {chain}").key for chain in JUMPS[name].values()}
    for place, target in JUMPS[name].items():
        jump, there = _build(version, f"-j {target}"), found.get(place, ())
        count = there.count(jump.key)
        right = count == 1 and ((name, place) not in FIRST or there[0] == jump.key) if wanted else count == 0
        if not right:
            result.jumps[place] = count, jump, bool(wanted)
    for chain, present in found.items():
        if _is_ours(chain) and chain not in wanted:
            unused = not any(
                key.endswith(b"\0" + chain.encode()) and key not in jumps
                for place, keys in found.items()
                if not _is_ours(place)
                for key in keys
            )
            if present or unused:
                result.remove[chain] = unused
    if not wanted and found.get(USER) == ():
        result.remove[USER] = True
    return result


def _is_ours(chain: str) -> bool:
    return chains.MADE.fullmatch(chain) is not None


def _bring(table: Table, wanted: Chains) -> None:
    """Bring our part of a table to what is wanted, in one commit, and all that is others' stays.

    Raises:
        HostError: the kernel refused, or there is no such table; nothing is changed then.
    """
    what = f"IPv{table[0]} table {table[1]} of iptables"
    with _library() as library, _others_kept_out():
        kinds = {4: library.Table, 6: library.Table6}
        for attempt in range(1, _TRIES + 1):
            handle = None
            try:
                handle = kinds[table[0]](table[1], autocommit=False)
                handle.refresh()
                difference = _difference(table, xtables.read(*table).chains(), wanted)
                if not difference.is_none:
                    _carry_out(handle, difference)
                    handle.commit()
                return
            except (library.IPTCError, XtablesError) as error:
                if attempt == _TRIES:
                    raise HostError(f"cannot change the {what}: {error}") from error
                log.info("trying again, since somebody else changed it too", table=what, error=str(error))
                time.sleep(min(0.001 * 2**attempt, _PAUSE_S))
            finally:
                if handle is not None:
                    handle.close()


def _carry_out(handle: Any, difference: _Difference) -> None:
    for chain in difference.create:
        handle.create_chain(chain)
    for chain, (found, built) in difference.fill.items():
        _fill(handle, chain, found, built)
    for place, (count, jump, wanted) in difference.jumps.items():
        for _ in range(count):
            handle.delete_entry(place, jump.entry, jump.mask)
        if wanted:
            handle.insert_entry(place, jump.entry, 0)
    for chain in difference.remove:
        handle.flush_entries(chain)
    for chain, unused in difference.remove.items():
        if unused:
            handle.delete_chain(chain)


def _fill(handle: Any, chain: str, found: tuple[bytes, ...], built: list[_Built]) -> None:
    """Make a chain's rules these; those that stay keep their counters, if the order of them does not change."""
    wanted, there = {one.key for one in built}, set(found)
    gone = [_KNOWN.get(key) for key in found if key not in wanted]
    kept = [key for key in found if key in wanted]
    if None in gone or kept != [one.key for one in built if one.key in there]:
        handle.flush_entries(chain)
        gone, there = [], set()
    for one in gone:
        assert one is not None
        handle.delete_entry(chain, one.entry, one.mask)
    for position, new in enumerate(built):
        if new.key not in there:
            handle.insert_entry(chain, new.entry, position)


_BUILT: dict[tuple[int, str], _Built] = {}
_KNOWN: dict[bytes, _Built] = {}


def _build(version: int, text: str) -> _Built:
    """Make an entry of a rule as `chains` writes it; those that were made are kept."""
    built = _BUILT.get((version, text))
    if built is None:
        built = _BUILT[version, text] = _made(version, text)
        _KNOWN[built.key] = built
    return built


def _forget(tables: Mapping[Table, Chains]) -> None:
    """Let go of entries that no rule needs any more, once most of them are such."""
    used = {(table[0], rule) for table, wanted in tables.items() for rules in wanted.values() for rule in rules}
    if len(_BUILT) > 2 * len(used) + _SPARE:
        for one in _BUILT.keys() - used:
            _KNOWN.pop(_BUILT.pop(one).key)


def _made(version: int, text: str) -> _Built:
    import iptc

    rule = iptc.Rule() if version == 4 else iptc.Rule6()
    matched, jumps, target = re.fullmatch(r"(.*?)(?<!\S)-([jg]) (.*)", text).groups()  # type: ignore[union-attr]
    extension: Any = None
    for flag, value in _OPTION.findall(matched):
        match flag:
            case "-s":
                rule.src = value
            case "-d":
                rule.dst = value
            case "-i" | "-o":
                _set_link(rule.get_ip(), flag, value)
            case "-p":
                rule.protocol = str(_NUMBERS[value])
            case "-m":
                extension = rule.create_match(value)
            case _:
                extension.set_parameter(flag.removeprefix("--"), value)
    translates = target.split()[0] in _TRANSLATIONS
    # By its name the library would look for the chain in every table, and thereby make those that are not there.
    rule.target = iptc.Target(rule, "", goto=jumps == "g")
    if not translates:
        rule.target.standard_target = target
    entry = bytes(rule.rule)
    if translates:
        entry = xtables.with_target(version, entry, _translation(version, target))
    key = xtables.rule_key(version, entry, None if translates else target.encode())
    return _Built(_buffer(entry), _buffer(b"\xff" * len(entry)), key)


def _translation(version: int, text: str) -> bytes:
    """Write a target of the table nat, in the form in which iptables itself writes it.

    All of these are in one file of iptables, which gives them to the IP version that loads it first and is
    not to be had for the other one in the same process.
    """
    name, *to = text.split()
    if name == "DNAT":
        address, _, port = to[1].rpartition(":")
        ports = struct.pack("!HHH", int(port), int(port), 0)
        packed = IPAddress(address.strip("[]")).packed.ljust(16, b"\0")
        return xtables.target(name, 2, struct.pack("=I", _MAP_ADDRESSES | _MAP_PORTS) + packed * 2 + ports)
    packed = IPAddress(to[1]).packed if to else bytes(4 if version == 4 else 16)
    data = struct.pack("=I", _MAP_ADDRESSES if to else 0) + packed * 2 + bytes(4)
    if version == 4:
        return xtables.target(name, 0, struct.pack("=I", 1) + data)
    return xtables.target(name, 1 if to else 0, data)


def _buffer(content: bytes) -> Any:
    return (ctypes.c_ubyte * len(content)).from_buffer_copy(content)


def _set_link(ip: Any, flag: str, link: str) -> None:
    """Match a link by its whole name, or how it begins: for IPv6 the library would compare one bit of each letter."""
    name = link.encode()
    whole = b"\xff" * (len(name) + (-1 if link.endswith("+") else 1))
    if flag == "-i":
        ip.iniface, ip.iniface_mask = name, whole
    else:
        ip.outiface, ip.outiface_mask = name, whole


@contextlib.contextmanager
def _library() -> Iterator[ModuleType]:
    """Give python-iptables to one thread at a time.

    Raises:
        HostError: it cannot be loaded.
    """
    with _ONE_AT_A_TIME:
        try:
            import iptc
        except Exception as error:  # it raises what comes to hand
            raise HostError(f"cannot load python-iptables; install the package iptables: {error}") from error
        iptc.xtables.xtables._option_lookup = _option
        yield iptc


def _option(_: object, options: Any, name: bytes) -> Any:
    """Find an option of an extension in place of python-iptables 1.2, which knows how iptables 1.8.9 lays them out.

    In 1.8.11 a number stands behind each (struct xt_option_entry of xtables.h), where else the next one's name would.
    """
    at, size = ctypes.addressof(options.contents), ctypes.sizeof(options.contents)
    (following,) = struct.unpack("=Q", ctypes.string_at(at + size, 8))
    step = size if following >= _FIRST_ADDRESS else size + 8
    while True:
        option = type(options.contents).from_address(at)
        if not option.name:
            return None
        if option.name == name:
            return option
        at += step


@contextlib.contextmanager
def _others_kept_out() -> Iterator[None]:
    """Hold the lock of iptables: the kernel notices a change of ours and others' at once only if the size differs.

    Raises:
        HostError: somebody else holds it too long.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # /run may be read-only, or its folder absent
            file = held.enter_context(_LOCK.open("a"))
            deadline = time.monotonic() + _LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise HostError(f"another program holds {_LOCK} of iptables") from None
                    time.sleep(0.005)
        yield
