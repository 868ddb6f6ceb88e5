"""Whether rules that others made drop a packet, as far as that is certain.

Rules are read from nftables and from iptables into one form. What is not known here may hold or not, and may let the
packet through or not: then no drop is certain.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netaddr import AddrFormatError, IPAddress, IPNetwork

from pynetdriver.doctor.facts import Link

#: True, False, or None for what cannot be told.
Holds = bool | None
Facts = Mapping[str, str | int]

_FINAL = {"accept": "accept", "drop": "drop", "reject": "drop", "ACCEPT": "accept", "DROP": "drop", "REJECT": "drop"}
#: How deep chains may jump into each other (NFT_JUMP_STACK_SIZE of linux/netfilter/nf_tables.h).
_DEPTH = 16
_TCP = ("tcp", "6", "all")
#: What a packet of another protocol has; no match asks for it, whatever its operator, as nftables asks for the
#: protocol first.
_OTHER = object()
#: Statements of nftables that neither match nor judge, and targets of iptables (iptables-extensions(8)).
_PASSING = ("counter", "log", "mangle", "comment", "continue")
_PASSING_TARGETS = ("LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "CLASSIFY", "DSCP", "SET", "TRACE")
#: Matches of iptables that hold unless one of their options does not.
_MATCHES = ("tcp", "udp", "icmp", "icmp6", "multiport", "conntrack", "state", "devgroup", "comment")


@dataclass(frozen=True)
class Packet:
    """The first packet of a TCP connection that this host forwards from one link to another."""

    what: str
    version: int
    source: IPAddress
    target: IPAddress
    port: int
    came_by: Link
    leaves_by: Link
    translated: bool = False


@dataclass(frozen=True)
class Rule:
    """What a rule asks, and what it does: accept, drop, return, or to jump or go to a chain; else nothing."""

    holds: Holds
    verdict: str
    chain: str = ""


#: What cannot be read may let all pass.
UNREAD = Rule(None, "accept")


@dataclass(frozen=True)
class Drop:
    """Where a packet is dropped for certain: by a rule of a chain, or by the policy of a base chain."""

    chain: str
    rule: int | None


class _Passed(Exception):
    pass


class _Dropped(Exception):
    def __init__(self, drop: Drop) -> None:
        self.drop = drop


def dropped(chain: str, rules_of: Callable[[str], Iterable[Rule]], *, policy_drops: bool) -> Drop | None:
    """Tell where a packet that enters a base chain is dropped for certain; None if it may pass.

    Args:
        rules_of: gives the rules of a chain, judged for that packet.
    """
    try:
        _walk(chain, rules_of, 0)
    except _Passed:
        return None
    except _Dropped as found:
        return found.drop
    return Drop(chain, None) if policy_drops else None


def _walk(chain: str, rules_of: Callable[[str], Iterable[Rule]], depth: int) -> None:
    """Go through a chain to its end, or raise how the packet ended.

    A packet that may have left the chain before a drop goes on where it was called.
    """
    left = False
    for number, rule in enumerate(rules_of(chain), 1):
        if rule.holds is False:
            continue
        match rule.verdict:
            case "accept":
                raise _Passed
            case "drop" if rule.holds:
                if left:
                    return
                raise _Dropped(Drop(chain, number))
            case "return":
                if rule.holds:
                    return
                left = True
            case "jump" | "goto" if depth < _DEPTH:
                try:
                    _walk(rule.chain, rules_of, depth + 1)
                except _Dropped:
                    if rule.holds and left:
                        return
                    if rule.holds:
                        raise
                    continue
                if rule.verdict == "goto" and rule.holds:
                    return
                left = left or rule.verdict == "goto"


def read_nft(statements: Sequence[Mapping[str, Any]], packet: Packet) -> Rule:
    """Judge a rule of nftables, as libnftables-json(5) writes it."""
    holds: Holds = True
    unknown = False
    for one in statements:
        kind, what = next(iter(one.items()))
        if kind == "match":
            holds = _both(holds, _nft_match(what, packet))
        elif kind == "vmap":
            verdict = _nft_map(what, packet)
            if verdict is None:
                return UNREAD
            return Rule(_both(holds, verdict.holds), verdict.verdict, verdict.chain)
        elif kind in _FINAL:
            return Rule(holds, _FINAL[kind])
        elif kind in ("jump", "goto"):
            return Rule(holds, kind, what["target"])
        elif kind == "return":
            return Rule(holds, kind)
        elif kind == "queue":
            return Rule(_both(holds, None), "accept")
        elif kind not in _PASSING:
            holds, unknown = _both(holds, None), True
    # It may have let the packet through.
    return Rule(holds, "accept" if unknown else "")


def _nft_match(match: Mapping[str, Any], packet: Packet) -> Holds:
    value = _nft_value(match["left"], packet)
    if value is _OTHER:
        return False
    found = _nft_equals(value, match["right"])
    return found if match["op"] in ("==", "in") or found is None else not found


def _nft_value(left: Any, packet: Packet) -> Any:
    """Give what an expression is of this packet; None if that cannot be told."""
    match left:
        case {"meta": {"key": key}}:
            return {
                "iifname": packet.came_by.name,
                "iif": packet.came_by.name,
                "oifname": packet.leaves_by.name,
                "oif": packet.leaves_by.name,
                "iifgroup": packet.came_by.group,
                "oifgroup": packet.leaves_by.group,
                "l4proto": "tcp",
                "nfproto": f"ipv{packet.version}",
                "protocol": "ip" if packet.version == 4 else "ip6",
            }.get(key)
        case {"ct": {"key": "state"}}:
            return "new"
        case {"ct": {"key": "status"}}:
            return "dnat" if packet.translated else "none"
        case {"payload": {"protocol": "ip" | "ip6" as protocol, "field": "saddr" | "daddr" as field}}:
            if protocol != ("ip" if packet.version == 4 else "ip6"):
                return _OTHER
            return packet.source if field == "saddr" else packet.target
        case {"payload": {"protocol": "tcp" | "th", "field": "dport"}}:
            return packet.port
        case {"payload": {"protocol": "udp" | "udplite" | "icmp" | "icmpv6" | "igmp" | "sctp" | "dccp" | "esp" | "ah"}}:
            return _OTHER
    return None


def _nft_equals(value: Any, right: Any) -> Holds:
    if value is None:
        return None
    if value is _OTHER:
        return False
    match right:
        case {"set": several} | list(several):
            found = [_nft_equals(value, one) for one in several]
            return True if True in found else None if None in found else False
        case {"prefix": {"addr": address, "len": length}}:
            return isinstance(value, IPAddress) and value in IPNetwork(f"{address}/{length}")
        case {"range": [int(first), int(last)]}:
            return isinstance(value, int) and first <= value <= last
        case int() | str():
            named = isinstance(right, str) and (right.startswith("@") or right == "*")
            # A word may be a name that this host has for a number.
            word = isinstance(value, int) and not str(right).isdecimal()
            return None if named or word else _same(value, right)
    return None


def _same(value: Any, right: str | int) -> bool:
    if isinstance(value, IPAddress):
        try:
            return bool(value == IPAddress(str(right)))
        except (AddrFormatError, ValueError):
            return False
    if isinstance(right, str) and right.endswith("*"):
        return str(value).startswith(right[:-1])
    return str(value) == str(right)


def _nft_map(vmap: Mapping[str, Any], packet: Packet) -> Rule | None:
    """Judge a verdict map; None if it cannot be told which of its verdicts is meant."""
    value, data = _nft_value(vmap["key"], packet), vmap["data"]
    if value is None or not isinstance(data, dict) or "set" not in data:
        return None
    for key, verdict in data["set"]:
        match _nft_equals(value, key):
            case None:
                return None
            case True:
                return read_nft([verdict], packet)
    return Rule(False, "")


def read_iptables(line: str, packet: Packet) -> tuple[str, Rule] | None:
    """Judge a rule as `iptables -S` writes it, and tell its chain; None if the line is no rule."""
    if not line.startswith("-A "):
        return None
    chain = line.split()[1]
    try:
        return chain, _iptables_rule(shlex.split(line)[2:], packet)
    except (ValueError, IndexError, AddrFormatError):
        return chain, UNREAD


def _iptables_rule(words: list[str], packet: Packet) -> Rule:
    """Judge a rule by its words. Raises ValueError, IndexError or AddrFormatError if one cannot be read."""
    rest, holds, negated = list(words), True, False
    while rest:
        word = rest.pop(0)
        if word == "!":
            negated = True
            continue
        if word == "--comment":
            rest.pop(0)  # may look like an option
            continue
        values = []
        while rest and not rest[0].startswith("-") and rest[0] != "!":
            values.append(rest.pop(0))
        if word in ("-j", "-g"):
            return _iptables_target(holds, values[0], "jump" if word == "-j" else "goto")
        found = _iptables_match(word, values[0] if values else "", packet)
        holds = _both(holds, None if found is None else found != negated)  # type: ignore[assignment]
        negated = False
    return Rule(holds, "")


def _iptables_target(holds: Holds, target: str, otherwise: str) -> Rule:
    if target in _PASSING_TARGETS:
        return Rule(holds, "")
    if target == "RETURN":
        return Rule(holds, "return", target)
    return Rule(holds, _FINAL.get(target, otherwise), target)


def rules_of_iptables(lines: Iterable[str], packet: Packet) -> Callable[[str], list[Rule]]:
    """Give the rules of each chain of a table as `iptables-save` writes it; a target that is no chain may accept."""
    chains: dict[str, list[Rule]] = {}
    for line in lines:
        if line.startswith(":"):
            chains.setdefault(line.split()[0].removeprefix(":"), [])
        elif (found := read_iptables(line, packet)) is not None:
            chains.setdefault(found[0], []).append(found[1])
    return lambda chain: chains.get(chain, [UNREAD])


def _iptables_match(option: str, value: str, packet: Packet) -> Holds:
    match option:
        case "-m":
            return True if value in _MATCHES else None
        case "-i" | "-o":
            link = (packet.came_by if option == "-i" else packet.leaves_by).name
            return link.startswith(value[:-1]) if value.endswith("+") else link == value
        case "-s" | "-d":
            return bool((packet.source if option == "-s" else packet.target) in IPNetwork(value))
        case "-p":
            return value in _TCP
        case "--dport" | "--dports":
            ranges = [re.split(":", one) for one in value.split(",")]
            return any(int(one[0] or 0) <= packet.port <= int(one[-1] or 65535) for one in ranges)
        case "--ctstate" | "--state":
            states = set(value.split(","))
            return "NEW" in states or (packet.translated and "DNAT" in states)
        case "--src-group":
            return _masked(value, packet.came_by.group)
        case "--dst-group":
            return _masked(value, packet.leaves_by.group)
    return None


def _masked(value: str, number: int) -> bool:
    """Compare a number with one that has a mask behind a slash, or none."""
    wanted, _, mask = value.partition("/")
    return number & int(mask or "0xffffffff", 0) == int(wanted, 0)


def _both(one: Holds, other: Holds) -> Holds:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
