"""What DHCP messages say, and what becomes of those that say nothing sensible."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from pynetdriver.lan.dhcp import DhcpClient, messages
from pynetdriver.lan.dhcp.messages import Kind, Reply, lease_of, parsed
from pynetdriver.model import DhcpLease, decode, encode

CLIENT = DhcpClient("eth0", "02:42:00:00:00:05", b"\xff\0\0\0\1\0\2abc", "web")
SERVER, SERVER_MAC = IPAddress("192.0.2.1"), "02:42:00:00:00:01"
XID = 0xDEADBEEF
LEASE = DhcpLease(
    address=IPNetwork("192.0.2.50/24"),
    server=SERVER,
    server_mac=SERVER_MAC,
    obtained=1.5,
    gateway=IPAddress("192.0.2.254"),
    routes=((IPNetwork("10.0.0.0/8"), IPAddress("192.0.2.7")),),
    mtu=1400,
    renew_s=50,
    rebind_s=80,
    lease_s=100,
)
#: Mask 255.255.255.0, a lease of 120 s, server 192.0.2.1.
USUAL = {1: b"\xff\xff\xff\0", 51: bytes([0, 0, 0, 120]), 54: SERVER.packed}


def listed(options: dict[int, bytes]) -> bytes:
    """Write options without an end; a value that is too long for one comes in parts."""
    found = b""
    for code, value in options.items():
        for start in range(0, len(value) or 1, 255):
            part = value[start : start + 255]
            found += bytes([code, len(part)]) + part
    return found


def answer(
    kind: int,
    options: dict[int, bytes] | bytes,
    *,
    xid: int = XID,
    mac: str = CLIENT.mac,
    address: str = "192.0.2.50",
    file: bytes = b"",
    sname: bytes = b"",
    op: int = 2,
    cookie: bytes = b"\x63\x82\x53\x63",
    more: bytes = b"",
    ip_options: bytes = b"",
    port: int = 68,
    to: str = "ff:ff:ff:ff:ff:ff",
) -> bytes:
    """Write a server's frame."""
    given = listed(options) if isinstance(options, dict) else options
    fields = struct.pack("!BBBBIHH", op, 1, 6, 0, xid, 0, 0x8000) + bytes(4) + IPAddress(address).packed + bytes(8)
    chaddr = bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0")
    data = fields + chaddr + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + cookie
    data += bytes([53, 1, kind]) + given + b"\xff" + more
    udp = struct.pack("!HHHH", 67, port, 8 + len(data), 0) + data
    size = 20 + len(ip_options)
    ip = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(udp), 0, 0, 64, 17, 0)
    ip += SERVER.packed + b"\xff" * 4 + ip_options
    ethernet = bytes.fromhex(to.replace(":", "") + SERVER_MAC.replace(":", "")) + b"\x08\0"
    return ethernet + ip + udp


def read(kind: int = Kind.ACK, options: dict[int, bytes] | bytes = USUAL, **fields: Any) -> Reply:
    reply = parsed(answer(kind, options, **fields))
    assert reply is not None
    return reply


def lease(more: dict[int, bytes], **fields: Any) -> DhcpLease:
    found = lease_of(read(Kind.ACK, {**USUAL, **more}, **fields), 1.5)
    assert found is not None
    return found


