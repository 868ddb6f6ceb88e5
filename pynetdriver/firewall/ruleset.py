"""The table `inet pynet` as text: a pure function of all intents, and what to change between two of them.

Whatever depends on a network or a port is an element of a map or set, so a packet meets the same number of
rules however many there are. Deltas come from what is known; the table is listed only to replace it whole. What is
written here is a subset of nft(8), with a command a line, which `transaction` makes messages of.

| what | where |
|---|---|
| host port → container | `publish4`, `publish6` (any local address), `publish4_at`, `publish6_at` (one address) |
| open ports of containers | `open4`, `open6` |
| into, out of a network | `into`, `from` (internal ones), `anti_spoof` (whose sources are checked), keyed by link |
| containers on links that others use too | `members` |
| where packets of strangers come in, and would go out | `strangers4`, `strangers6`; `beyond4`, `beyond6` |
| the group of what pynet makes on links, where strangers are kept apart | `made4`, `made6` |
| bridges of theirs, which carry packets as well | `bridged4`, `bridged6` |
| source NAT of what leaves a subnet | `snat4`, `snat6`, keyed by source prefix |
| whose packets are counted | `counted4`, `counted6`, `counted4_at`, `counted6_at`, keyed like `publish4`, … |
| what published ports carry | `traffic4`, `traffic6`, `traffic4_at`, `traffic6_at`: filled by the packets themselves |
| the host's administrator | chains, sets and maps whose name begins with `user`; never written here |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from netaddr import IPAddress

from pynetdriver.firewall import Direction, EngineBridges
from pynetdriver.firewall.counters import Counted
from pynetdriver.firewall.tables import Table
from pynetdriver.firewall.transaction import Form
from pynetdriver.model import Strangers
from pynetdriver.names import LINK_GROUP, PLAIN_GROUP
from pynetdriver.plan import Entrance, Guard, Intent, Member, OpenPort, PortForward, Relaying, Segment

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
    "anti_spoof": "type ifname : verdict;",
    "snat4": "type ipv4_addr : verdict; flags interval;",
    "snat6": "type ipv6_addr : verdict; flags interval;",
}
_SETS = {
    # Older kernels do not look for a key in a map whose data is not used.
    "counted4": "type inet_proto . inet_service;",
    "counted6": "type inet_proto . inet_service;",
    "counted4_at": "type ipv4_addr . inet_proto . inet_service;",
    "counted6_at": "type ipv6_addr . inet_proto . inet_service;",
    "isolated4": "type ifname . inet_proto . inet_service;",
    "isolated6": "type ifname . inet_proto . inet_service;",
    "isolated4_at": "type ifname . ipv4_addr . inet_proto . inet_service;",
    "isolated6_at": "type ifname . ipv6_addr . inet_proto . inet_service;",
    "relayed": "type inet_proto . inet_service;",
    "links": "type ifname;",
    "members": "type ifname . ether_addr;",
    "strangers4": "type ifname;",
    "strangers6": "type ifname;",
    "beyond4": "type ifname;",
    "beyond6": "type ifname;",
    "made4": "type devgroup;",
    "made6": "type devgroup;",
    "bridged4": "type ifname . ifname;",
    "bridged6": "type ifname . ifname;",
    "open4": "type ipv4_addr . inet_proto . inet_service;",
    "open6": "type ipv6_addr . inet_proto . inet_service;",
    "engine_bridges": "type ifname;",
    "engine_closed": "type ifname;",
    "engine_judged4": "type ifname;",
    "engine_judged6": "type ifname;",
}
#: Sets that packets fill, which are kept when the table is written anew: the way that a packet goes, what its flow
#: was to at first (the address, of ports that are published on one; protocol and port), and who answers.
_COUNTERS = {
    "traffic4": ("ct_dir", "inet_proto", "inet_service", "ipv4_addr"),
    "traffic6": ("ct_dir", "inet_proto", "inet_service", "ipv6_addr"),
    "traffic4_at": ("ct_dir", "ipv4_addr", "inet_proto", "inet_service", "ipv4_addr"),
    "traffic6_at": ("ct_dir", "ipv6_addr", "inet_proto", "inet_service", "ipv6_addr"),
}
#: nft 1.0.6 and older crash on a set of one type that newer versions declared by the type's name. They read one
#: that was declared by an expression (typeof); the kernel's set is the same.
_TYPEOF = {
    "ifname": "iifname",
    "ipv4_addr": "ip saddr",
    "ipv6_addr": "ip6 saddr",
    "ether_addr": "ether saddr",
    "devgroup": "oifgroup",
}
#: The numbers of these types for the kernel, which are nft's; of a key with several parts, 6 bits each.
_TYPES = {"ipv4_addr": 7, "ipv6_addr": 8, "inet_proto": 12, "inet_service": 13, "ct_dir": 27}
#: The most counters of each: two for each port, whatever clients ask for.
_COUNTERS_SIZE = 65536
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
#: Packets to the host that have no address of a network: neighbour discovery, and DHCP.
_NO_ADDRESS_YET = ("ip6 saddr { ::, fe80::/10 } return", "ip saddr 0.0.0.0 return")
#: Packets in the direction of a flow's first packet go into the container.
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
# Strangers are links of others between which the host did not route before pynet had it forward, and what pynet makes
# on such links itself is on the same side. With br_netfilter what a bridge carries from port to port comes by here too.
_STRANGERS = "".join(
    f"    meta nfproto ipv{version} {way}\n"
    for version in (4, 6)
    for way in (
        f"iifname . oifname @bridged{version} accept",
        f"iifname @strangers{version} oifname @beyond{version} goto closed",
        f"iifname @strangers{version} oifgroup {PLAIN_GROUP:#x} goto closed",
        f"iifgroup {PLAIN_GROUP:#x} oifname @beyond{version} goto closed",
        f"iifgroup {PLAIN_GROUP:#x} oifgroup @made{version} goto closed",
    )
)
# A frame to a group address of the bridge's own protocols (01:80:c2:00:00:0x, IEEE 802.1D table 7-10) is taken in by
# the host as one of the port itself (net/bridge/br_input.c), of which no rule about the bridge knows: packets of that
# kind are nobody's. What comes by links that pynet made on others' links (`entrance`) has a source to which the host's
# routes lead by that link; on a macvlan link of the host's own it has the MAC of a container as well. ipvlan in l2 mode
# hands over to its parent what is for the parent's addresses (drivers/net/ipvlan/ipvlan_core.c). Who comes by such a
# link shows in its kind, so an `Entrance` needs no element.
_CHAINS = (
    f"""
  chain traffic {{
{_COUNTING}  }}
  chain closed {{
    jump {USER}
    drop
  }}
  chain strangers {{
{_STRANGERS}  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifgroup {LINK_GROUP} iifname "pnh*" drop
    iifgroup {PLAIN_GROUP} goto entrance
    iifname != @links accept
    ip saddr 127.0.0.0/8 drop
    ip daddr 127.0.0.0/8 drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifgroup {LINK_GROUP} icmp type redirect drop
    iifgroup {LINK_GROUP} icmpv6 type nd-redirect drop
    iifname vmap @from
    iifname vmap @anti_spoof
    iifname @engine_closed meta l4proto . th dport @relayed drop
    ct status dnat iifname @links goto traffic
  }}"""
    + """
  chain entrance {
    meta iifkind "macvlan" iifname . ether saddr != @members drop
    ip saddr 0.0.0.0 drop
    fib saddr . iif oif exists accept
    meta iifkind "vlan" fib saddr oifname "pns*" accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    drop
  }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
    dnat ip to meta l4proto . th dport map @publish4
    dnat ip6 to meta l4proto . th dport map @publish6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr 127.0.0.0/8 return
    iifname != @links ip6 saddr fe80::/10 return
    meta nfproto ipv4 iifname . meta l4proto . th dport @isolated4 return
    meta nfproto ipv6 iifname . meta l4proto . th dport @isolated6 return
    iifname . ip daddr . meta l4proto . th dport @isolated4_at return
    iifname . ip6 daddr . meta l4proto . th dport @isolated6_at return
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
    ip saddr vmap @snat4
    ip6 saddr vmap @snat6
  }
  chain engine {
    oifname @engine_closed drop
    meta nfproto ipv4 oifname @engine_judged4 accept
    meta nfproto ipv6 oifname @engine_judged6 accept
    ct state established,related accept
    ct status dnat accept
    drop
  }
  chain entering {
    oifname != @links goto strangers
    ct status dnat jump traffic
    jump user
    iifname @engine_closed drop
    oifname vmap @into
    goto strangers
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    iifname != @links goto entering
    ct status dnat jump traffic
    jump user
    iifname vmap @from
    iifname vmap @anti_spoof
    oifname vmap @into
    oifname @engine_bridges goto engine
    iifname . ether saddr != @members goto strangers
  }
  chain sent {
    type filter hook output priority filter; policy accept;
    ct status dnat goto traffic
  }
