"""Which bridges are the engine's, and what its own rules say of them: read, never written, and single chains only,
since whole tables of others may hold what libnftables cannot read.

| engine | chain | what it says of the network of a bridge |
|---|---|---|
| to 28 | DOCKER-ISOLATION-STAGE-1 | `-i BRIDGE` … DROP: it is internal; `-o BRIDGE -j RETURN`: it is routed |
| 28, 29 | DOCKER-INTERNAL | `-i BRIDGE` … DROP: it is internal |
| 29 | DOCKER | `-o BRIDGE -p icmp -j ACCEPT`: it is routed; `! -i BRIDGE -o BRIDGE -j ACCEPT`: unprotected |
| all | `NAMING` | names the bridges, whatever these are called |
| 29 with nftables | `filter-forward-in__BRIDGE` | is there for each; `…-out__BRIDGE` drops if it is internal |
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from pynetdriver.errors import HostError
from pynetdriver.firewall import EngineBridges, xtables
from pynetdriver.names import ENGINE_BRIDGE, LINK_GROUP, WRITABLE
from pynetdriver.nlmsg import GENERAL, NETFILTER, attribute, attributes, dump

log = structlog.get_logger()

#: Chains of the engine's that name all of its bridges, the last ones that it writes; they change with networks alone.
NAMING = frozenset({"DOCKER-ISOLATION-STAGE-1", "DOCKER-INTERNAL", "DOCKER-BRIDGE"})
#: The table of engine 29 with nftables, and how its chains for a bridge begin.
TABLE, _INTO, _OUT_OF = "docker-bridges", "filter-forward-in__", "filter-forward-out__"
_STAGE_1, _INTERNAL, _BRIDGE, _PORTS = "DOCKER-ISOLATION-STAGE-1", "DOCKER-INTERNAL", "DOCKER-BRIDGE", "DOCKER"
#: So long after a bridge came the engine has written its rules, or will not.
_YOUNG_S = 3.0
_WAIT_S = 5.0

# linux/netfilter/nf_tables.h
_GETCHAIN, _GETRULE = 10 << 8 | 4, 10 << 8 | 7
_CHAIN_TABLE, _CHAIN_NAME, _RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 3, 1, 2, 4
_EXPR_NAME, _EXPR_DATA, _META_KEY, _CMP_OP, _CMP_DATA, _VALUE = 1, 2, 2, 2, 3, 1
_IMMEDIATE_DATA, _VERDICT, _VERDICT_CODE = 2, 2, 1
_IIFNAME, _OIFNAME = 6, 7
_VERDICTS = {0: "DROP", 1: "ACCEPT", -5: "RETURN"}
_FAMILIES = {2: 4, 10: 6}
#: No nf_tables in this kernel.
_NONE = {errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT}
# linux/rtnetlink.h, linux/if_link.h
_GETLINK, _IFNAME, _LINKINFO, _INFO_KIND, _GROUP, _EXT_MASK, _SKIP_STATS = 18, 3, 18, 1, 27, 29, 8


class Rule(NamedTuple):
    """What is told here of a rule: links by name, with `!` before one that is excluded; DROP, ACCEPT, RETURN."""

    incoming: str
    outgoing: str
    verdict: str
    bare: bool  #: nothing but links is matched


@dataclass
class _Said:
    """What the engine's rules say."""

    named: set[str] = field(default_factory=set)
    internal: set[str] = field(default_factory=set)
    judged: set[tuple[int, str]] = field(default_factory=set)
    passed_on: set[tuple[int, str]] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    #: Whether there are rules of an engine that no longer isolates its networks from each other (29 and newer).
    is_modern: bool = False


