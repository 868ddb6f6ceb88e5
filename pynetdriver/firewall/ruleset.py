"""The table `inet pynet` as text: a pure function of all intents, and what to change between two of them.

Whatever depends on a network or a port is an element of a map or set, so a packet meets the same number of
rules however many there are. Deltas come from what is known; the table is listed only to replace it whole.

| what | where |
|---|---|
| host port → container | `publish4`, `publish6` (any local address), `publish4_at`, `publish6_at` (one address) |
| open ports of containers | `open4`, `open6` |
| into, out of a network | `into`, `from` (internal ones), `genuine` (whose sources are checked), keyed by link |
| containers on links that others use too | `residents` |
| leaving a subnet | `leave4`, `leave6`, keyed by source prefix |
| whose packets are counted | `counted4`, `counted6`, `counted4_at`, `counted6_at`, keyed like `publish4`, … |
| what published ports carry | `traffic4`, `traffic6`, `traffic4_at`, `traffic6_at`: filled by the packets themselves |
| the host's administrator | chains, sets and maps whose name begins with `user`; never written here |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from netaddr import IPAddress

from pynetdriver.firewall import Direction
from pynetdriver.firewall.counters import Counted
from pynetdriver.plan import Intent, Opening, Publication, Relaying, Resident, Segment

TABLE = "inet pynet"
#: Begins the names of all that belongs to the administrator; the chain of just this name is consulted first.
USER = "user"

# The word `to` is no name for libnftables 1.0.2.
_MAPS = {
    "publish4": "type inet_proto . inet_service : ipv4_addr . inet_service;",
    "publish6": "type inet_proto . inet_service : ipv6_addr . inet_service;",
    "publish4_at": "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
    "publish6_at": "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
    "into": "type ifname : verdict;",
    "from": "type ifname : verdict;",
    "genuine": "type ifname : verdict;",
    "leave4": "type ipv4_addr : verdict; flags interval;",
    "leave6": "type ipv6_addr : verdict; flags interval;",
}
_SETS = {
    # Older kernels do not look for a key in a map whose data is not used.
    "counted4": "type inet_proto . inet_service;",
    "counted6": "type inet_proto . inet_service;",
    "counted4_at": "type ipv4_addr . inet_proto . inet_service;",
    "counted6_at": "type ipv6_addr . inet_proto . inet_service;",
    "apart4": "type ifname . inet_proto . inet_service;",
    "apart6": "type ifname . inet_proto . inet_service;",
    "apart4_at": "type ifname . ipv4_addr . inet_proto . inet_service;",
    "apart6_at": "type ifname . ipv6_addr . inet_proto . inet_service;",
    "relayed": "type inet_proto . inet_service;",
    "links": "type ifname;",
    "residents": "type ifname . ether_addr;",
    "open4": "type ipv4_addr . inet_proto . inet_service;",
    "open6": "type ipv6_addr . inet_proto . inet_service;",
}
#: Sets that packets fill, which are kept when the table is written anew: the way that a packet goes, what its flow
#: was to at first (the address, of ports that are published on one; protocol and port), and who answers.
_COUNTERS = {
    "traffic4": ("ct_dir", "inet_proto", "inet_service", "ipv4_addr"),
    "traffic6": ("ct_dir", "inet_proto", "inet_service", "ipv6_addr"),
    "traffic4_at": ("ct_dir", "ipv4_addr", "inet_proto", "inet_service", "ipv4_addr"),
    "traffic6_at": ("ct_dir", "ipv6_addr", "inet_proto", "inet_service", "ipv6_addr"),
}
#: The most counters of each: two for each port, whatever clients ask for.
_COUNTERS_SIZE = 65536
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
#: Into a container goes what goes the way of its flow's first packet.
_WAYS: dict[Direction, str] = {"in": "original", "out": "reply"}

# The forward chain goes before the engine's (priority filter): what it drops stays dropped, what it
# accepts is let through there by one rule in DOCKER-USER. Packets to 127/8 that come from elsewhere are
# never translated: the kernel then drops them as martians, or `raw` does where route_localnet is set.
# ::1 has no route_localnet: an answer from a container could not come back to it, so it is left alone. Nor is
# anything routed that comes from a link-local address: like that, it goes to the daemon, which relays it.
# What goes through published ports is counted where each packet passes once: as it is forwarded, or as the host itself
# sends it, when it is not known yet by which link, or gets it. Flows that others translate are left out: clients could
# fill the sets with what these go to. The library knows what the port of a flow is only beside its protocol, and keys
# of five parts at most.
_COUNTING = "".join(
    f"    meta l4proto {protocol} {asked} @counted{which}"
    f" add @traffic{which} {{ ct direction . {asked} . ct reply {ip} saddr counter }} return\n"
    for protocol in ("tcp", "udp", "sctp")
    for version, ip in ((4, "ip"), (6, "ip6"))
    for which, asked in (
        (f"{version}_at", f"ct original {ip} daddr . meta l4proto . ct original proto-dst"),
        (f"{version}", "meta l4proto . ct original proto-dst"),
    )
)
_CHAINS = (
    f"""
  chain traffic {{
{_COUNTING}  }}"""
    + """
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
    dnat ip to meta l4proto . th dport map @publish4
    dnat ip6 to meta l4proto . th dport map @publish6
  }
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname != @links accept
    ip saddr 127.0.0.0/8 drop
    ip daddr 127.0.0.0/8 drop
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    iifname != @links ip6 saddr fe80::/10 return
    meta nfproto ipv4 iifname . meta l4proto . th dport @apart4 return
    meta nfproto ipv6 iifname . meta l4proto . th dport @apart6 return
    iifname . ip daddr . meta l4proto . th dport @apart4_at return
    iifname . ip6 daddr . meta l4proto . th dport @apart6_at return
    fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    ip6 saddr fe80::/10 return
    fib daddr type local jump publish
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @links ip saddr 127.0.0.0/8 masquerade
    ip saddr vmap @leave4
    ip6 saddr vmap @leave6
  }
  chain engine {
    ct state established,related accept
    ct status dnat accept
    drop
  }
  chain entering {
    oifname != @links accept
    ct status dnat jump traffic
    jump user
    oifname vmap @into
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    iifname != @links goto entering
    ct status dnat jump traffic
    jump user
    iifname vmap @from
    iifname vmap @genuine
    oifname vmap @into
    oifname @engine_bridges goto engine
  }
  chain input {
    type filter hook input priority -10; policy accept;
    iifname vmap @from
    ct status dnat iifname @links goto traffic
  }
  chain sent {
    type filter hook output priority filter; policy accept;
    ct status dnat goto traffic
  }