"""
)

#: The chain that accepts packets from outside where `Crossing.admits` is "all".
_WORLD = "world"


def _declared(kind: str) -> str:
    return re.sub(r"^type (\w+)(?= *[:;])", lambda found: f"typeof {_TYPEOF[found[1]]}", kind)


def _declarations() -> list[str]:
    found = [f"map {name} {{ {_declared(kind)} }}" for name, kind in _MAPS.items()]
    found += [f"set {name} {{ {_declared(kind)} }}" for name, kind in _SETS.items()]
    for name, parts in _COUNTERS.items():
        found.append(f"set {name} {{ type {' . '.join(parts)}; size {_COUNTERS_SIZE}; flags dynamic; }}")
    return found


#: The table's maps and sets alone, and all of the table before there is any network.
DECLARATIONS = f"table {TABLE} {{\n" + "".join(f"  {line}\n" for line in _declarations()) + "}\n"
BARE = DECLARATIONS.removesuffix("}\n") + f"  chain {USER} {{ }}\n  chain {_WORLD} {{ }}{_CHAINS}}}\n"
#: What elements of maps and sets are of, counters included.
FORMS = {name: Form.declared(text) for name, text in (_MAPS | _SETS).items()} | {
    name: Form(parts) for name, parts in _COUNTERS.items()
}
BASE_CHAINS = frozenset({_WORLD, *re.findall(r"chain (\w+) {", _CHAINS)})


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
            case PortForward():
                _publish(result, intent)
            case OpenPort():
                key = f"{intent.address} . {intent.protocol} . {intent.port}"
                result.add_element(f"open{intent.address.version}", key)
            case Relaying():
                result.add_element("relayed", f"{intent.protocol} . {intent.host_port}")
            case Member():
                result.add_element("members", f'"{intent.link}" . {intent.mac}')
            case Strangers():
                _separate(result, intent)
            case Segment():
                _bound(result, intent)
            case Entrance() | Guard():
                pass  # who comes by a link shows in its kind; ports are guarded in `bridged`
            case _:
                assert_never(intent)
    return result


def chains(intents: Iterable[Intent]) -> set[str]:
    """Name the chains that intents bring."""
    return set(content(intent for intent in intents if isinstance(intent, Segment)).chains)


def render(intents: Iterable[Intent], bridges: EngineBridges) -> str:
    """Write the commands that make the whole table where there is none, but for what is the user's."""
    whole = content(intents)
    for name, links in _engine_sets(bridges).items():
        whole.elements[name] = dict.fromkeys(_quoted(links))
    lines = [line for name, rules in whole.chains.items() for line in _added(name, rules)]
    lines += _added_rules(_WORLD, _world(bridges))
    lines += [line for into in (*_MAPS, *_SETS) for line in _elements("add", into, whole.written(into))]
    return BARE + "".join(f"{line}\n" for line in lines)