class Bridges:
    """The engine's bridges, as they were found last."""

    def __init__(self) -> None:
        self.found = EngineBridges()
        #: When bridges were first seen, by name and index; None before the first look.
        self._seen: dict[tuple[str, int], float] | None = None
        #: Whether there are bridges of which the engine may have something to say yet.
        self.is_unsettled = False

    def names(self) -> frozenset[str]:
        """Name what is or may be the engine's, as it was found last; for any thread."""
        found = self.found
        return found.names | found.closed

    async def read(self, adopted: Collection[str] = ()) -> EngineBridges:
        """Read what there is now; what cannot be read is as it was found last.

        Args:
            adopted: bridges that networks of pynet have by now.
        """
        try:
            bridges, said = await asyncio.to_thread(_look)
        except (OSError, HostError) as error:
            log.warning("cannot read the engine's rules; going on with what they were", error=str(error))
            return self.found
        now = time.monotonic()
        former = self._seen
        self._seen = {key: now - _YOUNG_S if former is None else former.get(key, now) for key in bridges}
        present = {name for name, _ in bridges if name not in adopted and _is_plain(name)}
        young = {name for (name, _), since in self._seen.items() if now - since < _YOUNG_S} & present - said.named
        # An engine that writes no rules will not say what a new bridge is.
        young = young if said.chains else set()
        self.is_unsettled = bool(young)
        closed = said.internal & present | young
        return EngineBridges(
            names=frozenset(name for name in present if name in said.named or ENGINE_BRIDGE.fullmatch(name)),
            closed=frozenset(closed),
            judged=frozenset(one for one in said.judged if one[1] in present - closed),
            passed_on=frozenset(one for one in said.passed_on if one[1] in present - closed),
            isolated=_STAGE_1 in said.chains or not said.is_modern,
        )


def _is_plain(name: str) -> bool:
    """Tell whether rules of all kinds take this name for just that: for iptables, `+` ends what names begin with."""
    return bool(WRITABLE.fullmatch(name)) and not name.endswith("+")


def _look() -> tuple[set[tuple[str, int]], _Said]:
    """Read links, then rules, which come after them. Raises OSError."""
    bridges = set(_bridges())
    said = _Said()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as asked:
        asked.settimeout(_WAIT_S)
        listed = list(_chains(asked))
        for family, version in _FAMILIES.items():
            names = {name for where, table, name in listed if (where, table) == (family, "filter")}
            wanted = _wanted(names)
            _take(said, version, names, {name: list(_rules(asked, family, "filter", name)) for name in wanted})
            for where, table, name in listed:
                if (where, table) == (family, TABLE) and name.startswith(_INTO):
                    bridge = name.removeprefix(_INTO)
                    said.chains.add(TABLE)
                    said.is_modern = True
                    said.named.add(bridge)
                    said.judged.add((version, bridge))
                    if any(one.verdict == "DROP" for one in _rules(asked, family, TABLE, _OUT_OF + bridge)):
                        said.internal.add(bridge)
    for version in (4, 6):
        if "filter" in xtables.present(version):
            chains = xtables.read(version, "filter").chains()
            wanted = _wanted(chains)
            read = {name: [Rule(*xtables.told(version, key)) for key in chains[name]] for name in wanted}
            _take(said, version, set(chains), read)
    return bridges, said


def _wanted(chains: Collection[str]) -> frozenset[str]:
    """Tell which chains have to be read; that with a rule for each port only if it alone says what is open."""
    wanted = NAMING.intersection(chains)
    return wanted | {_PORTS} if _BRIDGE in wanted and _STAGE_1 not in wanted else wanted


def _take(said: _Said, version: int, chains: set[str], rules: dict[str, list[Rule]]) -> None:
    """Take what the tables of iptables say in one IP version."""
    said.chains |= NAMING & chains
    # With a network's rule all chains are there.
    said.is_modern |= bool(rules.get(_BRIDGE))
    for name, listed in rules.items():
        for one in listed:
            if name in NAMING:
                said.named |= {link for link in (one.incoming, one.outgoing) if link and link[0] != "!"}
            if name in (_STAGE_1, _INTERNAL) and one.verdict == "DROP":
                said.internal.add(one.incoming)
            # Before 28.1 the policy of FORWARD decides about ports that are not open.
            if _BRIDGE in chains and _opens(name, one):
                said.judged.add((version, one.outgoing))
                said.passed_on.add((version, one.outgoing))


