"""The chains PYNET-… of the legacy tables as text: a pure function of all intents, as `ruleset` is for nftables.

Rules read as iptables-save(8) writes them. Legacy tables have no maps, so there is a rule for every port and a
few for every network; but for their number they say what the table `inet pynet` says, chain by chain:

| chain | in nftables |
|---|---|
| PYNET-RAW | `raw` |
| PYNET-PREROUTING, PYNET-OUTPUT, PYNET-PUBLISH | `prerouting`, `output`, `publish` with its maps |
| PYNET-POSTROUTING, PYNET-SNAT-link | `postrouting`, `snat_link` |
| PYNET-FORWARD, PYNET-EDGE, PYNET-ENGINE | `forward`: which packets are ours, what becomes of them |
| PYNET-FROM-link, PYNET-SOURCE-link, PYNET-TO-link | `from_link`, `anti_spoof_link`, `to_link` |
| PYNET-OPEN, PYNET-RELAYED | the sets `open4` and `open6`, `relayed` |
| PYNET-ISOLATED | the set `members` |
| PYNET-PREROUTING of mangle, PYNET-BY-link, PYNET-ROUTED | `raw` and `entrance`, but for what is about 127/8 |
| PYNET-WORLD | `world` |
| PYNET-INPUT | `input` |
| PYNET-STRANGERS, PYNET-BEYOND, PYNET-CLOSED | `strangers`, `closed`: by where packets come in, and would go out |
| PYNET-USER | `user`: never written here, nor is any chain whose name begins so |

What is dropped stays dropped whatever the engine writes, and what is let through goes on to the engine's rules: as
the table of nftables goes before them, so does the table mangle. In the table filter the engine puts its jumps above
ours with every network that it makes. Chains are entered by goto, so that RETURN in the last of them lets through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from pynetdriver.firewall import EngineBridges
from pynetdriver.model import Strangers
from pynetdriver.names import LINK_GROUP, PLAIN_GROUP
from pynetdriver.plan import Entrance, Guard, Intent, Member, OpenPort, PortForward, Relaying, Segment, bracketed

#: The names of all that `render` writes but for the user's, for former networks too; any other chain is somebody's.
#: Version 0.2.0 wrote LEAVE for SNAT and APART for ISOLATED.
MADE = re.compile(
    r"PYNET-(RAW|PREROUTING|OUTPUT|PUBLISH|POSTROUTING|FORWARD|EDGE|ENGINE|WORLD|ISOLATED|APART|RELAYED|OPEN|INPUT|ROUTED"
    r"|STRANGERS|BEYOND|CLOSED|(SNAT|LEAVE|FROM|SOURCE|TO|BY)-\S+)"
)
#: Begins the names of all that belongs to the administrator; the chain of just this name is consulted first.
USER = "PYNET-USER"
#: Has a rule for each link that strangers do not reach.
BEYOND = "PYNET-BEYOND"

#: Where our chains are jumped to from, by table.
JUMPS = {
    "raw": {"PREROUTING": "PYNET-RAW"},
    "nat": {"PREROUTING": "PYNET-PREROUTING", "OUTPUT": "PYNET-OUTPUT", "POSTROUTING": "PYNET-POSTROUTING"},
    "mangle": {"PREROUTING": "PYNET-PREROUTING", "FORWARD": "PYNET-FORWARD", "INPUT": "PYNET-INPUT"},
}
#: Where the jump has to be the first rule: what is dropped there must not be let through before.
FIRST = {("raw", "PREROUTING"), *(("mangle", place) for place in JUMPS["mangle"])}

_LOCAL = "-m addrtype --dst-type LOCAL"
_HERE = {4: ("LOCAL", "BROADCAST", "MULTICAST"), 6: ("LOCAL", "MULTICAST")}
_KNOWN = "-m conntrack --ctstate RELATED,ESTABLISHED"
_LOST = "-m conntrack --ctstate INVALID"
_TRANSLATED = "-m conntrack --ctstate DNAT"
_KNOWN_OR_TRANSLATED = "-m conntrack --ctstate RELATED,ESTABLISHED,DNAT"
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
_OURS_BY_GROUP = f"-m devgroup --src-group {LINK_GROUP:#x}"
_REDIRECT = {4: "-p icmp -m icmp --icmp-type 5", 6: "-p ipv6-icmp -m icmp6 --icmpv6-type 137"}
#: See `ruleset`.
_NO_ADDRESS_YET = {4: ("-s 0.0.0.0/32 -j RETURN",), 6: ("-s ::/128 -j RETURN", "-s fe80::/10 -j RETURN")}
_ROUTED = {
    4: ("-s 0.0.0.0/32 -j DROP", "-m rpfilter -j RETURN", "-j DROP"),
    6: (
        "-m rpfilter -j RETURN",
        *(f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in (135, 136)),
        "-j DROP",
    ),
}
_HOST = {4: 32, 6: 128}

#: IP version and name of a table.
Table = tuple[int, str]
#: Rules by chain.
Chains = dict[str, tuple[str, ...]]


@dataclass
class Content:
    """What intents put into the tables; rules for the chains that networks share are kept by chain and version."""

    links: set[str] = field(default_factory=set)
    internal: set[str] = field(default_factory=set)
    anti_spoof: set[str] = field(default_factory=set)
    #: Links that others use too, and what comes from containers there.
    mixed: set[str] = field(default_factory=set)
    members: dict[str, set[str]] = field(default_factory=dict)
    #: Links on others' links, and whether who comes by one has to be a member.
    entrances: dict[str, bool] = field(default_factory=dict)
    shared: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    strangers: dict[int, Strangers] = field(default_factory=dict)
    own: dict[Table, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    def share(self, chain: str, version: int, rule: str) -> None:
        """Add a rule to a chain of all networks."""
        self.shared.setdefault((chain, version), set()).add(rule)


def content(intents: Iterable[Intent]) -> Content:
    """Say what intents come to."""
    result = Content()
    for intent in intents:
        match intent:
            case PortForward():
                _publish(result, intent)
            case OpenPort():
                where = f"-d {intent.address}/{_HOST[intent.address.version]}"
                rule = f"{where} {_port(intent.protocol, intent.port)} -j RETURN"
                result.share("open", intent.address.version, rule)
            case Relaying():
                for version in (4, 6):
                    result.share("relayed", version, f"{_port(intent.protocol, intent.host_port)} -j DROP")
            case Member():
                who = f"-i {intent.link} -m mac --mac-source {intent.mac.upper()}"
                result.members.setdefault(intent.link, set()).add(who)
            case Entrance(admits="members" | "link"):  # of another link these tables do not know whom it leads to
                result.entrances[intent.link] = intent.admits == "members"
            case Segment():
                _bound(result, intent)
            case Strangers():
                result.strangers[intent.version] = intent
            case Entrance() | Guard():
                pass  # ports are guarded in `bridged`
            case _:
                assert_never(intent)
    return result


def render(contents: Iterable[Content], bridges: EngineBridges) -> dict[Table, Chains]:
    """Write all chains of all tables; empty if there is nothing to say."""
    whole = Content()
    for one in contents:
        whole.links |= one.links
        whole.internal |= one.internal
        whole.anti_spoof |= one.anti_spoof
        whole.mixed |= one.mixed
        whole.entrances.update(one.entrances)
        for link, found in one.members.items():
            whole.members.setdefault(link, set()).update(found)
        whole.strangers |= one.strangers
        for key, rules in one.shared.items():
            whole.shared.setdefault(key, set()).update(rules)
        for table, chains in one.own.items():
            whole.own.setdefault(table, {}).update(chains)
    if not (whole.links or whole.shared or whole.members or whole.entrances or whole.strangers):
        return {}
    tables: dict[Table, Chains] = {(4, "raw"): _raw(whole)}
    for version in (4, 6):
        tables[version, "nat"] = _nat(whole, version)
        tables[version, "mangle"] = _guard(whole, version, bridges) | _entrances(whole, version)
    for table, chains in whole.own.items():
        tables[table].update(chains)
    return tables


def written(chains: Mapping[str, Iterable[str]], table: str) -> str:
    """Write the chains of a table, and the jumps to them, for iptables-restore(8)."""
    lines = [f"*{table}", *(f":{name} - [0:0]" for name in chains)]
    lines += [f"-A {place} -j {chain}" for place, chain in JUMPS[table].items()]
    lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join([*lines, "COMMIT\n"])


def _raw(whole: Content) -> Chains:
    links = sorted(whole.links)
    return {"PYNET-RAW": tuple(f"{flag} 127.0.0.0/8 -i {link} -j DROP" for link in links for flag in ("-s", "-d"))}


def _nat(whole: Content, version: int) -> Chains:
    publish = f"{_LOCAL} -j PYNET-PUBLISH"
    # Why these are left alone: see `ruleset`.
    kept: tuple[str, ...] = ("-d 127.0.0.0/8 -j RETURN",)
    left_alone: tuple[str, ...] = ()
    links = sorted(whole.links)
    own = [f"-s 127.0.0.0/8 -o {link} -j MASQUERADE" for link in links] if version == 4 else []
    if version == 6:
        kept = (*(f"-s fe80::/10 -i {link} {publish}" for link in links), "-s fe80::/10 -j RETURN")
        left_alone = ("-d ::1/128 -j RETURN", "-s fe80::/10 -j RETURN")
    return {
        # Rules with an address begin with -d, so they come before those without.
        "PYNET-PUBLISH": _sorted(whole, "publish", version),
        "PYNET-PREROUTING": (*_sorted(whole, "untranslated", version), *kept, publish),
        "PYNET-OUTPUT": (*left_alone, publish),
        "PYNET-POSTROUTING": (*own, *_sorted(whole, "snat", version)),
    }


def _guard(whole: Content, version: int, bridges: EngineBridges) -> Chains:
    links, closed = sorted(whole.links), sorted(bridges.closed)
    strangers = whole.strangers.get(version, Strangers(version, ()))
    away = tuple(f"{who} -j PYNET-FROM-{link}" for link in sorted(whole.internal) for who in _containers(whole, link))
    anti_spoof = tuple(
        f"{who} -j PYNET-SOURCE-{link}" for link in sorted(whole.anti_spoof) for who in _containers(whole, link)
    )
    return {
        USER: (),
        "PYNET-FORWARD": (
            *(f"{flag} {link} -g PYNET-EDGE" for link in links for flag in ("-i", "-o")),
            "-g PYNET-STRANGERS",
        ),
        "PYNET-EDGE": (
            f"-j {USER}",
            *(f"{flag} {bridge} -j DROP" for bridge in closed for flag in ("-i", "-o")),
            *away,
            *anti_spoof,
            *(f"-o {link} -g PYNET-TO-{link}" for link in links),
            # All packets in this chain come in by one of pynet's links.
            *(f"-o {bridge} -g PYNET-ENGINE" for bridge in sorted(bridges.guarded)),
            *(f"{who} -j RETURN" for link in strangers.links for who in sorted(whole.members.get(link, ()))),
            "-g PYNET-STRANGERS",
        ),
        **_separate(strangers),
        "PYNET-ENGINE": (
            *(f"-o {bridge} -j RETURN" for bridge in sorted(bridges.judged_in(version))),
            f"{_KNOWN_OR_TRANSLATED} -j RETURN",
            "-j DROP",
        ),
        "PYNET-WORLD": (
            *(f"-i {link} -j DROP" for link in [*links, *sorted(bridges.guarded)] if bridges.isolated),
            "-j RETURN",
        ),
        "PYNET-ISOLATED": tuple(f"{who} -j DROP" for link in sorted(whole.mixed) for who in _containers(whole, link)),
        "PYNET-RELAYED": _sorted(whole, "relayed", version),
        "PYNET-OPEN": (*_sorted(whole, "open", version), "-j DROP"),
        "PYNET-INPUT": (
            f"{_REDIRECT[version]} {_OURS_BY_GROUP} -j DROP",
            *away,
            *anti_spoof,
            *(f"-i {bridge} -j PYNET-RELAYED" for bridge in closed),
        ),
    }


def _separate(strangers: Strangers) -> Chains:
    """Keep apart what the host did not route between, and what pynet made on such links; see `ruleset`."""
    ours = f"-m devgroup --{{}}-group {PLAIN_GROUP:#x}"
    beyond = [f"-o {link} -g PYNET-CLOSED" for link in (*strangers.links, *strangers.others)]
    made = [f"{ours.format('dst')} -g PYNET-CLOSED"] if strangers.links else []
    return {
        "PYNET-STRANGERS": (
            *(f"-i {bridge} -o {bridge} -j RETURN" for bridge in strangers.bridges if bridge[-1] != "+"),
            *(f"-i {link} -g {BEYOND}" for link in strangers.links),
            *(f"{ours.format('src')} {rule}" for rule in beyond),
            *(f"-m devgroup --src-group {PLAIN_GROUP:#x} --dst-group {PLAIN_GROUP:#x} -g PYNET-CLOSED" for _ in made),
        ),
        BEYOND: (*beyond, *made),
        "PYNET-CLOSED": (f"-j {USER}", "-j DROP"),
    }


def _entrances(whole: Content, version: int) -> Chains:
    """Guard what packets come by that no rule about a bridge knows; see `ruleset`."""
    found: Chains = {"PYNET-ROUTED": _ROUTED[version]}
    for link, members in whole.entrances.items():
        who = sorted(whole.members.get(link, ())) if members else [f"-i {link}"]
        found[f"PYNET-BY-{link}"] = (*(f"{one} -g PYNET-ROUTED" for one in who), "-j DROP")
    ways = (f"-i {link} -g PYNET-BY-{link}" for link in sorted(whole.entrances))
    return {**found, "PYNET-PREROUTING": (f"-i pnh+ {_OURS_BY_GROUP} -j DROP", *ways)}


def _containers(whole: Content, link: str) -> list[str]:
    """Match what comes from containers on a link."""
    return sorted(whole.members.get(link, ())) if link in whole.mixed else [f"-i {link}"]


def _sorted(whole: Content, chain: str, version: int) -> tuple[str, ...]:
    return tuple(sorted(whole.shared.get((chain, version), ())))


def _publish(result: Content, one: PortForward) -> None:
    version = one.host_address.version
    where = f"-d {one.host_address}/{_HOST[version]} " if int(one.host_address) else ""
    port = _port(one.protocol, one.host_port)
    result.share("publish", version, f"{where}{port} -j DNAT --to-destination {bracketed(one.address)}:{one.port}")
    if one.but_from is not None:
        result.share("untranslated", version, f"{where}-i {one.but_from} {port} -j RETURN")


def _port(protocol: str, number: int) -> str:
    return f"-p {protocol} -m {protocol} --dport {number}"


def _bound(result: Content, segment: Segment) -> None:
    """Guard the edge of a network."""
    link = segment.link
    result.links.add(link)
    if segment.shared:
        result.mixed.add(link)
    for version in (4, 6):
        subnets = [one for one in segment.subnets if one.version == version]
        # On a link that others use too, pynet decides about packets to the network's subnets only.
        into = [f"-d {one} " for one in subnets] if segment.shared else [""]
        beyond = [f"{one}-j DROP" for one in into]
        others = ["-g PYNET-STRANGERS"] if segment.shared else []
        among = [f"-i {link} -j {'DROP' if segment.isolated else 'RETURN'}"]
        if segment.shared and segment.isolated:
            among = [*(f"{one}-i {link} -g PYNET-ISOLATED" for one in into), f"-i {link} -j RETURN"]
        guard = result.own.setdefault((version, "mangle"), {})
        if segment.internal:
            result.internal.add(link)
            guard[f"PYNET-TO-{link}"] = (*among, *beyond, *others)
            # Whatever conntrack remembers: an address may have been that of a container on another network.
            # On input, where there is no outgoing link, only this link's own addresses are let in, and there
            # not to ports that lead to containers of other networks.
            local = [f"-m addrtype --dst-type {kind} --limit-iface-in -j RETURN" for kind in _HERE[version]]
            here = [] if version in segment.hostless else ["-j PYNET-RELAYED", *local]
            guard[f"PYNET-FROM-{link}"] = (f"-o {link} -j RETURN", *here, "-j DROP")
        if segment.anti_spoof and segment.subnets:
            result.anti_spoof.add(link)
            known = (f"-s {one} -j RETURN" for one in subnets)
            # What the kernel cannot assign to a flow it does not translate: see `ruleset`.
            is_translated = any(one.version == version and one.source is not None for one in segment.crossings)
            lost = (f"{_LOST} -j DROP",) if is_translated and not (segment.shared or segment.internal) else ()
            end = (*_NO_ADDRESS_YET[version], f"{_KNOWN} -j RETURN", "-j DROP")
            guard[f"PYNET-SOURCE-{link}"] = (f"-o {link} -j RETURN", *lost, *known, *end)
        if segment.internal:
            continue
        admitted = [f"{_KNOWN_OR_TRANSLATED} -j RETURN", *among]
        # A published port reached from its own network: the answer has to come back through the host.
        left = [f"-o {link} {_TRANSLATED} -j MASQUERADE", f"-o {link} -j RETURN"]
        for crossing in segment.crossings:
            if crossing.version != version:
                continue
            if crossing.admits == "all":
                admitted += [f"{one}-g PYNET-WORLD" for one in into]
            elif crossing.admits == "open":
                admitted += [f"-p {_ICMP[version]} -j RETURN", *(f"{one}-g PYNET-OPEN" for one in into)]
            else:
                admitted += [f"{one}-i {trusted} -g PYNET-OPEN" for trusted in sorted(segment.trusted) for one in into]
            if crossing.source == "link":
                left.append("-j MASQUERADE")
            elif crossing.source is not None:
                left.append(f"-j SNAT --to-source {crossing.source}")
        guard[f"PYNET-TO-{link}"] = (*admitted, *beyond, *others)
        if subnets:
            result.own.setdefault((version, "nat"), {})[f"PYNET-SNAT-{link}"] = tuple(left)
        for subnet in subnets:
            result.share("snat", version, f"-s {subnet} -j PYNET-SNAT-{link}")