def sizes(intents: Iterable[Intent], bridges: EngineBridges) -> dict[str, int]:
    """Count what `render` writes: rules by chain, elements by set and map, named as in `listed_sizes`."""
    whole = content(intents)
    found = {f"set {name}": len(whole.elements.get(name, {})) for name in (*_MAPS, *_SETS)}
    found |= {f"set {name}": len(links) for name, links in _engine_sets(bridges).items()}
    found[f"chain {_WORLD}"] = len(_world(bridges))
    found |= {f"chain {name}": len(rules) for name, rules in whole.chains.items()}
    for name, body in re.findall(r"chain (\w+) {(.*?)\n  }", _CHAINS, re.DOTALL):
        found[f"chain {name}"] = sum(not line.strip().startswith("type ") for line in body.strip().splitlines())
    return found


def listed_sizes(listed: Table) -> dict[str, int]:
    """Count rules and elements of a table that was read with its elements, named as in `sizes`."""
    found = {f"set {name}": size for name, (_, size) in listed.sets.items()}
    return found | {f"chain {name}": size for name, size in listed.chains.items()}


def removal(listed: Table, *, last: bool) -> str:
    """Write the commands that remove the table, but for the user's part of it.

    Args:
        listed: the table as it is.
        last: nothing comes in its place, so that a user's part without any rule goes too.
    """
    users = b"".join(rules for chain, rules in listed.rules.items() if chain.startswith(USER))
    if last and not users:
        return f"table {TABLE}\ndelete table {TABLE}\n"
    chains = [name for name in listed.chains if not name.startswith(USER)]
    sets = [name for name, (key, _) in listed.sets.items() if not name.startswith(USER)]
    if not last:
        sets = [name for name in sets if listed.sets[name][0] != _key_type(_COUNTERS.get(name, ()))]
    lines = [f"flush chain {TABLE} {name}" for name in chains]
    for kind, names in (("set", sets), ("chain", chains)):
        for name in names:
            # What the user's rules name cannot be deleted; it is emptied, and filled again.
            verb = "flush" if name.encode() + b"\0" in users else "delete"
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
            lines += _added(name, rules)
    return "".join(f"{line}\n" for line in lines + added)


