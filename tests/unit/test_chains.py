"""The chains of legacy iptables as text; that the kernel takes them is seen in tests/netns."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from pynetdriver.firewall import EngineBridges, chains, ruleset
from pynetdriver.model import Strangers
from pynetdriver.plan import Crossing, Entrance, Intent, Member, OpenPort, PortForward, Relaying, Segment

LINK = "pn-0123456789ab"
SUBNETS = (IPNetwork("10.9.0.0/24"), IPNetwork("fd00:9::/64"))
#: Longest name of a chain (XT_EXTENSION_MAXNAMELEN with its end).
LONGEST = 28


def rendered(*intents: Intent, bridges: tuple[str, ...] = ()) -> dict[chains.Table, chains.Chains]:
    return chains.render([chains.content(intents)], EngineBridges(frozenset(bridges)))


def segment(**options: Any) -> Segment:
    crossings = options.pop("crossings", (Crossing(4, "published", "link"), Crossing(6, "published", "link")))
    return Segment(LINK, SUBNETS, crossings, **options)


def test_nothing_to_say_is_no_chain() -> None:
    """Without intents there is not even an empty chain, whatever bridges the engine has."""
    assert rendered(bridges=("docker0",)) == {}


def test_ports_of_one_address_come_before_those_of_all() -> None:
    """As in nftables, where one map is looked up before the other."""
    wildcard = PortForward("tcp", IPAddress("0.0.0.0"), 80, IPAddress("10.9.0.2"), 8080)
    addressed = PortForward("tcp", IPAddress("192.0.2.1"), 80, IPAddress("10.9.0.3"), 8080)
    six = PortForward("udp", IPAddress("::"), 53, IPAddress("fd00:9::2"), 53)
    tables = rendered(wildcard, addressed, six)
    assert tables[4, "nat"]["PYNET-PUBLISH"] == (
        "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.0.3:8080",
        "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.0.2:8080",
    )
    assert tables[6, "nat"]["PYNET-PUBLISH"] == ("-p udp -m udp --dport 53 -j DNAT --to-destination [fd00:9::2]:53",)


def test_an_internal_network_drops_before_anything_established_is_let_through() -> None:
    """Neither on the way out nor on the way in is a flow's past of any interest."""
    tables = rendered(segment(internal=True), Relaying("tcp", 80))
    for version in (4, 6):
        filtered = tables[version, "mangle"]
        assert filtered[f"PYNET-FROM-{LINK}"][-1] == filtered[f"PYNET-TO-{LINK}"][-1] == "-j DROP"
        assert "conntrack" not in str((filtered[f"PYNET-FROM-{LINK}"], filtered[f"PYNET-TO-{LINK}"]))
        assert filtered["PYNET-INPUT"][1:] == (f"-i {LINK} -j PYNET-FROM-{LINK}",)
        assert filtered["PYNET-EDGE"][:2] == ("-j PYNET-USER", f"-i {LINK} -j PYNET-FROM-{LINK}")
        assert filtered["PYNET-RELAYED"] == ("-p tcp -m tcp --dport 80 -j DROP",)
        assert f"PYNET-SNAT-{LINK}" not in tables[version, "nat"]


def test_what_is_let_through_goes_on_to_the_engines_rules() -> None:
    """No chain accepts: what is not dropped returns behind the jump in FORWARD, since all on its way are gotos."""
    tables = rendered(segment(crossings=(Crossing(4, "all"), Crossing(6, "open")), trusted=("eth0",)))
    for version in (4, 6):
        filtered = tables[version, "mangle"]
        assert "ACCEPT" not in str(filtered)
        assert all("-g PYNET-EDGE" in rule for rule in filtered["PYNET-FORWARD"][:-1])
        assert filtered["PYNET-FORWARD"][-1] == "-g PYNET-STRANGERS"
        assert f"-o {LINK} -g PYNET-TO-{LINK}" in filtered["PYNET-EDGE"]
    assert tables[4, "mangle"][f"PYNET-TO-{LINK}"][-2:] == ("-g PYNET-WORLD", "-j DROP")
    assert tables[6, "mangle"][f"PYNET-TO-{LINK}"][-2:] == ("-g PYNET-OPEN", "-j DROP")


def test_others_on_a_shared_link_are_let_alone() -> None:
    """What does not come from a container there, nor goes to its network's subnets, meets no drop."""
    member = Member(LINK, "02:42:0a:09:00:02")
    who = f"-i {LINK} -m mac --mac-source 02:42:0A:09:00:02"
    crossings = (Crossing(4, "all"), Crossing(6, "open"))
    guard = rendered(segment(shared=True, isolated=True, anti_spoof=True, crossings=crossings), member)[4, "mangle"]
    assert guard["PYNET-EDGE"][1] == f"{who} -j PYNET-SOURCE-{LINK}"
    assert guard["PYNET-ISOLATED"] == (f"{who} -j DROP",)
    assert guard[f"PYNET-TO-{LINK}"][1:] == (
        f"-d 10.9.0.0/24 -i {LINK} -g PYNET-ISOLATED",
        f"-i {LINK} -j RETURN",
        "-d 10.9.0.0/24 -g PYNET-WORLD",
        "-d 10.9.0.0/24 -j DROP",
        "-g PYNET-STRANGERS",
    )
    guard = rendered(segment(shared=True, internal=True), member)[4, "mangle"]
    assert guard["PYNET-INPUT"][1:] == (f"{who} -j PYNET-FROM-{LINK}",)
    assert guard[f"PYNET-TO-{LINK}"][-2:] == ("-d 10.9.0.0/24 -j DROP", "-g PYNET-STRANGERS")


