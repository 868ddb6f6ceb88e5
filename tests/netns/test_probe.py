"""Asking a real LAN who holds an address; the asker is this process, in a thread that has entered the host."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from netaddr import IPAddress

import pynetdriver.lan.probe
from pynetdriver.errors import HostError
from pynetdriver.lan.conflicts import FRESH_S, Conflicts
from pynetdriver.lan.packet import PacketSocket
from pynetdriver.lan.probe import WITHIN_S, claim, holders, probe
from tests.lab import command
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually
from tests.unit.test_probe import Arp, Neighbour

T = TypeVar("T")

HELD = {4: IPAddress("192.0.2.2"), 6: IPAddress("2001:db8::2")}
FREE = {4: IPAddress("192.0.2.9"), 6: IPAddress("2001:db8::9")}
PREFIX = {4: 24, 6: 64}
NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
LIBC = ctypes.CDLL(None, use_errno=True)
#: Of a machine that is played by the test.
PLAYED = "02:00:00:00:00:77"
BYTES = bytes.fromhex(PLAYED.replace(":", ""))
#: An upper bound for what takes `WITHIN_S`, and half of what must not be waited for, on a machine that is busy.
SOON_S = 0.3


def within(netns: Namespace, work: Callable[[], T]) -> T:
    """Call it in a thread that has entered the namespace; its sockets stay there."""

    def enter() -> T:
        with netns.path.open() as file:
            if LIBC.setns(file.fileno(), NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def running(netns: Namespace, scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a loop in there."""
    return within(netns, lambda: asyncio.run(scenario()))


