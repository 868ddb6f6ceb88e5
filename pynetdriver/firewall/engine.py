"""Getting along with the engine's own firewall, in either iptables flavour.

The engine drops what it does not know in FORWARD. An accept in pynet's table cannot undo that, so one
static rule per direction in DOCKER-USER, the chain that the engine keeps for others, lets through what
has passed pynet's own chains; it covers all networks by interface group, but for bridges that were adopted:
their group is not pynet's to set, so they are named, with their networks' subnets, since others use them
too. Before these, what goes to bridges of the engine whose own rules say what gets in is left to those rules.
Rules are written with the `iptables` command, because a group match made by anything else is not
readable for older iptables versions; that happens when networks come and go and when an engine starts,
never for a container.

Where the engine has the host forward, it sets FORWARD to drop as well; where pynet did so before, what nothing else let
into a bridge of the engine's is dropped by a rule for that bridge at the end of FORWARD.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path

import structlog
from netaddr import IPNetwork

from pynetdriver.errors import HostError
from pynetdriver.firewall import bridges as engines
from pynetdriver.firewall.tables import Tables
from pynetdriver.names import ENGINE_BRIDGE, LINK_GROUP

log = structlog.get_logger()

CHAIN = "DOCKER-USER"
#: Marks rules that name a link, which the chain's user may have too.
_COMMENT = "-m comment --comment pynet"
#: All that `_named` writes, of former networks too; nothing else with the comment is ours.
_NAMED = re.compile(rf"-A {CHAIN} (-i (\S+) -o \2|-s \S+ -i \S+|-d \S+ -o \S+) {_COMMENT} -j ACCEPT")
#: Nobody else has these comments.
_PASSED_ON = "-m comment --comment pynet-passed"
_CLOSED = "-m comment --comment pynet-closed"
#: All that `_passed` writes.
_PASSED = re.compile(
    rf"-A {CHAIN} (-s \S+ -i \S+ -o \S+|-o \S+ -m devgroup --src-group {LINK_GROUP:#x}) {_PASSED_ON} -j RETURN"
)
_END = "FORWARD"
#: All that `_closing` writes.
_CLOSING = re.compile(rf"-A {_END} -o \S+ {_CLOSED} -j DROP")
_DIRECTIONS = ("--src-group", "--dst-group")
#: How long iptables waits for its lock, which engines hold as well.
_TIMEOUT_S = 5


def engine_bridges(links: Iterable[str]) -> frozenset[str]:
    """Pick the engine's own bridges out of the host's links by the names that it gives them by itself."""
    return frozenset(name for name in links if ENGINE_BRIDGE.fullmatch(name))


def engine_routes(bridges: Set[str], version: int) -> bool:
    """Tell whether a network of the engine's own needs the host to forward this IP version, given its bridges."""
    if version == 4:
        return bool(bridges)
    try:
        addresses = Path("/proc/self/net/if_inet6").read_text().splitlines()
    except OSError:
        return False
    # Columns: address, index, prefix length, scope (00 is global), flags, name.
    return any(line.split()[3] == "00" and line.split()[5] in bridges for line in addresses)