def route(net: str, hop: str) -> bytes:
    target = IPNetwork(net)
    return bytes([target.prefixlen]) + target.ip.packed[: (target.prefixlen + 7) // 8] + IPAddress(hop).packed


def test_a_lease_is_read_and_stored() -> None:
    """All that is used of an ACK is in the record, and the record comes back as it was."""
    found = lease(
        {
            3: IPAddress("192.0.2.9").packed,
            26: b"\x05\x78",
            58: bytes([0, 0, 0, 50]),
            59: bytes([0, 0, 0, 80]),
            51: bytes([0, 0, 0, 100]),
            121: route("10.0.0.0/8", "192.0.2.7") + route("0.0.0.0/0", "192.0.2.254"),
        }
    )
    assert found == LEASE and found.address.ip == LEASE.address.ip
    again = decode(encode(found), DhcpLease)
    assert again == LEASE and str(again.address) == "192.0.2.50/24"


def test_what_may_be_absent_has_defaults() -> None:
    """T1 and T2 as in RFC 2131 section 4.4.5, the prefix by class, no gateway, no MTU."""
    found = lease({})
    assert (found.renew_s, found.rebind_s, found.lease_s) == (60, 105, 120)
    assert (found.gateway, found.routes, found.mtu) == (None, (), None)
    for address, prefix in (("10.1.2.3", 8), ("172.16.1.1", 16), ("192.0.2.50", 24)):
        reply = read(Kind.ACK, {code: value for code, value in USUAL.items() if code != 1}, address=address)
        assert str(getattr(lease_of(reply, 0), "address", None)) == f"{address}/{prefix}"
    endless = lease({51: b"\xff" * 4, 58: bytes([0, 0, 0, 9])})
    assert (endless.renew_s, endless.rebind_s, endless.lease_s) == (None, None, None)


@pytest.mark.parametrize(
    ("t1", "t2", "expected"),
    [
        (0, 0, (60, 105)),
        (90, 80, (60, 80)),
        (10, 130, (10, 105)),
        (200, 300, (60, 105)),
        (1, 1, (1, 1)),
        (9, 5, (5, 5)),
    ],
)
def test_times_in_the_wrong_order_are_not_kept(t1: int, t2: int, expected: tuple[int, int]) -> None:
    """T1 comes before T2 before the end."""
    found = lease({58: t1.to_bytes(4), 59: t2.to_bytes(4)})
    assert (found.renew_s, found.rebind_s) == expected


@pytest.mark.parametrize(
    ("data", "gateway", "routes"),
    [
        (route("0.0.0.0/0", "192.0.2.254"), "192.0.2.254", []),
        (route("203.0.113.7/32", "192.0.2.7"), None, [("203.0.113.7/32", "192.0.2.7")]),
        (route("10.0.0.0/8", "0.0.0.0"), None, [("10.0.0.0/8", "0.0.0.0")]),
        (route("0.0.0.0/0", "0.0.0.0"), None, [("0.0.0.0/0", "0.0.0.0")]),
        # Bits behind the width count for nothing.
        (bytes([9, 10, 0xFF, 192, 0, 2, 7]), None, [("10.128.0.0/9", "192.0.2.7")]),
        # Without sense: as if it were absent, so the router of option 3 is taken.
        (bytes([33, 1, 2, 3, 4, 5, 192, 0, 2, 7]), "192.0.2.9", []),
        (route("10.0.0.0/8", "192.0.2.7")[:-1], "192.0.2.9", []),
    ],
)
def test_classless_routes_decide_over_the_router(
    data: bytes, gateway: str | None, routes: list[tuple[str, str]]
) -> None:
    """Option 121 alone says what the gateway is, if it can be read (RFC 3442)."""
    found = lease({3: IPAddress("192.0.2.9").packed, 121: data})
    assert found.gateway == (gateway and IPAddress(gateway))
    assert [(str(net), str(hop)) for net, hop in found.routes] == routes


def test_long_options_are_put_together() -> None:
    """Parts of an option, also in the fields for a file and a server's name, are one (RFC 3396)."""
    nets = [f"10.{number}.0.0/16" for number in range(60)]
    data = b"".join(route(net, "192.0.2.7") for net in nets)
    assert len(data) > 255
    assert [str(net) for net, _ in lease({121: data}).routes] == nets
    # 300 bytes alone end inside a route, so they count for nothing.
    fields = {"file": b"\0" + listed({121: data[300:350]}) + b"\xff", "sname": listed({121: data[350:406]}) + b"\xff"}
    for overload, routes in ((3, 58), (1, 50), (2, 0), (0, 0)):
        options = {**USUAL, 52: bytes([overload]), 121: data[:300]}
        found = lease_of(read(Kind.ACK, options, **fields), 0)
        assert found is not None and len(found.routes) == routes


@pytest.mark.parametrize(
    "options",
    [
        {51: bytes([0, 0, 0, 120]), 1: USUAL[1]},
        {**USUAL, 54: b"\xe0\0\0\1"},
        {**USUAL, 51: bytes(4)},
        {**USUAL, 51: b"\0\x78"},
        {**USUAL, 1: b"\xff\0\xff\0"},
        {**USUAL, 1: b"\xff\xff\xff"},
        {**USUAL, 1: bytes(4)},
    ],
)
def test_no_lease_without_what_it_needs(options: dict[int, bytes]) -> None:
    """A server, an end that is not at once, and a mask that is one."""
    assert lease_of(read(Kind.ACK, options), 0) is None
    assert lease_of(read(Kind.ACK, USUAL), 0) is not None


#: What a server says of ways, of an address of 192.0.2.50/24; what is left of it: gateway and routes; what is left out.
SUBNET, DEFAULT, HOP = "192.0.2.0/24", "0.0.0.0/0", "192.0.2.7"
WAYS: dict[str, tuple[list[tuple[str, str]], str | None, list[tuple[str, str]], list[str]]] = {
    "the subnet itself": ([(SUBNET, "0.0.0.0"), (DEFAULT, HOP)], HOP, [], []),
    "the subnet by a router": ([(SUBNET, HOP)], None, [], [f"{SUBNET} via {HOP}"]),
    "twice": ([("10.0.0.0/8", HOP), ("10.0.0.0/8", HOP)], None, [("10.0.0.0/8", HOP)], []),
    "two ways": (
        [("10.0.0.0/8", HOP), ("10.0.0.0/8", "192.0.2.8")],
        None,
        [("10.0.0.0/8", HOP)],
        ["10.0.0.0/8 via 192.0.2.8"],
    ),
    "a next hop elsewhere": ([("10.0.0.0/8", "198.51.100.1")], None, [], ["10.0.0.0/8 via 198.51.100.1"]),
    "a router elsewhere": ([(DEFAULT, "198.51.100.1")], None, [], [f"{DEFAULT} via 198.51.100.1"]),
    "a router on the link": (
        [("198.51.100.1/32", "0.0.0.0"), (DEFAULT, "198.51.100.1")],
        "198.51.100.1",
        [("198.51.100.1/32", "0.0.0.0")],
        [],
    ),
    "itself": ([("10.0.0.0/8", "192.0.2.50")], None, [], ["10.0.0.0/8 via 192.0.2.50"]),
    "the broadcast address": ([("10.0.0.0/8", "192.0.2.255")], None, [], ["10.0.0.0/8 via 192.0.2.255"]),
    "everything on the link": ([(DEFAULT, "0.0.0.0")], None, [(DEFAULT, "0.0.0.0")], []),
    "two ways out": ([(DEFAULT, "0.0.0.0"), (DEFAULT, HOP)], HOP, [], [f"{DEFAULT} via 0.0.0.0"]),
}


@pytest.mark.parametrize("case", WAYS)
def test_ways_that_the_kernel_refuses_are_left_out(case: str) -> None:
    """They do not keep a container from its lease; what is lost by that is told."""
    given, gateway, routes, lost = WAYS[case]
    options = {**USUAL, 121: b"".join(route(*one) for one in given)}
    found = lease_of(read(Kind.ACK, options), 0)
    assert found is not None and (str(found.gateway) if found.gateway else None) == gateway
    assert [(str(net), str(hop)) for net, hop in found.routes] == routes
    assert messages.left_out(read(Kind.ACK, options)) == lost


def test_a_router_of_option_3_is_one_that_can_be_reached() -> None:
    """Who has a subnet of one address reaches it on the link; else one elsewhere is left out."""
    assert lease({3: IPAddress("198.51.100.1").packed}).gateway is None
    alone = lease({1: b"\xff" * 4, 3: IPAddress("198.51.100.1").packed})
    assert str(alone.gateway) == "198.51.100.1"
    assert alone.routes == ((IPNetwork("198.51.100.1/32"), IPAddress("0.0.0.0")),)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.0", "192.0.2.255"]
)
def test_no_lease_of_an_address_that_no_host_can_have(address: str) -> None:
    """Nothing, loopback, multicast, the future's, broadcast, and the ends of its subnet."""
    assert lease_of(read(address=address), 0) is None