def _opens(chain: str, one: Rule) -> bool:
    """Tell whether a rule lets in from other networks, as far as the bridge's other rules do."""
    if chain == _STAGE_1:
        return one.verdict == "RETURN" and one.bare and not one.incoming and bool(one.outgoing)
    if chain != _PORTS or one.verdict != "ACCEPT" or not one.outgoing:
        return False
    return not one.incoming or (one.bare and one.incoming == f"!{one.outgoing}")


# Netlink


def _bridges() -> Iterator[tuple[str, int]]:
    """List the bridges of this network namespace that are not pynet's own, with their indexes. Raises OSError."""
    kind = attribute(_INFO_KIND, b"bridge\0")
    request = bytes(16) + attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS)) + attribute(_LINKINFO, kind)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(_WAIT_S)
        for body in dump(asked, _GETLINK, request):
            (index,) = struct.unpack_from("=4xi", body)
            found = dict(attributes(body, 16))
            info = dict(attributes(found.get(_LINKINFO, b"")))
            group = int.from_bytes(found.get(_GROUP, b""), sys.byteorder)
            if _text(info.get(_INFO_KIND, b"")) == "bridge" and group != LINK_GROUP:
                yield _text(found[_IFNAME]), index


def _chains(asked: socket.socket) -> Iterator[tuple[int, str, str]]:
    """List family, table and name of the chains of nftables. Raises OSError."""
    try:
        listed = dump(asked, _GETCHAIN, GENERAL.pack(0, 0, 0))
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return
    for body in listed:
        found = dict(attributes(body, GENERAL.size))
        yield body[0], _text(found.get(_CHAIN_TABLE, b"")), _text(found.get(_CHAIN_NAME, b""))


def rules(version: int, chain: str) -> list[Rule]:
    """List the rules of a chain of the table filter of nftables; none if it is not there. Raises OSError."""
    (family,) = (family for family, one in _FAMILIES.items() if one == version)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as asked:
        asked.settimeout(_WAIT_S)
        return list(_rules(asked, family, "filter", chain))


def _rules(asked: socket.socket, family: int, table: str, chain: str) -> Iterator[Rule]:
    """List the rules of a chain of nftables; none if it is not there. Raises OSError."""
    request = GENERAL.pack(family, 0, 0)
    request += attribute(_RULE_TABLE, table.encode() + b"\0") + attribute(_RULE_CHAIN, chain.encode() + b"\0")
    for body in dump(asked, _GETRULE, request):
        found = dict(attributes(body, GENERAL.size))
        # Old kernels do not look at what was asked for.
        if (_text(found.get(_RULE_TABLE, b"")), _text(found.get(_RULE_CHAIN, b""))) == (table, chain):
            yield read_rule(found.get(_RULE_EXPRESSIONS, b""))


def read_rule(expressions: bytes) -> Rule:
    """Read a rule's expressions (NFTA_RULE_EXPRESSIONS)."""
    links = {_IIFNAME: "", _OIFNAME: ""}
    verdict, bare, key = "", True, 0
    for _, element in attributes(expressions):
        parts = dict(attributes(element))
        name, data = _text(parts.get(_EXPR_NAME, b"")), dict(attributes(parts.get(_EXPR_DATA, b"")))
        if name == "meta" and _big(data.get(_META_KEY, b"")) in links:
            key = _big(data[_META_KEY])
        elif name == "cmp" and key:
            value = dict(attributes(data.get(_CMP_DATA, b""))).get(_VALUE, b"")
            # Without an end it is what names begin with.
            if value.endswith(b"\0"):
                links[key] = ("!" if _big(data.get(_CMP_OP, b"")) else "") + _text(value)
            else:
                bare = False
            key = 0
        elif name == "immediate":
            found = dict(attributes(dict(attributes(data.get(_IMMEDIATE_DATA, b""))).get(_VERDICT, b"")))
            verdict = _VERDICTS.get(int.from_bytes(found.get(_VERDICT_CODE, b"\xff"), "big", signed=True), "")
        elif name != "counter":
            bare = False
    return Rule(links[_IIFNAME], links[_OIFNAME], verdict, bare)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _big(value: bytes) -> int:
    return int.from_bytes(value, "big")
