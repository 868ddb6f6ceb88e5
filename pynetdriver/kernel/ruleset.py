"""The table `inet pynet` as text: a pure function of all intents, and what to change between two of them.

Whatever depends on a network or a port is an element of a map, so a packet meets the same number of
rules however many there are. Nothing is read back: deltas come from what is known.

| what | where |
|---|---|
| host port → container | `publish4`, `publish6` (any local address), `publish4_at`, `publish6_at` (one address) |
| into, out of a network | `to` and `from`, keyed by link |
| leaving a subnet | `leave4`, `leave6`, keyed by source prefix |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pynetdriver.names import LINK_GROUP
from pynetdriver.plan import Intent, Publication, Segment

TABLE = "inet pynet"

_MAPS = {
    "publish4": "type inet_proto . inet_service : ipv4_addr . inet_service;",
    "publish6": "type inet_proto . inet_service : ipv6_addr . inet_service;",
    "publish4_at": "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
    "publish6_at": "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
    "to": "type ifname : verdict;",
    "from": "type ifname : verdict;",
    "leave4": "type ipv4_addr : verdict; flags interval;",
    "leave6": "type ipv6_addr : verdict; flags interval;",
}

# The forward chain goes before the engine's (priority filter): what it drops stays dropped, what it
# accepts is let through there by one rule in DOCKER-USER. Packets to 127/8 that come from elsewhere are
# never translated: the kernel then drops them as martians, or `raw` does where route_localnet is set.
# ::1 has no route_localnet: an answer from a container could not come back to it, so it is refused at
# once instead, and programs that try "localhost" go on to 127.0.0.1.
_CHAINS = f"""
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
    dnat ip to meta l4proto . th dport map @publish4
    dnat ip6 to meta l4proto . th dport map @publish6
  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup {LINK_GROUP} ip saddr 127.0.0.0/8 drop
    iifgroup {LINK_GROUP} ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifgroup {LINK_GROUP} ip saddr 127.0.0.0/8 masquerade
    ip saddr vmap @leave4
    ip6 saddr vmap @leave6
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifgroup != {LINK_GROUP} oifgroup != {LINK_GROUP} accept
    iifname vmap @from
    oifname vmap @to
    iifgroup {LINK_GROUP} oifname @engine_bridges ct state established,related accept
    iifgroup {LINK_GROUP} oifname @engine_bridges ct status dnat accept
    iifgroup {LINK_GROUP} oifname @engine_bridges drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname vmap @from
  }}
"""

BASE_CHAINS = frozenset(re.findall(r"chain (\w+) {", _CHAINS))


@dataclass
class Content:
    """What intents put into the table: chains by name, map elements by map and key."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    elements: dict[str, dict[str, str]] = field(default_factory=dict)

    def add_element(self, into: str, key: str, data: str) -> None:
        """Put one element."""
        self.elements.setdefault(into, {})[key] = data


def content(intents: Iterable[Intent]) -> Content:
    """Say what intents come to."""
    result = Content()
    for intent in intents:
        match intent:
            case Publication():
                _publish(result, intent)
            case Segment():
                _bound(result, intent)
    return result


def chains(intents: Iterable[Intent]) -> set[str]:
    """Name the chains that intents bring."""
    return set(content(intent for intent in intents if isinstance(intent, Segment)).chains)


def render(intents: Iterable[Intent], engine_bridges: Iterable[str]) -> str:
    """Write the commands that replace the whole table, in one transaction.

    One block with its elements inside: libnftables 1.0.6 sends elements of an interval map that stand in
    commands of their own before the chains of a new table.
    """
    whole = content(intents)
    lines = [
        f"  map {name} {{ {kind} {_inline([f'{k} : {v}' for k, v in whole.elements.get(name, {}).items()])} }}"
        for name, kind in _MAPS.items()
    ]
    lines.append(f"  set engine_bridges {{ type ifname; {_inline(_quoted(engine_bridges))} }}")
    lines += [f"  chain {name} {{ {'; '.join(rules)}; }}" for name, rules in whole.chains.items()]
    return "\n".join([f"{clear()}table {TABLE} {{", *lines]) + f"{_CHAINS}}}\n"


def clear() -> str:
    """Write the commands that remove the table, whether it exists or not."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def change(old: Iterable[Intent], new: Iterable[Intent]) -> str:
    """Write the commands that lead from one owner's old intents to its new ones; empty if none do."""
    before, after = content(old), content(new)
    lines = []
    for into in _MAPS:
        was, is_now = before.elements.get(into, {}), after.elements.get(into, {})
        lines += _elements("delete", into, [key for key in was if is_now.get(key) != was[key]])
    for name in before.chains:
        if before.chains[name] != after.chains.get(name):
            lines += [f"flush chain {TABLE} {name}", f"delete chain {TABLE} {name}"]
    for name, rules in after.chains.items():
        if rules != before.chains.get(name):
            lines.append(f"add chain {TABLE} {name}")
            lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    for into in _MAPS:
        was, is_now = before.elements.get(into, {}), after.elements.get(into, {})
        new_ones = [f"{key} : {data}" for key, data in is_now.items() if was.get(key) != data]
        lines += _elements("add", into, new_ones)
    return "".join(f"{line}\n" for line in lines)


def change_bridges(old: Iterable[str], new: Iterable[str]) -> str:
    """Write the commands that update the set of the engine's own bridges."""
    old, new = set(old), set(new)
    lines = _elements("delete", "engine_bridges", _quoted(old - new))
    lines += _elements("add", "engine_bridges", _quoted(new - old))
    return "".join(f"{line}\n" for line in lines)


def _publish(result: Content, one: Publication) -> None:
    key, name = f"{one.protocol} . {one.host_port}", f"publish{one.host_address.version}"
    if int(one.host_address) != 0:
        key, name = f"{one.host_address} . {key}", f"{name}_at"
    result.add_element(name, key, f"{one.address} . {one.port}")


def _bound(result: Content, segment: Segment) -> None:
    """Guard the edge of a network."""
    link = f'"{segment.link}"'
    to, leave = f"to_{segment.link}", f"leave_{segment.link}"
    among = f"iifname {link} {'drop' if segment.isolated else 'accept'}"
    result.add_element("to", link, f"jump {to}")
    if segment.internal:
        result.chains[to] = [among, "drop"]
        # Whatever conntrack remembers: an address may have been that of a container on another network.
        # On input, where there is no outgoing link, only this link's own addresses are let in.
        away = f"from_{segment.link}"
        local = "fib daddr . iif type { local, broadcast, multicast } return"
        result.chains[away] = [f"oifname {link} return", local, "drop"]
        result.add_element("from", link, f"jump {away}")
        return
    result.chains[to] = ["ct state established,related accept", "ct status dnat accept", among, "drop"]
    # A published port reached from inside its own network: the answer must come back this way.
    result.chains[leave] = [f"oifname {link} ct status dnat masquerade", f"oifname {link} return"]
    if segment.masquerade:
        result.chains[leave].append("masquerade")
    for subnet in segment.subnets:
        result.add_element(f"leave{subnet.version}", str(subnet), f"jump {leave}")


def _elements(verb: str, into: str, elements: list[str]) -> list[str]:
    return [f"{verb} element {TABLE} {into} {{ {', '.join(elements)} }}"] if elements else []


def _inline(elements: list[str]) -> str:
    return f"elements = {{ {', '.join(elements)} }}" if elements else ""


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]