def test_damaged_options_that_may_be_absent_are() -> None:
    """The rest of the message holds."""
    found = lease({26: b"\1", 3: b"\1\2\3", 58: b"\1", 59: b"", 12: b"\xff\xfe", 200: b"?"})
    assert (found.mtu, found.gateway, found.renew_s) == (None, None, 60)
    assert lease({26: b"\0\x44"}).mtu is None and lease({26: b"\2\x3f"}).mtu is None
    assert lease({26: b"\2\x40"}).mtu == 576
    assert lease({3: bytes(4)}).gateway is None


@pytest.mark.parametrize(
    "fields",
    [
        {"op": 1},
        {"cookie": b"\x63\x82\x53\x64"},
        {"port": 67},
        {"options": b"\x0c\xff"},
        {"options": b"\x0c"},
        {"kind": 9},
        {"kind": Kind.REQUEST},
        {"options": {52: b"\1"}, "file": b"\x0c\xff"},
    ],
)
def test_what_is_no_answer_is_not_read(fields: dict[str, Any]) -> None:
    """Each differs from a good one in one thing."""
    assert parsed(answer(**{"kind": Kind.ACK, "options": USUAL, **fields})) is None


def test_an_answer_is_read_whatever_is_around_it() -> None:
    """Options of IP, padding of Ethernet, padding of BOOTP; a cut frame is none."""
    frame = answer(Kind.OFFER, USUAL, ip_options=b"\x01" * 4, more=bytes(60))
    for data in (frame, frame + bytes(9)):
        reply = parsed(data)
        assert reply is not None and (reply.kind, reply.xid, reply.source) == (Kind.OFFER, XID, SERVER_MAC)
    assert all(parsed(frame[:size]) is None for size in range(len(frame)))


