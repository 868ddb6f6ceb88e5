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


def test_only_what_pynet_wrote_is_removed() -> None:
    """Rules of former networks go; those of others stay, whatever their comments begin with."""
    with Namespace() as netns:
        inside(netns, only_what_pynet_wrote_goes)


def test_comments_that_are_no_utf8() -> None:
    """Shells pass on what they read."""
    with Namespace() as netns:
        inside(netns, rules_come_and_go_beside_latin1)
