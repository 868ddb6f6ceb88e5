"""Tables of others, with sets and maps of every kind that the newest nft writes, beside a daemon that does everything.

Versions of libnftables end the process over what newer ones wrote: whatever this machine's is, the daemon goes on.
"""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.firewall import Count, EngineBridges
from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
from pynetdriver.firewall.ruleset import _SETS, BARE, FORMS
from pynetdriver.model import Strangers
from pynetdriver.plan import Crossing, Member, OpenPort, Owner, PortForward, Relaying, Segment
from tests.lab import foreign
from tests.lab.command import CommandFailed
from tests.lab.netns import Namespace
from tests.lab.roots import RECIPES, ensure_root
from tests.lab.wait import eventually

from .ask import ask, asked, differences
from .host import NETWORK, OTHER, PROGRAM, REVOKE, Host, ids, network, port, program
from .inside import inside

TABLE = ("list", "table", "inet", "pynet")
DOCKER_USER = "add table ip filter; add chain ip filter DOCKER-USER; add set ip filter bans { type ipv4_addr; }"


def is_written(host: Host, *words: str) -> bool:
    """Tell whether pynet's table is whole, and says all of this."""
    listing = host.netns.run("nft", *TABLE, check=False)
    return all(word in listing for word in words) and differences(host) == []


def everything(host: Host) -> None:
    """Make and remove networks and ports, and have somebody damage the rules in between."""
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    host.attach(dual=True)
    host.ok(PROGRAM, program(2, port(8080), port(8081, 53, 17)))
    assert is_written(host, "tcp . 8080 : 10.9.0.2 . 80", "udp . 8081", "10.9.0.0/24 : jump", "fd00:9::/64 : jump")
    for damage in (
        "flush chain inet pynet forward",
        "delete element inet pynet publish4 { tcp . 8080 }",  # its revocation is a transaction that fails
        "delete table inet pynet",
    ):
        foreign.nft(host.netns, damage)
        eventually(lambda: is_written(host, "tcp . 8080 : 10.9.0.2 . 80"))
    assert asked(host, "status")["networks"] == 2
    assert "8080" in ask(host, "ports")
    ask(host, "reconcile")
    host.netns.run("nft", DOCKER_USER.partition(";")[0])
    foreign.nft(host.netns, DOCKER_USER)
    eventually(lambda: host.netns.run("iptables-nft", "-S", "DOCKER-USER", check=False).count("0x706e") == 2)
    found = {one["check"]: one["what"] for one in asked(host, "doctor", code=1)}
    assert "doctor" not in found, found
    host.ok(REVOKE, ids(2))
    host.ok("Leave", ids(2))
    host.ok("DeleteEndpoint", ids(2))
    host.ok("DeleteNetwork", {"NetworkID": OTHER})
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert "pynet" not in foreign.nft(host.netns, "list", "tables")
    foreign.nft(host.netns, "delete table ip filter")


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_the_daemon_goes_on(host: Host, firewall: str) -> None:
    """Whether they come before it starts or after."""
    pid = host.daemon.pid
    foreign.add_tables(host.netns)
    theirs = foreign.nft(host.netns, "list", "ruleset")
    if firewall == "iptables":
        host.ok("CreateNetwork", network())
        host.attach()
        host.ok(PROGRAM, program(2, port(8080)))
        host.restart("nftables")
        assert is_written(host, "8080")
        host.restart("iptables")
        assert "pynet" not in foreign.nft(host.netns, "list", "tables")
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    else:
        everything(host)
        assert host.daemon.pid == pid and host.daemon.log.count(" serving") == 1
        host.restart()
        everything(host)
    assert foreign.nft(host.netns, "list", "ruleset") == theirs


