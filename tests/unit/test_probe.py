"""What is asked on the LAN about an address, which frames claim one, and what is remembered of it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress

from pynetdriver.errors import HostError
from pynetdriver.lan.conflicts import FRESH_S, MOST, Conflicts
from pynetdriver.lan.probe import announcement, claim, probe

OURS, THEIRS, INNER = (bytes.fromhex(f"0242c0a800{number}") for number in ("01", "02", "03"))
V4, V6 = IPAddress("192.0.2.7").packed, IPAddress("2001:db8::12:3456").packed
BROADCAST, ALL_NODES = b"\xff" * 6, bytes.fromhex("333300000001")
SOLICITED = IPAddress("ff02::1:ff12:3456").packed


def checksum(data: bytes) -> int:
    """Add up as RFC 1071 says, one 16-bit word after the other."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"))
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass
class Arp:
    source: bytes = THEIRS
    to: bytes = OURS
    head: bytes = bytes.fromhex("0001080006040002")
    mac: bytes = THEIRS
    sender: bytes = V4
    target: bytes = bytes(4)

    def frame(self) -> bytes:
        return self.to + self.source + b"\x08\x06" + self.head + self.mac + self.sender + bytes(6) + self.target


@dataclass
class Neighbour:
    kind: int = 136
    code: int = 0
    target: bytes = V6
    options: bytes = b""
    source: bytes = THEIRS
    sender: bytes = V6
    to: bytes = ALL_NODES
    ip: bytes = IPAddress("ff02::1").packed
    hops: int = 255
    version: int = 6
    missing: int = 0
    wrong: int = 0

    def frame(self) -> bytes:
        message = struct.pack("!BBHI", self.kind, self.code, 0, 0) + self.target + self.options
        ends = self.sender + self.ip
        summed = checksum(ends + struct.pack("!II", len(message), 58) + message) ^ self.wrong
        message = message[:2] + summed.to_bytes(2) + message[4:]
        header = struct.pack("!IHBB", self.version << 28, len(message) + self.missing, 58, self.hops)
        return self.to + self.source + b"\x86\xdd" + header + ends + message


PROBE = Arp(head=bytes.fromhex("0001080006040001"), to=BROADCAST, sender=bytes(4), target=V4)
DAD = Neighbour(kind=135, sender=bytes(16), ip=SOLICITED, to=bytes.fromhex("3333ff123456"))
MAC_OPTION = b"\2\1" + INNER


def test_an_ipv4_address_is_asked_for_with_a_probe() -> None:
    """RFC 5227 section 2.1.1: a broadcast request without a sender address."""
    assert probe(OURS, V4) == bytes.fromhex(
        f"ffffffffffff {OURS.hex()} 0806 0001 0800 06 04 0001 {OURS.hex()} 00000000 000000000000 c0000207"
    )


def test_an_ipv6_address_is_asked_for_as_in_duplicate_address_detection() -> None:
    """RFC 4862 section 5.4.2: from :: to the solicited-node group, without options, hop limit 255."""
    assert probe(OURS, V6) == replace(DAD, source=OURS).frame()


CLAIMS: dict[str, tuple[Arp | Neighbour, bytes, bytes]] = {
    "reply": (Arp(), V4, THEIRS),
    "request": (Arp(head=PROBE.head, target=IPAddress("192.0.2.1").packed, to=BROADCAST), V4, THEIRS),
    "announcement": (Arp(head=PROBE.head, target=V4, to=BROADCAST), V4, THEIRS),
    "reply through a repeater": (Arp(source=INNER), V4, THEIRS),
    "probe": (PROBE, V4, THEIRS),
    "advertisement": (Neighbour(), V6, THEIRS),
    "advertisement with a MAC": (Neighbour(options=b"\x0e\1nonce." + MAC_OPTION), V6, INNER),
    "duplicate address detection": (DAD, V6, THEIRS),
    "the same with a nonce": (replace(DAD, options=b"\x0e\1nonce."), V6, THEIRS),
}


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_an_announcement_claims_the_address_for_its_mac(address: str) -> None:
    """What is told of a container is what others would take for its claim."""
    packed, mac = IPAddress(address).packed, bytes.fromhex("025e00000007")
    assert claim(announcement(mac, packed)) == (packed, mac)


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("padding", [0, 18])
def test_a_claim_is_told_with_its_mac(name: str, padding: int) -> None:
    """Whoever uses an address or is about to is a conflict, padded to Ethernet's 60 bytes or not."""
    made, address, mac = CLAIMS[name]
    assert claim(made.frame() + bytes(padding)) == (address, mac)
    assert claim(made.frame(), {OURS}) == (address, mac)