class EngineChains:
    """The accept rules in DOCKER-USER, for IPv4 and IPv6, wherever that chain is."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._lock = asyncio.Lock()
        #: Commands in whose FORWARD there is nothing of ours.
        self._clean: set[str] = set()

    async def allow(
        self,
        links: Mapping[str, Sequence[IPNetwork]] | None = None,
        passed_on: Collection[tuple[int, str]] = (),
    ) -> bool:
        """Add the rules where the chain exists and they are missing, after its user's own rules; tells if any were.

        Args:
            links: those of pynet's networks that are not in its interface group, and the networks' subnets.
            passed_on: the engine's bridges, by IP version, whose own rules say what gets in from pynet's networks.

        Raises:
            HostError: iptables is missing, or refused.
        """
        added = False
        async with self._lock:
            for command in self._commands():
                version = 6 if command.startswith("ip6") else 4
                named, passed = _named(links or {}, version), _passed(links or {}, passed_on, version)
                rules = await self._rules(command)
                if rules is None:
                    continue
                wanted = {_listed(rule) for rule in named + passed}
                for stale in [rule for rule in rules if _is_named(rule) and rule not in wanted]:
                    await _run(command, "-D", *stale.split()[1:])
                    rules.remove(stale)
                for position, rule in _missing(named, passed, rules):
                    await _run(command, "-I", CHAIN, str(position), *rule)
                    log.info("forwarding allowed beside the engine's rules", command=command, rule=" ".join(rule))
                    added = True
        return added

    async def lack(self, links: Mapping[str, Sequence[IPNetwork]], passed_on: Collection[tuple[int, str]] = ()) -> bool:
        """Tell whether rules that `allow` would add are missing. Raises HostError."""
        async with self._lock:
            for command in self._commands():
                version = 6 if command.startswith("ip6") else 4
                rules = await self._rules(command)
                if rules is not None and _missing(_named(links, version), _passed(links, passed_on, version), rules):
                    return True
        return False

    async def disallow(self) -> None:
        """Remove the rules.

        Raises:
            HostError: iptables is missing, or refused.
        """
        ours = {_listed(_rule(direction)) for direction in _DIRECTIONS}
        async with self._lock:
            for command in self._commands():
                for rule in await self._rules(command) or []:
                    if rule in ours or _is_named(rule):
                        await _run(command, "-D", *rule.split()[1:])

    async def close(self, bridges: Mapping[int, Collection[str]]) -> None:
        """Drop at the end of FORWARD, where the engine has its rules, what nothing let into bridges of the engine's.

        Args:
            bridges: by IP version; rules for others go.

        Raises:
            HostError: iptables is missing, or refused.
        """
        async with self._lock:
            for command in self._commands():
                wanted = _closings(command, bridges)
                if not wanted and command in self._clean:
                    continue
                try:
                    there, stands = await self._closed(command, wanted)
                except HostError as error:
                    if wanted:
                        raise
                    log.warning("cannot look for rules of former networks in FORWARD", error=str(error))
                    continue
                self._clean.discard(command)
                if not stands:
                    for rule in wanted:
                        await _run(command, *rule.split())
                        log.info("the engine's bridge is closed to what nothing lets in", command=command, rule=rule)
                # The former ones come first, so they are what is deleted.
                for rule in there if not stands else set(there).difference(wanted):
                    await _run(command, "-D", *rule.split()[1:])
                if not wanted:
                    self._clean.add(command)

    async def is_open(self, bridges: Mapping[int, Collection[str]]) -> bool:
        """Tell whether rules that `close` would add are missing or not at the end. Raises HostError."""
        async with self._lock:
            for command in self._commands():
                wanted = _closings(command, bridges)
                if wanted and not (await self._closed(command, wanted))[1]:
                    return True
        return False

    async def _closed(self, command: str, wanted: list[str]) -> tuple[list[str], bool]:
        """List the closing rules that are there; tell whether all that are wanted end FORWARD. Raises HostError."""
        try:
            rules = await self._rules(command, _END) or []
        except HostError:
            if not command.endswith("-nft"):
                raise
            rules = await _told(command)
        there = [rule for rule in rules if _CLOSING.fullmatch(rule)]
        last = rules[len(rules) - len(there) :]
        return there, not wanted or (set(wanted) <= set(there) and all(map(_CLOSING.fullmatch, last)))

    def _commands(self) -> list[str]:
        """Find the iptables commands in whose tables the chain is, without making any table."""
        found = []
        for family, command in (("ip", "iptables"), ("ip6", "ip6tables")):
            if self._in_nftables(family):
                found.append(f"{command}-nft")
            if _has_legacy_filter(family):
                found.append(f"{command}-legacy")
        return found

    async def _rules(self, command: str, chain: str = CHAIN) -> list[str] | None:
        """List a chain's rules as `iptables -S` writes them; None if there is no such chain."""
        try:
            lines = (await _run(command, "-S", chain)).splitlines()
        except HostError as error:
            if command.endswith("-nft"):
                # Version 1.8.9 calls a chain that vanished incompatible.
                present = self._in_nftables("ip6" if command.startswith("ip6") else "ip")
            else:
                present = "No chain/target/match by that name" not in str(error)
            if present:
                raise
            return None
        return [line for line in lines if line.startswith("-A")]

    def _in_nftables(self, family: str) -> bool:
        return self._tables.has_chain(family, "filter", CHAIN)


def _has_legacy_filter(family: str) -> bool:
    try:
        return "filter" in Path(f"/proc/self/net/{family}_tables_names").read_text().split()
    except OSError:
        return False