def table_of_everything() -> None:
    """Write rules of every kind that there is, so that each map and set but counters has an element."""
    v4, v6 = IPNetwork("10.9.0.0/24"), IPNetwork("fd00:9::/64")
    segments = [
        Segment(
            "pn-9f9f9f9f9f9f", (v4, v6), (Crossing(4, source="link"), Crossing(6)), anti_spoof=True, trusted=("a", "b")
        ),
        Segment("pn-8e8e8e8e8e8e", (IPNetwork("10.8.0.0/24"),), (), internal=True),
        Segment("vmbr0", (IPNetwork("10.7.0.0/24"),), (Crossing(4, source="link"),), shared=True, isolated=True),
    ]
    ports = [
        PortForward("tcp", IPAddress(asked), 8080, IPAddress(target), 80, but_from="pn-9f9f9f9f9f9f")
        for asked, target in (
            ("0.0.0.0", "10.9.0.2"),
            ("192.0.2.1", "10.9.0.2"),
            ("::", "fd00:9::2"),
            ("2001:db8::1", "fd00:9::2"),
        )
    ]
    others = [OpenPort("tcp", one.address, 80) for one in ports] + [Relaying("tcp", 8080)]
    member = Member("vmbr0", "02:11:22:33:44:55")
    strangers = [Strangers(version, ("eth0", "vmbr0"), bridges=("vmbr0",)) for version in (4, 6)]

    async def scenario() -> None:
        firewall = NftablesFirewall(Nftables())
        judged = frozenset({(4, "br0"), (6, "br0")})
        await firewall.set_engine_bridges(EngineBridges(frozenset({"docker0"}), frozenset({"docker0"}), judged))
        await firewall.set(Owner.network("everything"), [*segments, *ports, *others, member, *strangers])
        assert await firewall.differences() == []

    asyncio.run(scenario())
    for name in (one for one in FORMS if not one.startswith("traffic")):
        kind = "set" if name in _SETS else "map"
        listing = subprocess.run(["nft", "list", kind, "inet", "pynet", name], capture_output=True, text=True).stdout
        assert "elements" in listing, name


def table_of_an_older_pynet() -> None:
    """Write one whose sets are declared by their types alone, with a counter in it, and take it over."""
    older = BARE
    for by_expression, by_type in (("iifname", "ifname"), ("ip saddr", "ipv4_addr"), ("ip6 saddr", "ipv6_addr")):
        older = older.replace(f"typeof {by_expression}", f"type {by_type}")
    counter = "original . tcp . 8080 . 10.9.0.2 counter packets 1 bytes 2"
    older += f"add element inet pynet traffic4 {{ {counter} }}\n"
    subprocess.run(["nft", "-f", "-"], input=older, text=True, check=True)
    port = PortForward("tcp", IPAddress("0.0.0.0"), 8080, IPAddress("10.9.0.2"), 80)

    async def scenario() -> None:
        firewall = NftablesFirewall(Nftables())
        await firewall.reset({Owner.endpoint("1"): [port]})
        assert await firewall.differences() == []
        assert list((await firewall.traffic()).values()) == [Count(1, 2)]

    asyncio.run(scenario())
    listing = subprocess.run(["nft", *TABLE], capture_output=True, text=True, check=True).stdout
    assert "type ifname :" not in listing and "type ifname\n" not in listing and "typeof iifname :" in listing


def test_the_table_of_an_older_pynet_is_taken_over() -> None:
    with Namespace() as netns:
        inside(netns, table_of_an_older_pynet)


@pytest.mark.parametrize("engine", RECIPES)
def test_other_versions_of_nft_list_pynets_table(engine: str) -> None:
    """What this machine's library compiles is listed by older and newer ones, and so is what they read back."""
    with Namespace() as netns:
        inside(netns, table_of_everything)
        root = str(ensure_root(engine))
        listing = foreign.listed(root, netns)
        for words in (
            "typeof iifname : verdict",
            'elements = { "docker0" }',
            "10.9.0.0/24 : jump snat_pn-9f9f9f9f9f9f",
            '"vmbr0" . 02:11:22:33:44:55',
            "192.0.2.1 . tcp . 8080 : 10.9.0.2 . 80",
        ):
            assert words in listing
        netns.run("chroot", root, "nft", "-j", "list", "ruleset")


def test_the_tables_of_others_are_what_ends_older_versions() -> None:
    """Else these tests could not fail; with a machine whose own nft is new enough there is nothing to see."""
    with Namespace() as netns:
        foreign.add_tables(netns)
        if foreign.version(str(ensure_root("20.10"))).startswith("1.0."):
            with pytest.raises(CommandFailed):
                foreign.listed(str(ensure_root("20.10")), netns)