def change_bridges(old: EngineBridges, new: EngineBridges) -> str:
    """Write the commands that update what is said of the engine's own bridges."""
    lines = []
    before, after = _engine_sets(old), _engine_sets(new)
    for name in before:
        lines += _elements("delete", name, _quoted(before[name] - after[name]))
        lines += _elements("add", name, _quoted(after[name] - before[name]))
    if _world(old) != _world(new):
        lines += [f"flush chain {TABLE} {_WORLD}", *_added_rules(_WORLD, _world(new))]
    return "".join(f"{line}\n" for line in lines)


def _engine_sets(bridges: EngineBridges) -> dict[str, frozenset[str]]:
    return {
        "engine_bridges": bridges.guarded,
        "engine_closed": bridges.closed,
        "engine_judged4": bridges.judged_in(4),
        "engine_judged6": bridges.judged_in(6),
    }


def _world(bridges: EngineBridges) -> list[str]:
    """Let in all, or all but other networks of containers."""
    return [*(f"iifname @{name} return" for name in ("links", "engine_bridges") if bridges.isolated), "accept"]


def forget(counted: Iterable[Counted]) -> str:
    """Write the command that forgets counters, such as those of ports that are not published any more."""
    elements: dict[str, list[str]] = {}
    for one in counted:
        key, which = _asked(IPAddress(one.asked), one.protocol, one.host_port)
        elements.setdefault(f"traffic{which}", []).append(f"{_WAYS[one.direction]} . {key} . {one.container}")
    return "".join(f"{line}\n" for into, keys in elements.items() for line in _elements("delete", into, keys))


def _publish(result: Content, one: PortForward) -> None:
    key, which = _asked(one.host_address, one.protocol, one.host_port)
    result.add_element(f"publish{which}", key, f"{one.address} . {one.port}")
    result.add_element(f"counted{which}", key)
    if one.but_from is not None:
        result.add_element(f"isolated{which}", f'"{one.but_from}" . {key}')


def _separate(result: Content, strangers: Strangers) -> None:
    for into, names in (
        (f"strangers{strangers.version}", strangers.links),
        (f"beyond{strangers.version}", (*strangers.links, *strangers.others)),
    ):
        for name in _quoted(names):
            result.add_element(into, name)
    if strangers.links:
        result.add_element(f"made{strangers.version}", str(PLAIN_GROUP))
    for name in _quoted(strangers.bridges):
        result.add_element(f"bridged{strangers.version}", f"{name} . {name}")


def _asked(address: IPAddress, protocol: str, port: int) -> tuple[str, str]:
    """Write what clients ask for as part of a key, and the ending of what is keyed by that."""
    key, which = f"{protocol} . {port}", f"{address.version}"
    return (f"{address} . {key}", f"{which}_at") if int(address) else (key, which)


