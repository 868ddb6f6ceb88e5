"""The two rules in DOCKER-USER: which rules are ours, and what is said when iptables cannot."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pynetdriver.errors import HostError
from pynetdriver.firewall.engine import CHAIN, EngineChains
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .inside import inside

COMMANDS = ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")
OURS = [f"-A {CHAIN} -m devgroup --{end}-group 0x706e -j ACCEPT" for end in ("dst", "src")]
THEIRS = [
    f"-A {CHAIN} -p tcp -m devgroup --src-group 0x706e -j ACCEPT",
    f"-A {CHAIN} -i lo -m devgroup --dst-group 0x706e -j ACCEPT",
    f"-A {CHAIN} -m devgroup --src-group 0x706e -m comment --comment mine -j ACCEPT",
]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_chain(command: str, *rules: str) -> None:
    run(command, "-N", CHAIN)
    for rule in rules:
        run(command, *rule.split())


def rules(command: str) -> list[str]:
    return [line for line in run(command, "-S", CHAIN).splitlines() if line.startswith("-A")]


def fake(command: str, script: str) -> None:
    """Put a command of that name before the real one, for the rest of this process."""
    folder = tempfile.mkdtemp(dir=os.environ["FOLDER"])
    (Path(folder) / command).write_text(f"#!/bin/sh\n{script}\n")
    (Path(folder) / command).chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def rules_come_and_go() -> None:
    async def scenario() -> None:
        chains = EngineChains()
        for _ in range(2):
            await chains.allow()
            for command in COMMANDS:
                found = rules(command)
                assert (found[:3], sorted(found[3:-1]), found[-1]) == (THEIRS, OURS, back), command
        for _ in range(2):
            await chains.disallow()
            assert [rules(command) for command in COMMANDS] == [[*THEIRS, back]] * 4

    back = f"-A {CHAIN} -j RETURN"
    for command in COMMANDS:
        make_chain(command, *THEIRS, back)
    asyncio.run(scenario())


def a_chain_that_is_not_there_has_no_rules() -> None:
    async def scenario() -> None:
        chains = EngineChains()
        await chains.allow()
        await chains.disallow()
        make_chain("iptables-nft")
        await chains.allow()
        assert sorted(rules("iptables-nft")) == OURS
        fake("iptables-nft", f"nft delete chain ip filter {CHAIN}; PATH=${{PATH#*:}}; exec iptables-nft $@")
        await chains.allow()

    # Other people's tables: in the legacy flavour these are told from the engine's by asking only.
    run("iptables-legacy", "-S", "FORWARD")
    run("iptables-nft", "-N", "THEIRS")
    asyncio.run(scenario())


def iptables_that_cannot_is_said() -> None:
    def said() -> str:
        for call in (EngineChains().allow, EngineChains().disallow):
            with pytest.raises(HostError) as caught:
                asyncio.run(call())
            assert "\n" not in str(caught.value)
        return str(caught.value)

    make_chain("iptables-nft", *OURS)
    path = os.environ["PATH"]
    os.environ["PATH"] = "/nonexistent"
    assert said().endswith("iptables-nft is missing; install the package iptables")
    os.environ["PATH"] = path
    busy = "Another app is currently holding the xtables lock"
    fake("iptables-nft", f"echo '{busy}; 4s' >&2; echo '{busy}. Stopped waiting after 5s.' >&2; exit 4")
    assert said() == f'"iptables-nft -S {CHAIN}" failed: {busy}. Stopped waiting after 5s.'
    fake("iptables-nft", "exit 3")
    assert said() == f'"iptables-nft -S {CHAIN}" failed: exit code 3'
    os.environ["PATH"] = path
    fake("iptables-nft", f'[ "$3" = -S ] && {{ echo "-N {CHAIN}"; exit; }}; echo "No." >&2; exit 1')
    with pytest.raises(HostError, match=rf'^"iptables-nft -I {CHAIN} 1 -m devgroup .* -j ACCEPT" failed: No\.$'):
        asyncio.run(EngineChains().allow())


def a_cancelled_call_leaves_no_process() -> None:
    async def scenario() -> None:
        fake("iptables-nft", f"echo $$ >{started}.new; mv {started}.new {started}; exec sleep 60")
        call = asyncio.ensure_future(EngineChains().allow())
        await asyncio.to_thread(eventually, started.exists)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not process_runs()

    def process_runs() -> bool:
        return Path(f"/proc/{int(started.read_text())}").exists()

    started = Path(os.environ["FOLDER"]) / "pid"
    make_chain("iptables-nft")
    asyncio.run(scenario())


@pytest.mark.parametrize(
    "experiment",
    [
        rules_come_and_go,
        a_chain_that_is_not_there_has_no_rules,
        iptables_that_cannot_is_said,
        a_cancelled_call_leaves_no_process,
    ],
)
def test_rules_in_the_engines_chain(
    experiment: Callable[[], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rules that are wholly ours are ours; what iptables cannot do is raised, and nothing of it stays."""
    monkeypatch.setenv("FOLDER", str(folder))
    with Namespace() as netns:
        inside(netns, experiment)
