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

from collections.abc import Iterable, Mapping

from pynetdriver.names import LINK_GROUP
from pynetdriver.plan import Intent, Publication, Segment

TABLE = "inet pynet"

# The forward chain goes before the engine's (priority filter): what it drops stays dropped, what it
# accepts is let through there by one rule in DOCKER-USER. Packets to 127/8 that come from elsewhere are
# never translated: the kernel then drops them as martians, or `raw` does where route_localnet is set.
_SKELETON = f"""
table {TABLE} {{
  map publish4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map publish6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map publish4_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map publish6_at {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  map to {{ type ifname : verdict; }}
  map from {{ type ifname : verdict; }}
  map leave4 {{ type ipv4_addr : verdict; flags interval; }}
  map leave6 {{ type ipv6_addr : verdict; flags interval; }}
  set engine_bridges {{ type ifname; }}
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
    ct state established,related accept
    iifname vmap @from
    iifgroup {LINK_GROUP} oifname @engine_bridges ct status dnat accept
    iifgroup {LINK_GROUP} oifname @engine_bridges drop
    oifname vmap @to
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname vmap @from
  }}
}}
"""


def render(intents: Iterable[Intent], engine_bridges: Iterable[str]) -> str:
    """Write the commands that replace the whole table, in one transaction."""
    return clear() + _SKELETON + change((), intents) + change_bridges((), engine_bridges)


def clear() -> str:
    """Write the commands that remove the table, whether it exists or not."""
    return f"table {TABLE}\ndelete table {TABLE}\n"


def change(old: Iterable[Intent], new: Iterable[Intent]) -> str:
    """Write the commands that lead from one owner's old intents to its new ones."""
    # Dicts rather than sets: the order stays that of the plan, so equal plans give equal text.
    before, after = dict.fromkeys(old), dict.fromkeys(new)
    gone = [intent for intent in before if intent not in after]
    come = [intent for intent in after if intent not in before]
    lines = _elements("delete", [one for one in gone if isinstance(one, Publication)])
    for intent in gone:
        if isinstance(intent, Segment):
            lines += _without_segment(intent)
    for intent in come:
        if isinstance(intent, Segment):
            lines += _with_segment(intent)
    lines += _elements("add", [one for one in come if isinstance(one, Publication)])
    return "".join(f"{line}\n" for line in lines)


def change_bridges(old: Iterable[str], new: Iterable[str]) -> str:
    """Write the commands that update the set of the engine's own bridges."""
    old, new = set(old), set(new)
    return "".join(
        f'{verb} element {TABLE} engine_bridges {{ "{name}" }}\n'
        for verb, names in (("delete", old - new), ("add", new - old))
        for name in sorted(names)
    )


def _elements(verb: str, publications: list[Publication]) -> list[str]:
    maps: dict[str, list[str]] = {}
    for one in publications:
        version = one.host_address.version
        key = f"{one.protocol} . {one.host_port}"
        name = f"publish{version}"
        if int(one.host_address) != 0:
            key, name = f"{one.host_address} . {key}", f"{name}_at"
        data = f" : {one.address} . {one.port}" if verb == "add" else ""
        maps.setdefault(name, []).append(key + data)
    return [f"{verb} element {TABLE} {name} {{ {', '.join(keys)} }}" for name, keys in maps.items()]


def _chains(segment: Segment) -> Mapping[str, list[str]]:
    """The chains of a network, by the map that leads into them."""
    link = f'"{segment.link}"'
    if segment.internal:
        # On input the packet has no outgoing link: only addresses of this very link are let in.
        return {
            "to": ["drop"] if segment.isolated else [f"iifname {link} accept", "drop"],
            "from": [
                f"oifname {link} return",
                "fib daddr . iif type { local, broadcast, multicast } return",
                "drop",
            ],
        }
    return {
        "to": [
            "ct status dnat accept",
            f"iifname {link} {'drop' if segment.isolated else 'accept'}",
            "drop",
        ],
        # A published port reached from inside its own network: the answer must come back this way.
        "leave": [
            f"oifname {link} ct status dnat masquerade",
            f"oifname {link} return",
            *(["masquerade"] if segment.masquerade else []),
        ],
    }


def _keys(segment: Segment, chain: str) -> list[tuple[str, str]]:
    """The map elements that lead into a network's chain: map name and key."""
    if chain == "leave":
        return [(f"leave{subnet.version}", str(subnet)) for subnet in segment.subnets]
    return [(chain, f'"{segment.link}"')]


def _with_segment(segment: Segment) -> list[str]:
    lines = []
    for chain, rules in _chains(segment).items():
        name = f"{chain}_{segment.link}"
        lines.append(f"add chain {TABLE} {name}")
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
        lines += [
            f"add element {TABLE} {into} {{ {key} : jump {name} }}" for into, key in _keys(segment, chain)
        ]
    return lines


def _without_segment(segment: Segment) -> list[str]:
    lines = []
    for chain in _chains(segment):
        name = f"{chain}_{segment.link}"
        lines += [f"delete element {TABLE} {into} {{ {key} }}" for into, key in _keys(segment, chain)]
        lines += [f"flush chain {TABLE} {name}", f"delete chain {TABLE} {name}"]
    return lines