@pytest.mark.parametrize("name", CLAIMS)
def test_what_is_ours_is_no_claim(name: str) -> None:
    """Neither by its Ethernet source nor by the MAC inside, which a repeater leaves as it is."""
    made, _, mac = CLAIMS[name]
    assert claim(made.frame(), {mac}) is None
    assert claim(made.frame(), {made.source}) is None


NO_CLAIMS: dict[str, Arp | Neighbour] = {
    "switch that tracks devices": replace(PROBE, to=OURS),
    "reply without a sender": Arp(sender=bytes(4), target=V4, to=BROADCAST),
    "other hardware": Arp(head=bytes.fromhex("0006080006040002")),
    "other protocol": Arp(head=bytes.fromhex("000186dd06040002")),
    "longer addresses": Arp(head=bytes.fromhex("0001080008040002")),
    "reverse request": Arp(head=bytes.fromhex("0001080006040003")),
    "resolution of a neighbour": replace(DAD, sender=IPAddress("2001:db8::1").packed),
    "solicitation of one node": replace(DAD, ip=V6),
    "routed": Neighbour(hops=254),
    "code": Neighbour(code=1),
    "wrong checksum": Neighbour(wrong=1),
    "other version": Neighbour(version=4),
    "option of length 0": Neighbour(options=b"\2\0" + INNER),
    "option that goes on behind the end": Neighbour(options=b"\2\2" + INNER),
    "half an option": Neighbour(options=b"\2"),
    "says it is longer": Neighbour(missing=8),
}


@pytest.mark.parametrize("name", NO_CLAIMS)
def test_what_claims_nothing_is_let_by(name: str) -> None:
    """What only asks, is invalid or came through a router says nothing."""
    assert claim(NO_CLAIMS[name].frame()) is None


@pytest.mark.parametrize("name", CLAIMS)
def test_a_frame_cut_short_claims_nothing(name: str) -> None:
    """Wherever it is cut."""
    frame = CLAIMS[name][0].frame()
    assert [size for size in range(len(frame)) if claim(frame[:size]) is not None] == []


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    """Nothing that arrives raises."""
    for frame in (data, bytes(12) + b"\x08\x06" + data, bytes(12) + b"\x86\xdd" + data):
        claim(frame)


@given(st.sampled_from(sorted(CLAIMS)), st.lists(st.tuples(st.integers(0, 93), st.integers(0, 255))), st.integers(0))
def test_damaged_frames_are_read(name: str, damage: list[tuple[int, int]], size: int) -> None:
    """A frame that was right but for some bytes claims what is in it, or nothing."""
    frame = bytearray(CLAIMS[name][0].frame())
    for at, value in damage:
        if at < len(frame):
            frame[at] = value
    claimed = claim(bytes(frame[: size % 120]))
    assert claimed is None or (claimed[0] in frame and claimed[1] in frame)


# Conflicts

LINK, ONE, OTHER = "lan0", IPAddress("192.0.2.7"), IPAddress("192.0.2.8")
MAC = "02:42:c0:a8:00:02"


@dataclass
class Lan:
    """Answers when told to, counts what it was asked, and keeps time."""

    held: dict[IPAddress, str] = field(default_factory=dict)
    asked: list[list[IPAddress]] = field(default_factory=list)
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False
    now: float = 1000
    going: int = 0

    def __post_init__(self) -> None:
        self.answer.set()

    async def ask(self, link: str, addresses: Collection[IPAddress], own: Collection[str]) -> dict[IPAddress, str]:
        self.asked.append(list(addresses))
        self.going += 1
        try:
            await self.answer.wait()
        finally:
            self.going -= 1
        if self.fails:
            raise HostError(f"no {link}")
        return {one: self.held[one] for one in addresses if one in self.held and self.held[one] not in own}

    def conflicts(self) -> Conflicts:
        return Conflicts(lambda: self.now, self.ask)


async def test_a_free_address_is_known_for_a_while() -> None:
    """Asked ahead or by the first who wants it; after that time, or on another link, it is asked for anew."""
    lan = Lan()
    conflicts = lan.conflicts()
    assert await conflicts.ask_ahead(LINK, [ONE, OTHER]) == {}
    assert await conflicts.holder(LINK, ONE, [MAC]) is None and await conflicts.holder(LINK, OTHER) is None
    assert lan.asked == [[ONE, OTHER]]
    lan.now += FRESH_S - 0.1
    assert await conflicts.holder(LINK, ONE) is None and len(lan.asked) == 1
    assert await conflicts.holder("lan1", ONE) is None and len(lan.asked) == 2
    lan.now += 0.1
    assert await conflicts.holder(LINK, ONE) is None and len(lan.asked) == 3
    assert await conflicts.holder(LINK, ONE) is None and len(lan.asked) == 3