"""
)

BASE_CHAINS = frozenset(re.findall(r"chain (\w+) {", _CHAINS))


@dataclass
class Content:
    """What intents put into the table: chains by name, elements by map or set and key; of a set without data."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    elements: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def add_element(self, into: str, key: str, data: str | None = None) -> None:
        """Put one element."""
        self.elements.setdefault(into, {})[key] = data

    def written(self, into: str, keys: Iterable[str] | None = None) -> list[str]:
        """Write elements of a map or set, all of them or some."""
        elements = self.elements.get(into, {})
        chosen = elements if keys is None else {key: elements[key] for key in keys}
        return [key if data is None else f"{key} : {data}" for key, data in chosen.items()]


def content(intents: Iterable[Intent]) -> Content:
    """Say what intents come to."""
    result = Content()
    for intent in intents:
        match intent:
            case Publication():
                _publish(result, intent)
            case Opening():
                key = f"{intent.address} . {intent.protocol} . {intent.port}"
                result.add_element(f"open{intent.address.version}", key)
            case Relaying():
                result.add_element("relayed", f"{intent.protocol} . {intent.host_port}")
            case Resident():
                result.add_element("residents", f'"{intent.link}" . {intent.mac}')
            case Segment():
                _bound(result, intent)
            case _:
                assert_never(intent)
    return result


def chains(intents: Iterable[Intent]) -> set[str]:
    """Name the chains that intents bring."""
    return set(content(intent for intent in intents if isinstance(intent, Segment)).chains)


def render(intents: Iterable[Intent], engine_bridges: Iterable[str]) -> str:
    """Write the commands that make the whole table where there is none, but for what is the user's.

    One block with its elements inside: libnftables 1.0.6 sends elements of an interval map that stand in
    commands of their own before the chains of a new table.
    """
    whole = content(intents)
    lines = [f"  map {name} {{ {kind} {_inline(whole.written(name))} }}" for name, kind in _MAPS.items()]
    lines += [f"  set {name} {{ {kind} {_inline(whole.written(name))} }}" for name, kind in _SETS.items()]
    for name, parts in _COUNTERS.items():
        lines.append(f"  set {name} {{ type {' . '.join(parts)}; size {_COUNTERS_SIZE}; flags dynamic; }}")
    lines.append(f"  set engine_bridges {{ type ifname; {_inline(_quoted(engine_bridges))} }}")
    lines.append(f"  chain {USER} {{ }}")
    lines += [f"  chain {name} {{ {'; '.join(rules)}; }}" for name, rules in whole.chains.items()]
    return "\n".join([f"table {TABLE} {{", *lines]) + f"{_CHAINS}}}\n"


