"""Comments of others in DOCKER-USER: they hinder nothing, and pynet's own rules are told from theirs."""

import asyncio
import shlex
import subprocess

from netaddr import IPNetwork

from pynetdriver.firewall.engine import CHAIN, EngineChains
from tests.lab.netns import Namespace

from .inside import inside

COMMANDS = ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")
LATIN1 = "Straße".encode("latin-1")


def listed(command: str) -> list[bytes]:
    found = subprocess.run([command, "-S", CHAIN], check=True, capture_output=True).stdout.splitlines()
    return [line for line in found if line.startswith(b"-A")]


def rules_come_and_go_beside_latin1() -> None:
    async def scenario() -> None:
        chains = EngineChains()
        assert await chains.allow() and not await chains.lack({}) and not await chains.allow()
        for command in COMMANDS:
            theirs, *ours = listed(command)
            assert LATIN1 in theirs and len(ours) == 2
        await chains.disallow()
        assert [len(listed(command)) for command in COMMANDS] == [1] * 4

    for command in COMMANDS:
        subprocess.run([command, "-N", CHAIN], check=True)
        subprocess.run([command, "-A", CHAIN, "-m", "comment", "--comment", LATIN1, "-j", "ACCEPT"], check=True)
    asyncio.run(scenario())


#: What pynet writes for an adopted bridge, and has written since its version 0.1.
FORMER = ("-i br9 -o br9", "-s {} -i br9", "-d {} -o br9")
PYNETS = "-m comment --comment pynet -j ACCEPT"
#: Rules of an administrator that have something of this.
THEIRS = (
    "-i br9 -o br9 -m comment --comment pynet-mine -j ACCEPT",
    '-m comment --comment "pynet ban" -j DROP',
    "-m comment --comment pynet -j DROP",
    f"-i br9 {PYNETS}",
    f"-i br9 -o br8 {PYNETS}",
    f"-s {{}} -o br9 {PYNETS}",
    f"-p tcp -m tcp --dport 80 {PYNETS}",
    "-i br9 -o br9 -m comment --comment pynet -m conntrack --ctstate NEW -j ACCEPT",
)


def only_what_pynet_wrote_goes() -> None:
    async def scenario() -> None:
        chains = EngineChains()
        named = {"br0": (IPNetwork("10.9.0.0/24"), IPNetwork("fd00:9::/64"))}
        for _ in range(2):
            await chains.allow(named)
            for command in COMMANDS:
                found = [line.decode() for line in listed(command)]
                assert found[: len(THEIRS)] == theirs[command] and len(found) == len(THEIRS) + 5, (command, found)
                assert not any("br9" in line for line in found[len(THEIRS) :]), found
        await chains.disallow()
        assert {command: [line.decode() for line in listed(command)] for command in COMMANDS} == theirs

    theirs = {}
    for command in COMMANDS:
        subnet = "fd00:8::/64" if command.startswith("ip6") else "10.8.0.0/24"
        subprocess.run([command, "-N", CHAIN], check=True)
        for rule in THEIRS:
            subprocess.run([command, "-A", CHAIN, *shlex.split(rule.format(subnet))], check=True)
        theirs[command] = [line.decode() for line in listed(command)]
        for rule in FORMER:
            subprocess.run([command, "-A", CHAIN, *f"{rule.format(subnet)} {PYNETS}".split()], check=True)
    asyncio.run(scenario())


def forward(family: str) -> str:
    return subprocess.check_output(["nft", "list", "chain", family, "filter", "FORWARD"], text=True)


def append() -> None:
    subprocess.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"], check=True)


def bridges_are_closed_beside_a_native_rule() -> None:
    async def scenario() -> None:
        for _ in range(2):
            chains = EngineChains()
            for bridges in ({"br8", "br9"}, {"br8", "br9"}, {"br9"}, {"br9"}):
                await chains.close({4: bridges, 6: bridges})
                assert not await chains.is_open({4: bridges, 6: bridges})
                found = list(map(forward, ("ip", "ip6")))
                # The administrator's is one of them.
                assert [one.count("drop") for one in found] == [2 + len(bridges)] * 2, found
            append()
            assert await chains.is_open({4: {"br9"}})
            await chains.close({4: {"br9"}, 6: {"br9"}})
            assert not await chains.is_open({4: {"br9"}})
            await EngineChains().close({})
            await chains.allow()
            assert [len(listed(one)) for one in COMMANDS[::2]] == [2, 2]
        for one in ("ip", "ip6"):
            kept = forward(one)
            assert kept.count("drop") == 2 and "lan9" in kept, kept

    for command, family in zip(COMMANDS[::2], ("ip", "ip6"), strict=True):
        subprocess.run([command, "-N", CHAIN], check=True)
        theirs = "-A FORWARD -o lan9 -m comment --comment pynet -j DROP"
        subprocess.run([command, *theirs.split()], check=True)
        subprocess.run(
            ["nft", "-f", "-"],
            text=True,
            check=True,
            input=f"""
            add set {family} filter dyn {{ type {"ipv4_addr" if family == "ip" else "ipv6_addr"}; flags dynamic; }}
            add rule {family} filter FORWARD update @dyn {{ {family} saddr limit rate over 5/second }} drop
        """,
        )
    asyncio.run(scenario())


def test_a_native_rule_in_forward_hinders_nothing() -> None:
    """The iptables command lists no chain that has such a rule, but adds, checks and removes its own there."""
    with Namespace() as netns:
        inside(netns, bridges_are_closed_beside_a_native_rule)


def test_only_what_pynet_wrote_is_removed() -> None:
    """Rules of former networks go; those of others stay, whatever their comments begin with."""
    with Namespace() as netns:
        inside(netns, only_what_pynet_wrote_goes)


def test_comments_that_are_no_utf8() -> None:
    """Shells pass on what they read."""
    with Namespace() as netns:
        inside(netns, rules_come_and_go_beside_latin1)