def test_answers_to_others_are_told_apart() -> None:
    """By MAC, and by the client identifier if the server returns it (RFC 6842)."""
    assert read().is_for(CLIENT)
    assert read(options={**USUAL, 61: CLIENT.client_id}).is_for(CLIENT)
    assert not read(options={**USUAL, 61: b"\xffother"}).is_for(CLIENT)
    assert not read(mac="02:42:00:00:00:06").is_for(CLIENT)
    assert read(Kind.NAK, {54: SERVER.packed, 56: b"no\xff\0"}).message == "no\ufffd"


@given(st.binary(max_size=700))
def test_bytes_are_never_an_exception(data: bytes) -> None:
    """Whatever comes."""
    assert parsed(data) is None


@given(
    st.sampled_from([Kind.OFFER, Kind.ACK, Kind.NAK]),
    st.dictionaries(
        st.sampled_from([1, 3, 26, 51, 52, 53, 54, 56, 58, 59, 61, 121]) | st.integers(1, 254), st.binary()
    ),
    st.binary(max_size=128),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
)
def test_damaged_answers_are_never_an_exception(
    kind: int, options: dict[int, bytes], file: bytes, damage: list[tuple[int, int]]
) -> None:
    """Bytes here and there are others; what is read of it can be stored."""
    frame = bytearray(answer(kind, {**USUAL, **options}, file=file))
    for at, value in damage:
        if at < len(frame):
            frame[at] = value
    reply = parsed(bytes(frame))
    if reply is not None:
        assert isinstance(reply.is_for(CLIENT), bool) and isinstance(reply.message, str)
        found = lease_of(reply, 1.0)
        assert found is None or decode(encode(found), DhcpLease) == found