def sizes(intents: Iterable[Intent], engine_bridges: Collection[str]) -> dict[str, int]:
    """Count what `render` writes: rules by chain, elements by set and map, named as in `listed_sizes`."""
    whole = content(intents)
    found = {f"set {name}": len(whole.elements.get(name, {})) for name in (*_MAPS, *_SETS)}
    found["set engine_bridges"] = len(engine_bridges)
    found |= {f"chain {name}": len(rules) for name, rules in whole.chains.items()}
    for name, body in re.findall(r"chain (\w+) {(.*?)\n  }", _CHAINS, re.DOTALL):
        found[f"chain {name}"] = sum(not line.strip().startswith("type ") for line in body.strip().splitlines())
    return found


def listed_sizes(listed: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count rules and elements of a table that is listed as libnftables-json(5) objects, elements included."""
    found: dict[str, int] = {}
    for one in listed:
        ((kind, thing),) = one.items()
        if kind in ("map", "set"):
            found[f"set {thing['name']}"] = len(thing.get("elem", ()))
        elif kind == "chain":
            found.setdefault(f"chain {thing['name']}", 0)
        elif kind == "rule":
            found[f"chain {thing['chain']}"] = found.get(f"chain {thing['chain']}", 0) + 1
    return found


def removal(listed: Iterable[Mapping[str, Any]], *, last: bool) -> str:
    """Write the commands that remove the table, but for the user's part of it.

    Args:
        listed: the table as libnftables-json(5) objects, elements left out.
        last: nothing comes in its place, so that a user's part without any rule goes too.
    """
    kinds: dict[str, list[str]] = {"chain": [], "map": [], "set": []}
    kept = False
    mentioned: set[str] = set()
    for one in listed:
        ((kind, thing),) = one.items()
        if kind == "rule" and thing["chain"].startswith(USER):
            kept = True
            mentioned.update(_strings(thing["expr"]))
        elif kind == "set" and not last and tuple(thing["type"]) == _COUNTERS.get(thing["name"]):
            pass
        elif kind in kinds and not thing["name"].startswith(USER):
            kinds[kind].append(thing["name"])
    if last and not kept:
        return f"table {TABLE}\ndelete table {TABLE}\n"
    lines = [f"flush chain {TABLE} {name}" for name in kinds["chain"]]
    for kind in ("map", "set", "chain"):
        for name in kinds[kind]:
            # What the user's rules name cannot be deleted; it is emptied, and filled again.
            verb = "flush" if mentioned & {name, f"@{name}"} else "delete"
            lines.append(f"{verb} {kind} {TABLE} {name}")
    return "".join(f"{line}\n" for line in lines)


def change(old: Iterable[Intent], new: Iterable[Intent]) -> str:
    """Write the commands that lead from one owner's old intents to its new ones; empty if none do."""
    before, after = content(old), content(new)
    lines, added = [], []
    for into in (*_MAPS, *_SETS):
        was, is_now = before.elements.get(into, {}), after.elements.get(into, {})
        gone = [key for key, data in was.items() if key not in is_now or is_now[key] != data]
        lines += _elements("delete", into, gone)
        new_ones = [key for key, data in is_now.items() if key not in was or was[key] != data]
        added += _elements("add", into, after.written(into, new_ones))
    for name in before.chains:
        if before.chains[name] != after.chains.get(name):
            lines += [f"flush chain {TABLE} {name}", f"delete chain {TABLE} {name}"]
    for name, rules in after.chains.items():
        if rules != before.chains.get(name):
            lines.append(f"add chain {TABLE} {name}")
            lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return "".join(f"{line}\n" for line in lines + added)


def change_bridges(old: Iterable[str], new: Iterable[str]) -> str:
    """Write the commands that update the set of the engine's own bridges."""
    old, new = set(old), set(new)
    lines = _elements("delete", "engine_bridges", _quoted(old - new))
    lines += _elements("add", "engine_bridges", _quoted(new - old))
    return "".join(f"{line}\n" for line in lines)


def forget(counted: Iterable[Counted]) -> str:
    """Write the command that forgets counters, such as those of ports that are not published any more."""
    elements: dict[str, list[str]] = {}
    for one in counted:
        key, which = _asked(IPAddress(one.asked), one.protocol, one.host_port)
        elements.setdefault(f"traffic{which}", []).append(f"{_WAYS[one.direction]} . {key} . {one.container}")
    return "".join(f"{line}\n" for into, keys in elements.items() for line in _elements("delete", into, keys))


def _publish(result: Content, one: Publication) -> None:
    key, which = _asked(one.host_address, one.protocol, one.host_port)
    result.add_element(f"publish{which}", key, f"{one.address} . {one.port}")
    result.add_element(f"counted{which}", key)
    if one.but_from is not None:
        result.add_element(f"apart{which}", f'"{one.but_from}" . {key}')


def _asked(address: IPAddress, protocol: str, port: int) -> tuple[str, str]:
    """Write what clients ask for as part of a key, and the ending of what is keyed by that."""
    key, which = f"{protocol} . {port}", f"{address.version}"
    return (f"{address} . {key}", f"{which}_at") if int(address) else (key, which)


def _bound(result: Content, segment: Segment) -> None:
    """Guard the edge of a network."""
    link = f'"{segment.link}"'
    to, leave = f"to_{segment.link}", f"leave_{segment.link}"
    among, beyond, others = [f"iifname {link} {'drop' if segment.isolated else 'accept'}"], ["drop"], []
    if segment.shared:
        beyond = [f"{_family(one.version)} daddr {one} drop" for one in segment.subnets]
        others = ["iifname . ether saddr != @residents return"]
        if segment.isolated:
            apart = [f"iifname . ether saddr @residents {rule}" for rule in beyond]
            among = [*(f"iifname {link} {rule}" for rule in apart), f"iifname {link} accept"]
    result.add_element("links", link)
    result.add_element("into", link, f"jump {to}")
    if segment.internal:
        result.chains[to] = [*among, *beyond]
        # Whatever conntrack remembers: an address may have been that of a container on another network.
        # On input, where there is no outgoing link, only this link's own addresses are let in, and there
        # not to ports that lead to containers of other networks.
        away = f"from_{segment.link}"
        local = "fib daddr . iif type { local, broadcast, multicast } return"
        relayed = "meta l4proto . th dport @relayed drop"
        result.chains[away] = [*others, f"oifname {link} return", relayed, local, "drop"]
        result.add_element("from", link, f"jump {away}")
        return
    if segment.anti_spoof and segment.subnets:
        genuine = f"genuine_{segment.link}"
        # What the kernel cannot assign to a flow it does not translate: it would leave as it is. On a link of others
        # a flow may come in another way than by this host.
        translated = {one.version for one in segment.crossings if one.source is not None and not segment.shared}
        known = [
            f"{_family(one.version)} saddr {one} {'ct state != invalid ' if one.version in translated else ''}return"
            for one in segment.subnets
        ]
        result.chains[genuine] = [
            *others,
            f"oifname {link} return",
            *known,
            "ct state established,related return",
            "drop",
        ]
        result.add_element("genuine", link, f"jump {genuine}")
    admitted = ["ct state established,related accept", "ct status dnat accept", *among]
    # A published port reached from inside its own network: the answer must come back this way.
    left = [f"oifname {link} ct status dnat masquerade", f"oifname {link} return"]
    for one in segment.crossings:
        family = _family(one.version)
        is_open = f"{family} daddr . meta l4proto . th dport @open{one.version} accept"
        if one.admits == "all":
            # All of the world but other networks of containers.
            admitted.append(f"iifname != @links iifname != @engine_bridges meta nfproto ipv{one.version} accept")
        elif one.admits == "open":
            admitted += [f"meta l4proto {_ICMP[one.version]} accept", is_open]
        elif segment.trusted:
            admitted.append(f"iifname {{ {', '.join(_quoted(segment.trusted))} }} {is_open}")
        if one.source is not None:
            source = "masquerade" if one.source == "link" else f"snat {family} to {one.source}"
            left.append(f"meta nfproto ipv{one.version} {source}")
    result.chains[to] = [*admitted, *beyond]
    result.chains[leave] = left
    for subnet in segment.subnets:
        result.add_element(f"leave{subnet.version}", str(subnet), f"jump {leave}")


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict | list):
        return set().union(*map(_strings, value.values() if isinstance(value, dict) else value))
    return {value} if isinstance(value, str) else set()


def _elements(verb: str, into: str, elements: list[str]) -> list[str]:
    return [f"{verb} element {TABLE} {into} {{ {', '.join(elements)} }}"] if elements else []


def _inline(elements: list[str]) -> str:
    return f"elements = {{ {', '.join(elements)} }}" if elements else ""


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]
