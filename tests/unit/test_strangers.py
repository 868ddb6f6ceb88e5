"""Links that come, bridges that become the engine's, and a disk that is full, while strangers are kept apart."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pynetdriver.errors import HostError
from pynetdriver.firewall import EngineBridges
from pynetdriver.kernel import settings
from pynetdriver.model import Setting, Strangers, encode
from pynetdriver.plan import Owner
from pynetdriver.state import switches
from pynetdriver.state.switches import Switches

PATHS = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}


class Around:
    """What switches have about them, as far as strangers go; each part may fail."""

    def __init__(self, strangers: bool = True) -> None:
        self.failing: set[str] = set()
        self.stored: dict[str, bytes] = {}
        self.guard: dict[Owner, Any] = {}
        self.closings = 0
        for version, path in PATHS.items():
            found = Strangers(version, ("br0", "lan1"), bridges=("br0",)) if strangers else None
            one = Setting(path=path, version=version, former="0", value="1", boot=settings.boot_id(), strangers=found)
            self.stored[path] = encode(one)
        self.bridges = SimpleNamespace(found=EngineBridges())
        firewall = SimpleNamespace(set=self._set, kept_apart=list)
        kernel: Any = SimpleNamespace(bridges=self.bridges, firewall=firewall)
        store: Any = SimpleNamespace(write=self._write, load=lambda _: self.stored)
        chains: Any = SimpleNamespace(close=self._close)
        self.switches = Switches(store, kernel, chains)
        self.switches.restore()

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise HostError(what)

    def _write(self, change: Any) -> None:
        self._fail("store")
        self.stored[change.key] = change.data

    async def _set(self, owner: Owner, intents: Any) -> None:
        self._fail(str(owner))
        self.guard[owner] = intents

    async def _close(self, bridges: Any) -> None:
        self.closings += 1
        self._fail("close")

    def links(self) -> list[tuple[str, ...]]:
        return [one.links for owner in sorted(self.guard) for one in self.guard[owner]]


@pytest.mark.parametrize("failing", ["", "store", "forwarding:4", "close"])
def test_hardware_that_comes_is_a_stranger_whatever_fails_meanwhile(failing: str) -> None:
    """Of both IP versions, at once where it can be and at the next try where not; and stored."""

    async def scenario() -> None:
        around = Around()
        around.failing = {failing}
        try:
            await around.switches.add_strangers({"lan9", "veth9"}, lambda _: {"lan9"})
        except HostError as error:
            assert str(error) == failing
        else:
            assert not failing
        new = ("br0", "lan1", "lan9")
        assert around.links() == [new] * (1 if failing == "forwarding:4" else 2) and around.closings == 1
        around.failing = set()
        await around.switches.add_strangers({"lan9", "veth9"}, lambda _: {"lan9"})
        assert around.links() == [new] * 2
        assert all(b"lan9" in one and b"veth9" not in one for one in around.stored.values())

    asyncio.run(scenario())


def test_a_bridge_that_becomes_the_engines_is_no_stranger() -> None:
    """As long as it is the engine's."""

    async def scenario() -> None:
        around = Around()
        around.bridges.found = EngineBridges(frozenset({"br0"}))
        await around.switches.follow_engine_bridges()
        assert around.links() == [("lan1",)] * 2 and around.closings == 1
        assert all(one.bridges == () for (one,) in around.guard.values())
        around.bridges.found = EngineBridges()
        await around.switches.follow_engine_bridges()
        assert around.links() == [("br0", "lan1")] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize("failing", ["store", "kernel", "kept"])
def test_a_guess_ends_no_start(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in force though the disk is full; a kernel that does not answer is logged."""

    def likely(version: int, *_: object) -> Strangers:
        around._fail("kernel")
        return Strangers(version, ("lan1",))

    around = Around(strangers=False)
    around.failing = {failing}
    monkeypatch.setattr(switches, "likely_strangers", likely)
    asyncio.run(around.switches.guess_strangers(lost=True))
    assert len(around.switches.strangers) == (0 if failing == "kernel" else 2)