class Sent:
    """A request taken apart by plain offsets."""

    def __init__(self, frame: bytes) -> None:
        self.to, self.source = frame[:6].hex(":"), frame[6:12].hex(":")
        self.from_ip, self.to_ip = (str(IPAddress(int.from_bytes(frame[at : at + 4]))) for at in (26, 30))
        data = frame[42:]
        assert frame[12:14] == b"\x08\0" and frame[34:38] == struct.pack("!HH", 68, 67) and len(data) >= 300
        assert data[:4] == b"\1\1\6\0" and data[236:240] == b"\x63\x82\x53\x63"
        self.xid, self.secs, self.flags = struct.unpack_from("!IHH", data, 4)
        self.ciaddr = str(IPAddress(int.from_bytes(data[12:16])))
        self.chaddr = data[28:34].hex(":")
        self.options: dict[int, bytes] = {}
        at = 240
        while data[at] != 255:
            self.options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]
        self.kind = Kind(self.options[53][0])
        for start, end, pseudo in ((14, 34, b""), (34, len(frame), frame[26:34] + b"\0\x11" + frame[38:40])):
            words = pseudo + frame[start:end]
            total = sum(struct.unpack(f"!{len(words) // 2}H", words[: len(words) // 2 * 2]))
            total += words[-1] << 8 if len(words) % 2 else 0
            assert total % 0xFFFF == 0, "a checksum is wrong"


def test_requests_say_what_the_state_needs() -> None:
    """Table 5 of RFC 2131: which options, which addresses, to whom."""
    offered, former = IPAddress("192.0.2.50"), IPAddress("192.0.2.50")
    first = Sent(messages.discover(CLIENT, XID, 3, None))
    assert (first.kind, first.xid, first.secs, first.flags) == (Kind.DISCOVER, XID, 3, 0x8000)
    assert (first.options[61], first.options[12]) == (CLIENT.client_id, b"web") and not {50, 54} & first.options.keys()
    assert first.options[55].index(121) < first.options[55].index(3) and {1, 26} <= set(first.options[55])
    chosen = Sent(messages.request(CLIENT, XID, 3, offered, SERVER))
    assert (chosen.options[50], chosen.options[54]) == (offered.packed, SERVER.packed)
    reboot = Sent(messages.request(CLIENT, XID, 3, former, None))
    assert reboot.options[50] == former.packed and 54 not in reboot.options
    refused = Sent(messages.decline(CLIENT, XID, LEASE))
    assert (refused.kind, refused.options[50], refused.options[54]) == (Kind.DECLINE, offered.packed, SERVER.packed)
    for one in (first, chosen, reboot, refused):
        assert (one.to, one.source, one.chaddr) == ("ff:ff:ff:ff:ff:ff", CLIENT.mac, CLIENT.mac)
        assert (one.from_ip, one.to_ip, one.ciaddr) == ("0.0.0.0", "255.255.255.255", "0.0.0.0")
    renewing = Sent(messages.renewal(CLIENT, XID, 0, LEASE, False))
    freed = Sent(messages.release(CLIENT, XID, LEASE))
    rebinding = Sent(messages.renewal(CLIENT, XID, 0, LEASE, True))
    for one in (renewing, freed):
        assert (one.to, one.to_ip) == (SERVER_MAC, "192.0.2.1")
    assert (rebinding.to, rebinding.to_ip) == ("ff:ff:ff:ff:ff:ff", "255.255.255.255")
    for one in (renewing, freed, rebinding):
        assert (one.from_ip, one.ciaddr, one.flags, 50 in one.options) == ("192.0.2.50", "192.0.2.50", 0, False)
    assert freed.options.keys() == {53, 54, 61} and 54 not in renewing.options


def test_a_host_name_is_what_servers_take() -> None:
    """Neither empty nor longer than a label, and in ASCII."""
    for name, expected in (("", None), ("ä", None), ("webä", b"web"), ("x" * 70, b"x" * 63)):
        another = DhcpClient("eth0", CLIENT.mac, CLIENT.client_id, name)
        assert Sent(messages.discover(another, XID, 0, None)).options.get(12) == expected


def test_leases_differ_by_address() -> None:
    """A record says which address it is, not only the subnet."""
    other = msgspec.structs.replace(LEASE, address=IPNetwork("192.0.2.51/24"))
    assert encode(other) != encode(LEASE)