def _bound(result: Content, segment: Segment) -> None:
    """Guard the edge of a network."""
    link = f'"{segment.link}"'
    to, snat = f"to_{segment.link}", f"snat_{segment.link}"
    among, beyond, others = [f"iifname {link} {'drop' if segment.isolated else 'accept'}"], ["drop"], []
    if segment.shared:
        beyond = [f"{_family(one.version)} daddr {one} drop" for one in segment.subnets]
        others = ["iifname . ether saddr != @members return"]
        if segment.isolated:
            isolated = [f"iifname . ether saddr @members {rule}" for rule in beyond]
            among = [*(f"iifname {link} {rule}" for rule in isolated), f"iifname {link} accept"]
    result.add_element("links", link)
    result.add_element("into", link, f"jump {to}")
    if segment.internal:
        result.chains[to] = [*among, *beyond]
        # Whatever conntrack remembers: an address may have been that of a container on another network.
        # On input, where there is no outgoing link, only this link's own addresses are let in, and there
        # not to ports that lead to containers of other networks.
        away = f"from_{segment.link}"
        hostless = [f"meta nfproto ipv{version} drop" for version in segment.hostless]
        local = "fib daddr . iif type { local, broadcast, multicast } return"
        relayed = "meta l4proto . th dport @relayed drop"
        result.chains[away] = [*others, f"oifname {link} return", *hostless, relayed, local, "drop"]
        result.add_element("from", link, f"jump {away}")
    if segment.anti_spoof and segment.subnets:
        anti_spoof = f"anti_spoof_{segment.link}"
        # What the kernel cannot assign to a flow it does not translate: it would leave as it is. On a link of others
        # a flow may come in another way than by this host.
        translates = not (segment.shared or segment.internal)
        translated = {one.version for one in segment.crossings if one.source is not None and translates}
        known = [
            f"{_family(one.version)} saddr {one} {'ct state != invalid ' if one.version in translated else ''}return"
            for one in segment.subnets
        ]
        result.chains[anti_spoof] = [
            *others,
            f"oifname {link} return",
            *known,
            *_NO_ADDRESS_YET,
            "ct state established,related return",
            "drop",
        ]
        result.add_element("anti_spoof", link, f"jump {anti_spoof}")
    if segment.internal:
        return
    admitted = ["ct state established,related accept", "ct status dnat accept", *among]
    # A published port reached from its own network: the answer has to come back through the host.
    left = [f"oifname {link} ct status dnat masquerade", f"oifname {link} return"]
    for one in segment.crossings:
        family = _family(one.version)
        is_open = f"{family} daddr . meta l4proto . th dport @open{one.version} accept"
        if one.admits == "all":
            admitted.append(f"meta nfproto ipv{one.version} jump {_WORLD}")
        elif one.admits == "open":
            admitted += [f"meta l4proto {_ICMP[one.version]} accept", is_open]
        elif segment.trusted:
            admitted.append(f"iifname {{ {', '.join(_quoted(segment.trusted))} }} {is_open}")
        if one.source is not None:
            source = "masquerade" if one.source == "link" else f"snat {family} to {one.source}"
            left.append(f"meta nfproto ipv{one.version} {source}")
    result.chains[to] = [*admitted, *beyond]
    result.chains[snat] = left
    for subnet in segment.subnets:
        result.add_element(f"snat{subnet.version}", str(subnet), f"jump {snat}")


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _added(chain: str, rules: Iterable[str]) -> list[str]:
    return [f"add chain {TABLE} {chain}", *_added_rules(chain, rules)]


def _added_rules(chain: str, rules: Iterable[str]) -> list[str]:
    return [f"add rule {TABLE} {chain} {rule}" for rule in rules]


def _key_type(parts: Iterable[str]) -> int:
    return functools.reduce(lambda number, part: number << 6 | _TYPES[part], parts, 0)


def _elements(verb: str, into: str, elements: list[str]) -> list[str]:
    return [f"{verb} element {TABLE} {into} {{ {', '.join(elements)} }}"] if elements else []


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]
