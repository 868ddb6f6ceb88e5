"""Getting along with the engine's own firewall, in either iptables flavour.

The engine drops what it does not know in FORWARD. An accept in pynet's table cannot undo that, so one
static rule per direction in DOCKER-USER, the chain that the engine keeps for others, lets through what
has passed pynet's own chains; it covers all networks by interface group. It is written with the
`iptables` command, because a group match made by anything else is not readable for older iptables
versions; that happens when networks come and go and when an engine starts, never for a container.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import structlog

from pynetdriver.kernel.nftables import Nftables, NftablesError
from pynetdriver.names import LINK_GROUP

log = structlog.get_logger()

CHAIN = "DOCKER-USER"
_DIRECTIONS = ("--src-group", "--dst-group")
#: Bridges of the engine's own networks; one with a name that its user chose is not recognised.
_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
_TIMEOUT_S = 5


def engine_bridges(links: Iterable[str]) -> frozenset[str]:
    """Pick the engine's own bridges out of the host's links."""
    return frozenset(name for name in links if _BRIDGE.fullmatch(name))


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
        # A context of its own: listing an absent chain takes 15 ms, so it happens in a thread.
        self._nftables = Nftables()
        self._lock = asyncio.Lock()

    async def allow(self) -> None:
        """Add the rules where the chain exists and they are missing, after its user's own rules."""
        async with self._lock:
            for command in await self._commands():
                rules = await _rules(command)
                position = len(rules) + (0 if rules and rules[-1] == f"-A {CHAIN} -j RETURN" else 1)
                for direction in _DIRECTIONS:
                    if not any(_is_ours(rule, direction) for rule in rules):
                        await _run(command, "-I", CHAIN, str(position), *_rule(direction))
                        log.info("forwarding allowed beside the engine's rules", command=command, rule=direction)

    async def disallow(self) -> None:
        """Remove the rules."""
        async with self._lock:
            for command in await self._commands():
                for rule in await _rules(command):
                    if any(_is_ours(rule, direction) for direction in _DIRECTIONS):
                        await _run(command, "-D", *rule.split()[1:])

    async def _commands(self) -> list[str]:
        """Find the iptables commands in whose tables the chain is, without making any table."""
        found = []
        for family, command in (("ip", "iptables"), ("ip6", "ip6tables")):
            if await asyncio.to_thread(self._in_nftables, family):
                found.append(f"{command}-nft")
            if _has_legacy_filter(family):
                found.append(f"{command}-legacy")
        return found

    def _in_nftables(self, family: str) -> bool:
        try:
            return bool(self._nftables.listing(f"chain {family} filter {CHAIN}"))
        except NftablesError:
            return False


def _has_legacy_filter(family: str) -> bool:
    try:
        return "filter" in Path(f"/proc/self/net/{family}_tables_names").read_text().split()
    except OSError:
        return False


def _rule(direction: str) -> list[str]:
    return ["-m", "devgroup", direction, hex(LINK_GROUP), "-j", "ACCEPT"]


def _is_ours(rule: str, direction: str) -> bool:
    return f"{direction} {hex(LINK_GROUP)}" in rule and rule.endswith("-j ACCEPT")


async def _rules(command: str) -> list[str]:
    """List the chain's rules as `iptables -S` writes them; none if there is no such chain."""
    lines = (await _run(command, "-S", CHAIN)).splitlines()
    return [line for line in lines if line.startswith("-A")]


async def _run(command: str, *arguments: str) -> str:
    """Run an iptables command; what it refuses is logged, since the engine may change the chain meanwhile."""
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
        log.error("cannot allow forwarding beside the engine's rules: command missing", command=command)
        return ""
    output, errors = await process.communicate()
    if process.returncode != 0 and "-S" not in arguments:
        log.error("iptables refused", command=command, arguments=arguments, error=errors.decode().strip())
    return output.decode()
