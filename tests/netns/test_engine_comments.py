"""Comments of others in DOCKER-USER are bytes: they hinder nothing, and pynet's own rules are told from them."""

import asyncio
import subprocess

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


def test_comments_that_are_no_utf8() -> None:
    """Shells pass on what they read."""
    with Namespace() as netns:
        inside(netns, rules_come_and_go_beside_latin1)
