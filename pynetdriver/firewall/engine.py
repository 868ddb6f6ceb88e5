"""Getting along with the engine's own firewall, in either iptables flavour.

The engine drops what it does not know in FORWARD. An accept in pynet's table cannot undo that, so one
static rule per direction in DOCKER-USER, the chain that the engine keeps for others, lets through what
has passed pynet's own chains; it covers all networks by interface group, but for bridges that were adopted:
their group is not pynet's to set, so they are named, with their networks' subnets, since others use them
too. Rules are written with the `iptables` command, because a group match made by anything else is not
readable for older iptables versions; that happens when networks come and go and when an engine starts,
never for a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog
from netaddr import IPNetwork

from pynetdriver.errors import HostError
from pynetdriver.firewall.tables import Tables
from pynetdriver.names import ENGINE_BRIDGE, LINK_GROUP

log = structlog.get_logger()

CHAIN = "DOCKER-USER"
#: Marks rules that name a link, which the chain's user may have too.
_COMMENT = "-m comment --comment pynet"
_DIRECTIONS = ("--src-group", "--dst-group")
#: How long iptables waits for its lock, which engines hold as well.
_TIMEOUT_S = 5


def engine_bridges(links: Iterable[str]) -> frozenset[str]:
    """Pick the engine's own bridges out of the host's links."""
    return frozenset(name for name in links if ENGINE_BRIDGE.fullmatch(name))


def engine_routes(links: Iterable[str], version: int) -> bool:
    """Tell whether a network of the engine's own needs the host to forward this IP version."""
    bridges = engine_bridges(links)
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

    async def allow(self, links: Mapping[str, Sequence[IPNetwork]] | None = None) -> bool:
        """Add the rules where the chain exists and they are missing, after its user's own rules; tells if any were.

        Args:
            links: those of pynet's networks that are not in its interface group, and the networks' subnets.

        Raises:
            HostError: iptables is missing, or refused.
        """
        added = False
        async with self._lock:
            for command in self._commands():
                named = _named(links or {}, 6 if command.startswith("ip6") else 4)
                rules = await self._rules(command)
                if rules is None:
                    continue
                for stale in [rule for rule in rules if _COMMENT in rule and rule not in map(_listed, named)]:
                    await _run(command, "-D", *stale.split()[1:])
                    rules.remove(stale)
                position = len(rules) + (0 if rules and rules[-1] == f"-A {CHAIN} -j RETURN" else 1)
                for rule in _missing(named, rules):
                    await _run(command, "-I", CHAIN, str(position), *rule)
                    log.info("forwarding allowed beside the engine's rules", command=command, rule=" ".join(rule))
                    added = True
        return added

    async def lack(self, links: Mapping[str, Sequence[IPNetwork]]) -> bool:
        """Tell whether rules that `allow` would add are missing. Raises HostError."""
        async with self._lock:
            for command in self._commands():
                rules = await self._rules(command)
                if rules is not None and _missing(_named(links, 6 if command.startswith("ip6") else 4), rules):
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
                    if rule in ours or _COMMENT in rule:
                        await _run(command, "-D", *rule.split()[1:])

    def _commands(self) -> list[str]:
        """Find the iptables commands in whose tables the chain is, without making any table."""
        found = []
        for family, command in (("ip", "iptables"), ("ip6", "ip6tables")):
            if self._in_nftables(family):
                found.append(f"{command}-nft")
            if _has_legacy_filter(family):
                found.append(f"{command}-legacy")
        return found

    async def _rules(self, command: str) -> list[str] | None:
        """List the chain's rules as `iptables -S` writes them; None if there is no such chain."""
        try:
            lines = (await _run(command, "-S", CHAIN)).splitlines()
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


def _missing(named: list[list[str]], rules: list[str]) -> list[list[str]]:
    wanted = [_rule(direction) for direction in _DIRECTIONS] + named
    return [rule for rule in wanted if _listed(rule) not in rules]


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