async def test_a_held_address_is_asked_for_each_time() -> None:
    """Its holder may leave."""
    lan = Lan({ONE: MAC})
    conflicts = lan.conflicts()
    assert await conflicts.ask_ahead(LINK, [ONE, OTHER]) == {ONE: MAC}
    assert await conflicts.holder(LINK, ONE) == MAC
    lan.held.clear()
    assert await conflicts.holder(LINK, ONE) is None
    assert lan.asked == [[ONE, OTHER], [ONE], [ONE]]


async def test_a_used_address_is_asked_for_anew() -> None:
    """Also one that is forgotten while somebody waits for the answer, and only that one."""
    lan = Lan()
    conflicts = lan.conflicts()
    await conflicts.ask_ahead(LINK, [ONE])
    conflicts.forget(LINK, ONE)
    conflicts.forget(LINK, OTHER)
    lan.answer.clear()
    asking = asyncio.create_task(conflicts.ask_ahead(LINK, [ONE, OTHER]))
    await asyncio.sleep(0)
    conflicts.forget(LINK, ONE)
    lan.answer.set()
    assert await asking == {}
    lan.held = {ONE: MAC, OTHER: MAC}
    assert await conflicts.holder(LINK, ONE) == MAC and await conflicts.holder(LINK, OTHER) is None


async def test_askers_of_one_address_share_a_probe() -> None:
    """With one another and with who asks ahead; what is said of one's own MAC is another question."""
    lan = Lan({ONE: MAC})
    lan.answer.clear()
    conflicts = lan.conflicts()
    ahead = asyncio.create_task(conflicts.ask_ahead(LINK, [ONE, OTHER]))
    await asyncio.sleep(0)
    asking = [asyncio.create_task(conflicts.holder(LINK, address)) for address in (ONE, OTHER) for _ in range(5)]
    own = asyncio.create_task(conflicts.holder(LINK, ONE, [MAC.upper()]))
    await asyncio.sleep(0.01)
    assert lan.asked == [[ONE, OTHER]]
    lan.answer.set()
    assert await asyncio.gather(*asking) == [MAC] * 5 + [None] * 5
    assert await ahead == {ONE: MAC} and await own is None
    assert lan.asked == [[ONE, OTHER], [ONE]]
    # Free but for that MAC is not free for everybody.
    assert await conflicts.holder(LINK, ONE, [MAC]) is None and len(lan.asked) == 2
    assert await conflicts.holder(LINK, ONE) == MAC


async def test_a_cancelled_asker_leaves_the_others_their_answer() -> None:
    """The last one takes the probe along, and who comes then asks anew."""
    lan = Lan({ONE: MAC})
    lan.answer.clear()
    conflicts = lan.conflicts()
    first, second = (asyncio.create_task(conflicts.holder(LINK, ONE)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert lan.going == 1
    second.cancel()
    third = asyncio.create_task(conflicts.holder(LINK, ONE))
    await asyncio.sleep(0.01)
    assert lan.going == 1 and len(lan.asked) == 2
    lan.answer.set()
    assert await third == MAC
    assert first.cancelled() and second.cancelled()


async def test_a_failed_probe_is_told_and_not_remembered() -> None:
    """All who wait hear why."""
    lan = Lan(fails=True)
    lan.answer.clear()
    conflicts = lan.conflicts()
    asking = [asyncio.create_task(conflicts.holder(LINK, ONE)) for _ in range(2)]
    await asyncio.sleep(0.01)
    lan.answer.set()
    assert [str(one) for one in await asyncio.gather(*asking, return_exceptions=True)] == ["no lan0"] * 2
    lan.fails, lan.held = False, {ONE: MAC}
    assert await conflicts.holder(LINK, ONE) == MAC and len(lan.asked) == 2


async def test_memory_is_bounded() -> None:
    """The last ones are remembered, and old ones go when others come."""
    lan = Lan()
    conflicts = lan.conflicts()
    addresses = [IPAddress("10.0.0.0") + number for number in range(MOST + 100)]
    for start in range(0, len(addresses), 50):
        await conflicts.ask_ahead(LINK, addresses[start : start + 50])
    assert len(conflicts._free) == MOST
    count = len(lan.asked)
    await conflicts.holder(LINK, addresses[-1])
    assert len(lan.asked) == count
    await conflicts.holder(LINK, addresses[0])
    assert len(lan.asked) == count + 1
    lan.now += FRESH_S
    await conflicts.holder(LINK, ONE)
    assert len(conflicts._free) == 1 and not conflicts._questions