class Wire:
    """All frames at an end of a cable, to be counted, and to be answered by the test."""

    def __init__(self, netns: Namespace, link: str = "eth0") -> None:
        self.socket = within(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self.socket.bind((link, 3))
        self.socket.setblocking(False)

    async def probes(self) -> list[bytes]:
        """Return what was asked since the last call, address after address; not by this end itself."""
        await asyncio.sleep(0.05)  # the kernel hands frames over beside the sender
        asked = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self.socket.recvfrom(2048)
                asked += _target(frame) if kind != socket.PACKET_OUTGOING else []
        return asked

    async def answer(self, address: IPAddress, number: int, frame: bytes) -> None:
        """Send a frame at the given probe for an address, the first one being 1."""
        while number:
            number -= _target(await asyncio.get_running_loop().sock_recv(self.socket, 2048)) == [address.packed]
        self.socket.send(frame)


def _target(frame: bytes) -> list[bytes]:
    if frame[12:14] == b"\x08\x06" and frame[28:32] == bytes(4):
        return [frame[38:42]]
    return [frame[62:78]] if frame[12:14] == b"\x86\xdd" and frame[54:55] == b"\x87" else []


def answer(address: IPAddress) -> bytes:
    """Say that the played machine holds it."""
    if address.version == 4:
        return Arp(source=BYTES, to=b"\xff" * 6, mac=BYTES, sender=address.packed).frame()
    return Neighbour(source=BYTES, sender=address.packed, target=address.packed).frame()


def mac_of(netns: Namespace, link: str) -> str:
    words = netns.run("ip", "-o", "link", "show", "dev", link).split()
    return words[words.index("link/ether") + 1]


def attach(machine: Namespace, link: str, netns: Namespace, *addresses: str) -> None:
    """Connect another machine to the host, and wait until its kernel listens for IPv6 too."""
    connect(Plug(machine, link), Plug(netns, "eth0", addresses))
    routes = ("ip", "-6", "route", "show", "table", "local", "type", "multicast", "dev", "eth0")
    eventually(lambda: netns.run(*routes))


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """The host; its link has no address of any kind."""
    with Namespace() as netns:
        for which in ("all", "default"):
            netns.write_sysctl(f"net/ipv6/conf/{which}/disable_ipv6", "1")
        yield netns


@pytest.fixture
def neighbour(machine: Namespace) -> Iterator[Namespace]:
    """A machine at the other end of the host's cable."""
    with Namespace() as netns:
        attach(machine, "lan0", netns, *(f"{address}/{PREFIX[version]}" for version, address in HELD.items()))
        yield netns


@pytest.fixture
def wire(neighbour: Namespace) -> Iterator[Wire]:
    """The neighbour's end of the cable."""
    made = Wire(neighbour)
    with made.socket:
        yield made


@pytest.mark.parametrize("kind", ["cable", "bridge", "parent"])
def test_held_addresses_are_found(machine: Namespace, neighbour: Namespace, kind: str) -> None:
    """With the MAC of the right one, and no others, by IPv4 and IPv6 at once; the host has no address itself."""
    link, expected = "lan0", dict.fromkeys(HELD.values(), mac_of(neighbour, "eth0"))
    with contextlib.ExitStack() as stack:
        if kind == "bridge":
            link = "br0"
            other = stack.enter_context(Namespace())
            attach(machine, "lan1", other, "192.0.2.3/24", "2001:db8::3/64")
            machine.run("ip", "link", "add", "br0", "type", "bridge")
            for port in ("lan0", "lan1"):
                machine.run("ip", "link", "set", port, "master", "br0")
            machine.run("ip", "link", "set", "br0", "up")
            expected |= dict.fromkeys((IPAddress("192.0.2.3"), IPAddress("2001:db8::3")), mac_of(other, "eth0"))
        if kind == "parent":
            for port, mode in (("mv0", "bridge"), ("mv1", "private")):
                machine.run("ip", "link", "add", port, "link", "lan0", "type", "macvlan", "mode", mode)
                machine.run("ip", "link", "set", port, "up")
        begin = time.monotonic()
        assert running(machine, lambda: holders(link, [*FREE.values(), *expected])) == expected
        assert WITHIN_S <= time.monotonic() - begin < SOON_S
        begin = time.monotonic()
        assert running(machine, lambda: holders(link, list(expected), within_s=2 * SOON_S)) == expected
        assert time.monotonic() - begin < SOON_S


def test_hundreds_of_addresses_are_asked_for_at_once(machine: Namespace, neighbour: Namespace) -> None:
    """In the time that one takes, at least in one of three tries on a machine that is busy."""
    held = [IPAddress(f"{base}{number:x}" if ":" in base else f"{base}{number}") for base, number in _hundreds()]
    lines = "".join(f"address add {one}/{PREFIX[one.version]} dev eth0 nodad\n" for one in held)
    neighbour.run("ip", "-batch", "-", input=lines.replace(" nodad", "", 250))
    eventually(lambda: neighbour.run("cat", "/proc/net/igmp6").count("ff0200000000000000000001ff06") == 250)
    free = [IPAddress("10.7.0.0") + number for number in range(250)]
    expected = dict.fromkeys(held, mac_of(neighbour, "eth0"))
    for _ in range(3):
        begin = time.monotonic()
        found = running(machine, lambda: holders("lan0", [*free, *held]))
        took_s = time.monotonic() - begin
        if found == expected and WITHIN_S <= took_s < SOON_S:
            return
    assert (found, took_s) == (expected, WITHIN_S)


def _hundreds() -> list[tuple[str, int]]:
    return [("10.6.0.", number) for number in range(1, 251)] + [("2001:db8::6:", number) for number in range(1, 251)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_address_is_asked_for_three_times(machine: Namespace, wire: Wire, version: int, number: int) -> None:
    """Frames may be lost; who answers to a fourth probe only is not waited for."""

    async def scenario() -> dict[IPAddress, str]:
        answering = asyncio.create_task(wire.answer(FREE[version], number, answer(FREE[version])))
        found = await holders("lan0", [FREE[version], HELD[version]], within_s=2 * SOON_S)
        answering.cancel()
        return found

    assert (running(machine, scenario).get(FREE[version]) == PLAYED) == (number <= 3)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("whose", ["theirs", "own", "link"])
def test_who_asks_at_the_same_time_is_a_conflict(machine: Namespace, wire: Wire, version: int, whose: str) -> None:
    """Unless it is the container itself or the host, whose frames may come back."""
    mac = bytes.fromhex(mac_of(machine, "lan0").replace(":", "")) if whose == "link" else BYTES
    own = [PLAYED.upper()] if whose == "own" else []

    async def scenario() -> dict[IPAddress, str]:
        asking = asyncio.create_task(wire.answer(FREE[version], 1, probe(mac, FREE[version].packed)))
        found = await holders("lan0", [FREE[version]], own)
        await asking
        return found

    assert running(machine, scenario) == ({FREE[version]: PLAYED} if whose == "theirs" else {})


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("tag", "counts"), [(b"", True), (b"\x81\0\xe0\0", True), (b"\x81\0\0\5", False)])
def test_frames_of_another_vlan_say_nothing(
    machine: Namespace, wire: Wire, version: int, tag: bytes, counts: bool
) -> None:
    """A tag of VLAN 0 is a priority, and of this LAN (802.1Q)."""
    frame = answer(FREE[version])

    async def scenario() -> dict[IPAddress, str]:
        answering = asyncio.create_task(wire.answer(FREE[version], 1, frame[:12] + tag + frame[12:]))
        found = await holders("lan0", [FREE[version]])
        await answering
        return found

    assert running(machine, scenario) == ({FREE[version]: PLAYED} if counts else {})


def test_only_arp_and_neighbour_discovery_are_looked_at(
    machine: Namespace, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sorts out everything else, and what is malformed harms nothing."""
    heard = []

    def hear(frame: bytes, ours: set[bytes]) -> tuple[bytes, bytes] | None:
        heard.append(frame)
        return claim(frame, ours)

    monkeypatch.setattr(pynetdriver.lan.probe, "claim", hear)
    discovery = Neighbour(source=BYTES).frame()
    looked_at = [answer(HELD[4]), discovery, probe(BYTES, HELD[6].packed), answer(HELD[4])[:20], discovery[:55]]
    others = [
        b"\xff" * 6 + BYTES + b"\x08\0" + discovery[14:],
        discovery[:20] + b"\x11" + discovery[21:],
        discovery[:54] + b"\x80" + discovery[55:],
        discovery[:54],
        discovery[:14],
    ]

    async def scenario() -> dict[IPAddress, str]:
        asking = asyncio.create_task(holders("lan0", [FREE[4]]))
        await asyncio.sleep(0.02)
        for frame in others + looked_at:
            wire.socket.send(frame)
        return await asking

    assert running(machine, scenario) == {}
    assert [one for one in heard if one[6:12] == BYTES] == looked_at


def test_the_link_takes_in_the_groups_while_it_asks(machine: Namespace, neighbour: Namespace) -> None:
    """Those of all nodes and of each address, or all if there are many; none is left, also after a cancellation."""

    def groups() -> tuple[set[str], bool]:
        words = machine.run("ip", "maddress", "show", "dev", "lan0").split()
        return {word for word in words if word.startswith("33:33")}, "allmulti 1" in machine.run("ip", "-d", "link")

    machine.run("ip", "link", "set", "lan0", "mtu", "1200")  # too little for IPv6, which leaves its groups

    async def scenario() -> None:
        before = groups()
        assert before == (set(), False)
        for count, expected in (
            (3, ({"33:33:00:00:00:01", *(f"33:33:ff:00:01:0{one}" for one in range(3))}, False)),
            (40, (set(), True)),
        ):
            asked = [IPAddress("2001:db8::100") + number for number in range(count)]
            asking = asyncio.create_task(holders("lan0", asked, within_s=30))
            await asyncio.sleep(0.01)
            assert groups() == expected
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await asyncio.to_thread(eventually, lambda: groups() == before, 5)

    running(machine, scenario)


def _packet_sockets(machine: Namespace) -> int:
    return len(machine.run("cat", "/proc/net/packet").splitlines()) - 1


def test_nothing_is_left_open(machine: Namespace, wire: Wire) -> None:
    """After an answer, a refusal and a cancellation; and closing does not hold up the loop."""

    async def scenario() -> None:
        before = len(os.listdir("/proc/self/fd"))
        await holders("lan0", [*HELD.values(), *FREE.values()])
        with pytest.raises(HostError):
            await holders("lan7", [FREE[4]])
        asking = asyncio.create_task(holders("lan0", [FREE[4]], within_s=30))
        await asyncio.sleep(0.01)
        assert _packet_sockets(machine) > 0
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(eventually, lambda: len(os.listdir("/proc/self/fd")) <= before, 5)
        assert _packet_sockets(machine) == 0
        took = []
        for _ in range(5):
            packets = PacketSocket("lan0", [(6, 0, 0, 0)], lambda frame: None)
            begin = time.perf_counter()
            packets.close()
            took.append(time.perf_counter() - begin)
        assert min(took) < 0.003

    running(machine, scenario)


REFUSALS = {
    "gone": ("lan0", ["link", "delete", "lan0"], 'cannot listen on link "lan0": No such device'),
    "down": ("lan0", ["link", "set", "lan0", "down"], "the link is down"),
    "loopback": ("lo", ["link", "set", "lo", "up"], "the link is not of the Ethernet kind"),
    "link without ARP": ("lan0", ["link", "set", "lan0", "arp", "off"], ""),
    "tunnel": ("tun0", ["tuntap", "add", "tun0", "mode", "tun"], ""),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_why_nobody_can_be_asked_is_said(machine: Namespace, neighbour: Namespace, name: str) -> None:
    """At once and in one sentence; a link without neighbours has no conflicts either."""
    link, change, why = REFUSALS[name]
    machine.run("ip", *change)
    begin = time.monotonic()
    if why:
        with pytest.raises(HostError) as caught:
            running(machine, lambda: holders(link, [*FREE.values()], within_s=2 * SOON_S))
        assert str(caught.value) in (why, f'cannot ask on link "{link}" who holds an address: {why}')
    else:
        assert running(machine, lambda: holders(link, [*HELD.values()], within_s=2 * SOON_S)) == {}
    assert time.monotonic() - begin < SOON_S


def test_a_link_without_a_carrier_is_no_answer(machine: Namespace, neighbour: Namespace) -> None:
    """The cable may be plugged in while it is asked, so only the end tells."""
    neighbour.run("ip", "link", "set", "eth0", "down")
    eventually(lambda: "state DOWN" in machine.run("ip", "link", "show", "dev", "lan0"))
    with pytest.raises(HostError, match="holds an address: the link has no carrier"):
        running(machine, lambda: holders("lan0", [*HELD.values()]))

    async def scenario() -> dict[IPAddress, str]:
        asking = asyncio.create_task(holders("lan0", [HELD[4]], within_s=1.5))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(neighbour.run, "ip", "link", "set", "eth0", "up")
        return await asking

    assert running(machine, scenario) == {HELD[4]: mac_of(neighbour, "eth0")}


@pytest.mark.parametrize("change", [["delete", "lan0"], ["set", "lan0", "down"]])
def test_a_link_that_goes_while_it_is_asked_is_said(
    machine: Namespace, neighbour: Namespace, change: list[str]
) -> None:
    """Silence says nothing then."""

    async def scenario() -> None:
        asking = asyncio.create_task(holders("lan0", [*FREE.values()], within_s=0.3))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(command.run, "ip", "-n", machine.name, "link", *change)
        with pytest.raises(HostError, match=r'^cannot [^:]* on link "lan0": (Network is down|No such device.*)$'):
            await asking

    running(machine, scenario)


def test_what_was_asked_ahead_takes_no_packet(machine: Namespace, wire: Wire) -> None:
    """Until it is used or a minute has passed; askers at the same time share one probe."""
    now = 1000.0

    async def scenario() -> None:
        nonlocal now
        conflicts = Conflicts(lambda: now)
        held = await conflicts.ask_ahead("lan0", [*HELD.values(), *FREE.values()])
        assert set(held) == set(HELD.values())
        asked = await wire.probes()
        assert [asked.count(one.packed) for one in FREE.values()] == [3, 3]
        assert all(asked.count(one.packed) in (1, 2) for one in HELD.values())
        for address in FREE.values():
            begin = time.monotonic()
            assert await conflicts.holder("lan0", address, [PLAYED]) is None
            assert time.monotonic() - begin < 0.09
        assert await wire.probes() == []
        assert await conflicts.holder("lan0", HELD[6]) == held[HELD[6]]
        assert set(await wire.probes()) == {HELD[6].packed}
        conflicts.forget("lan0", FREE[4])
        assert await asyncio.gather(*(conflicts.holder("lan0", FREE[4]) for _ in range(9))) == [None] * 9
        assert await wire.probes() == [FREE[4].packed] * 3
        now += FRESH_S
        assert await conflicts.holder("lan0", FREE[6]) is None
        assert await wire.probes() == [FREE[6].packed] * 3

    running(machine, scenario)