def test_strangers_are_kept_apart_of_their_ip_version_alone() -> None:
    """By where packets come in and would leave; containers on a link of theirs go out, and bridges carry on."""
    member = Member("br0", "02:42:0a:09:00:02")
    strangers = Strangers(4, ("br0", "lan0"), others=("up0",), bridges=("br0",))
    tables = rendered(segment(), member, strangers)
    guard = tables[4, "mangle"]
    assert guard["PYNET-STRANGERS"][:3] == (
        "-i br0 -o br0 -j RETURN",
        "-i br0 -g PYNET-BEYOND",
        "-i lan0 -g PYNET-BEYOND",
    )
    assert guard["PYNET-BEYOND"][:3] == tuple(f"-o {one} -g PYNET-CLOSED" for one in ("br0", "lan0", "up0"))
    assert guard["PYNET-CLOSED"] == ("-j PYNET-USER", "-j DROP")
    assert guard["PYNET-EDGE"][-2:] == ("-i br0 -m mac --mac-source 02:42:0A:09:00:02 -j RETURN", "-g PYNET-STRANGERS")
    assert tables[6, "mangle"]["PYNET-STRANGERS"] == tables[6, "mangle"]["PYNET-BEYOND"] == ()


protocols, ports = st.sampled_from(["tcp", "udp", "sctp"]), st.integers(1, 65535)
addresses = {
    4: st.builds(IPAddress, st.integers(1, 2**32 - 1)),
    6: st.builds(IPAddress, st.integers(2**64, 2**128 - 1)),
}
links = st.sampled_from(["pn-0123456789ab", "br0", "a-bridge-of-15c"])


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    version = draw(st.sampled_from([4, 6]))
    match draw(st.integers(0, 6)):
        case 0:
            where = draw(st.one_of(st.just(IPAddress("0.0.0.0" if version == 4 else "::")), addresses[version]))
            but = draw(st.one_of(st.none(), links))
            return PortForward(draw(protocols), where, draw(ports), draw(addresses[version]), draw(ports), but)
        case 1:
            return OpenPort(draw(protocols), draw(addresses[version]), draw(ports))
        case 2:
            return Relaying(draw(protocols), draw(ports))
        case 3:
            return Member(draw(links), "02:42:0a:09:00:02")
        case 4:
            return Strangers(version, ("br0", "lan0"), ("up0",), ("br0",))
        case 5:
            return Entrance(draw(links), draw(st.sampled_from(["members", "link", "shims"])))
        case _:
            crossing = st.builds(
                Crossing,
                st.just(version),
                st.sampled_from(["published", "open", "all"]),
                st.one_of(st.none(), st.just("link"), addresses[version]),
            )
            flags = {name: draw(st.booleans()) for name in ("internal", "isolated", "anti_spoof", "shared")}
            trusted = ("eth0",) if draw(st.booleans()) else ()
            hostless = draw(st.sampled_from([(), (4,), (4, 6)]))
            return Segment(draw(links), SUBNETS, (draw(crossing),), **flags, trusted=trusted, hostless=hostless)


@given(st.lists(intents(), max_size=8))
def test_the_order_of_owners_is_of_no_matter_and_every_jump_has_an_end(several: list[Intent]) -> None:
    """So that tables that were changed bit by bit equal those that are written whole."""
    kept = {(type(one), one.link) if isinstance(one, Segment | Entrance) else one: one for one in several}
    one_a_link = list(kept.values())
    contents = [chains.content([one]) for one in one_a_link]
    docker0 = EngineBridges(frozenset({"docker0"}))
    tables = chains.render(contents, docker0)
    assert tables == chains.render(contents[::-1], docker0) == rendered(*one_a_link, bridges=("docker0",))
    for (_, name), found in tables.items():
        assert set(chains.JUMPS[name].values()) <= set(found)
        for chain, rules in found.items():
            assert chain == chains.USER or chains.MADE.fullmatch(chain)
            assert len(chain) <= LONGEST
            assert {rule.split()[-1] for rule in rules if " PYNET-" in rule} <= set(found)


def test_both_kinds_know_the_same_intents() -> None:
    """An intent that one kind leaves out would be a hole in it."""
    for one in (
        segment(),
        OpenPort("tcp", IPAddress("10.9.0.2"), 80),
        Relaying("tcp", 80),
        Member(LINK, "02:42:0a:09:00:02"),
        PortForward("tcp", IPAddress("::"), 80, IPAddress("fd00::2"), 80),
        Strangers(4, ("lan0",)),
    ):
        assert rendered(one) and ruleset.content([one]) != ruleset.Content()