def _missing(named: list[list[str]], passed: list[list[str]], rules: list[str]) -> list[tuple[int, list[str]]]:
    """Tell which rules to insert where, in this order; what is passed on comes before what is accepted."""
    accepted = [_rule(direction) for direction in _DIRECTIONS] + named
    lacking = [rule for rule in accepted if _listed(rule) not in rules]
    end = len(rules) + (0 if rules and rules[-1] == f"-A {CHAIN} -j RETURN" else 1)
    listed = {_listed(rule) for rule in accepted}
    first = next((place for place, rule in enumerate(rules, 1) if rule in listed), end)
    before = [rule for rule in passed if _listed(rule) not in rules[: first - 1]]
    return [*((first, rule) for rule in before), *((end + len(before), rule) for rule in lacking)]


def _is_named(rule: str) -> bool:
    return bool(_NAMED.fullmatch(rule) or _PASSED.fullmatch(rule))


def _rule(direction: str) -> list[str]:
    return ["-m", "devgroup", direction, hex(LINK_GROUP), "-j", "ACCEPT"]


def _named(links: Mapping[str, Sequence[IPNetwork]], version: int) -> list[list[str]]:
    """Name what is bridged, which br_netfilter shows to iptables, and what is routed to and from the subnets."""
    matches = []
    for link, subnets in sorted(links.items()):
        matches.append(["-i", link, "-o", link])
        for subnet in subnets:
            if subnet.version == version:
                matches += [["-s", str(subnet), "-i", link], ["-d", str(subnet), "-o", link]]
    return [[*match, *_COMMENT.split(), "-j", "ACCEPT"] for match in matches]


def _passed(
    links: Mapping[str, Sequence[IPNetwork]], passed_on: Collection[tuple[int, str]], version: int
) -> list[list[str]]:
    """Leave to the engine's rules, which stand behind, what goes from pynet's networks to some of its bridges."""
    subnets = [(str(one), link) for link, found in sorted(links.items()) for one in found if one.version == version]
    matches = []
    for bridge in sorted(name for one, name in passed_on if one == version):
        matches += [["-s", subnet, "-i", link, "-o", bridge] for subnet, link in subnets]
        matches.append(["-o", bridge, "-m", "devgroup", "--src-group", hex(LINK_GROUP)])
    return [[*match, *_PASSED_ON.split(), "-j", "RETURN"] for match in matches]


def _closings(command: str, bridges: Mapping[int, Collection[str]]) -> list[str]:
    """Write the closing rules that should be there."""
    return [_closing(one) for one in sorted(bridges.get(6 if command.startswith("ip6") else 4, ()))]


async def _told(command: str) -> list[str]:
    """List the rules of FORWARD of which iptables lists none, since one is native to nftables; empty for others' rules.

    Raises:
        HostError: the kernel does not answer.
    """
    try:
        found = await asyncio.to_thread(engines.rules, 6 if command.startswith("ip6") else 4, _END)
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, f"read the chain {_END} of {command}") from error
    rules = [_closing(one.outgoing) if one.verdict == "DROP" and not one.incoming else "" for one in found]
    ours = set()
    for rule in {rule for rule in rules if _CLOSING.fullmatch(rule)}:
        with contextlib.suppress(HostError):
            await _run(command, "-C", *rule.split()[1:])
            ours.add(rule)
    # An equal rule of somebody else comes before.
    return [rule if rule in ours and rule not in rules[place + 1 :] else "" for place, rule in enumerate(rules)]


def _closing(bridge: str) -> str:
    return f"-A {_END} -o {bridge} {_CLOSED} -j DROP"


def _listed(rule: list[str]) -> str:
    """Write a rule as `iptables -S` does: in all flavours the group is hexadecimal."""
    return " ".join(["-A", CHAIN, *rule])


async def _run(command: str, *arguments: str) -> str:
    """Run an iptables command, to its end or not beyond this call.

    Raises:
        HostError: it is missing, or refused.
    """
    what = f"{command} {' '.join(arguments)}"
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            "-w",
            str(_TIMEOUT_S),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise HostError(f'cannot run "{what}": {command} is missing; install the package iptables') from None
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, f'run "{what}"') from error
    try:
        output, errors = await process.communicate()
    except BaseException:
        # It changes all or nothing, so it can be killed; once killed it ends at once.
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        # Before the reason stand hints, and a line for each second that the lock was waited for.
        *_, reason = errors.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise HostError(f'"{what}" failed: {reason}')
    return output.decode(errors="replace")
