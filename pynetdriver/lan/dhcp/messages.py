"""DHCPv4 messages as Ethernet frames: those that are sent, those that come, and the lease in them. No I/O.

Sources: RFC 2131 (messages), 2132 (options), 3396 (long options), 3442 (option 121), 4361 and 6842 (option 61).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum

from netaddr import IPAddress, IPNetwork

from pynetdriver.lan.packet import Instruction
from pynetdriver.model import DhcpClient, DhcpLease
from pynetdriver.pool import is_host_address

#: A destination with its next hop, 0.0.0.0 for what is on the link itself.
Way = tuple[IPNetwork, IPAddress]


class Kind(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


_SERVER_PORT, _CLIENT_PORT = 67, 68
_BOOTREQUEST, _BOOTREPLY, _ETHERNET, _BROADCAST = 1, 2, 1, 0x8000
_ETHERTYPE_IP, _UDP = 0x0800, 17
_COOKIE = bytes.fromhex("63825363")
#: op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_IP, _PORTS = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHHH")
#: Servers and relays for BOOTP drop what is shorter (RFC 1542 section 2.1).
_LEAST_BYTES = 300
#: What an answer may have at most, option 57: it fits into the least MTU that IPv6 allows, so it is in one piece.
_MOST_BYTES = 1280 - 28

_PAD, _MASK, _ROUTER, _HOST_NAME, _MTU = 0, 1, 3, 12, 26
_REQUESTED, _LEASE_TIME, _OVERLOAD, _KIND, _SERVER = 50, 51, 52, 53, 54
_PARAMETERS, _MESSAGE, _SIZE, _T1, _T2, _CLIENT_ID, _ROUTES, _END = 55, 56, 57, 58, 59, 61, 121, 255
#: Option 121 comes before option 3 (RFC 3442).
_ASKED = bytes([_MASK, _ROUTES, _ROUTER, _MTU, _LEASE_TIME, _SERVER, _T1, _T2])
_INFINITE = 0xFFFFFFFF
#: A lease has two whole seconds at least, so that there is a time to renew it before it ends.
_LEAST_LEASE_S = 2
#: What every host takes in one piece (RFC 791). Option 26 may say 68, but with less than this much stops working, so
#: other clients, such as dhcpcd and the scripts of dhclient, leave it unheeded as well.
_LEAST_MTU = 576
_NOWHERE, _EVERYWHERE = IPAddress("0.0.0.0"), IPAddress("255.255.255.255")
_ALL_MACS = "ff:ff:ff:ff:ff:ff"

# Classic BPF (linux/filter.h, linux/bpf_common.h): loads of 1, 2 and 4 bytes, X = length of the IP header.
_BYTE, _HALF, _BYTE_X, _HALF_X, _WORD_X, _IP_LENGTH = 0x30, 0x28, 0x50, 0x48, 0x40, 0xB1
_AND, _EQUAL, _RETURN = 0x54, 0x15, 0x06
_VLAN_TAG, _VLAN_TAG_PRESENT = -0x1000 + 44, -0x1000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG and …_PRESENT


@dataclass(frozen=True)
class Reply:
    """A well-formed OFFER, ACK or NAK. `source` is the MAC that sent it, `address` is yiaddr."""

    kind: Kind
    xid: int
    mac: str
    source: str
    address: IPAddress
    options: dict[int, bytes]

    def is_for(self, client: DhcpClient) -> bool:
        """Whether it answers that one; a server that returns option 61 returns the client's own (RFC 6842)."""
        return self.mac == client.mac.lower() and self.options.get(_CLIENT_ID, client.client_id) == client.client_id

    @property
    def server(self) -> IPAddress | None:
        """Who answers, option 54."""
        return _address(self.options.get(_SERVER, b""))

    @property
    def message(self) -> str:
        """Why it refuses, option 56; often empty."""
        return self.options.get(_MESSAGE, b"").decode("utf-8", "replace").rstrip("\0")


def discover(client: DhcpClient, xid: int, secs: int, wanted: IPAddress | None) -> bytes:
    """Ask all servers for an address, this one if possible; `secs` is how long that has been going on."""
    options = {} if wanted is None else {_REQUESTED: wanted.packed}
    return _broadcast(client, xid, secs, Kind.DISCOVER, {**options, **_wishes(client)})


def request(client: DhcpClient, xid: int, secs: int, address: IPAddress, server: IPAddress | None) -> bytes:
    """Take a server's offer, or without a server have a former address confirmed (INIT-REBOOT)."""
    chosen = {} if server is None else {_SERVER: server.packed}
    return _broadcast(client, xid, secs, Kind.REQUEST, {_REQUESTED: address.packed, **chosen, **_wishes(client)})


def decline(client: DhcpClient, xid: int, lease: DhcpLease) -> bytes:
    """Say that somebody else uses the address."""
    options = {_REQUESTED: lease.address.ip.packed, _SERVER: lease.server.packed}
    return _broadcast(client, xid, 0, Kind.DECLINE, options)


def renewal(client: DhcpClient, xid: int, secs: int, lease: DhcpLease, anybody: bool) -> bytes:
    """Ask for more time: the lease's own server, or whoever can (REBINDING)."""
    return _about(client, xid, secs, Kind.REQUEST, lease, _wishes(client), anybody)


def release(client: DhcpClient, xid: int, lease: DhcpLease) -> bytes:
    """Give the address back; nobody answers that."""
    return _about(client, xid, 0, Kind.RELEASE, lease, {_SERVER: lease.server.packed})


def _wishes(client: DhcpClient) -> dict[int, bytes]:
    name = client.host_name.encode("ascii", "ignore")[:63]
    named = {_HOST_NAME: name} if name else {}
    return {_SIZE: struct.pack("!H", _MOST_BYTES), _PARAMETERS: _ASKED, **named}


def _broadcast(client: DhcpClient, xid: int, secs: int, kind: Kind, options: dict[int, bytes]) -> bytes:
    # The address is nobody's yet, so the answer is to go to everybody: nothing takes in a frame for the MAC so far.
    data = _message(client, xid, secs, kind, options, _BROADCAST)
    return _frame(client.mac, _ALL_MACS, _NOWHERE, _EVERYWHERE, data)


def _about(
    client: DhcpClient,
    xid: int,
    secs: int,
    kind: Kind,
    lease: DhcpLease,
    options: dict[int, bytes],
    anybody: bool = False,
) -> bytes:
    data = _message(client, xid, secs, kind, options, 0, lease.address.ip)
    mac, address = (_ALL_MACS, _EVERYWHERE) if anybody else (lease.server_mac, lease.server)
    return _frame(client.mac, mac, lease.address.ip, address, data)


def _message(
    client: DhcpClient,
    xid: int,
    secs: int,
    kind: Kind,
    options: dict[int, bytes],
    flags: int,
    ciaddr: IPAddress = _NOWHERE,
) -> bytes:
    rest = (bytes(4), bytes(4), bytes(4), _mac(client.mac), b"", b"", _COOKIE)
    head = (_BOOTREQUEST, _ETHERNET, 6, 0, xid, min(secs, 0xFFFF), flags, ciaddr.packed)
    listed = {_KIND: bytes([kind]), _CLIENT_ID: client.client_id, **options}
    data = b"".join(bytes([code, len(value)]) + value for code, value in listed.items() if value)
    return (_HEADER.pack(*head, *rest) + data + bytes([_END])).ljust(_LEAST_BYTES, b"\0")


def _frame(source_mac: str, target_mac: str, source: IPAddress, target: IPAddress, data: bytes) -> bytes:
    length = _PORTS.size + len(data)
    pseudo = source.packed + target.packed + struct.pack("!HH", _UDP, length)
    ports = (_CLIENT_PORT, _SERVER_PORT, length)
    sum_ = _checksum(pseudo + _PORTS.pack(*ports, 0) + data)
    head = (0x45, 0, _IP.size + length, 0, 0, 64, _UDP)
    addresses = (source.packed, target.packed)
    packet = _IP.pack(*head, _checksum(_IP.pack(*head, 0, *addresses)), *addresses)
    ethernet = _mac(target_mac) + _mac(source_mac) + struct.pack("!H", _ETHERTYPE_IP)
    # A UDP checksum of 0 would mean that there is none.
    return ethernet + packet + _PORTS.pack(*ports, sum_ or 0xFFFF) + data


def _checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def answers(xid: int) -> tuple[Instruction, ...]:
    """Write the filter that accepts answers to that request alone: IPv4 in one piece, to port 68, BOOTREPLY.

    They carry no tag of another LAN than the link's; tag 0 only says a priority.
    """
    refused = -1
    steps = (
        *((_BYTE, 0, 0, _VLAN_TAG_PRESENT), (_EQUAL, 3, 0, 0)),
        *((_HALF, 0, 0, _VLAN_TAG), (_AND, 0, 0, 0x0FFF), (_EQUAL, 0, refused, 0)),
        *((_HALF, 0, 0, 12), (_EQUAL, 0, refused, _ETHERTYPE_IP)),
        *((_BYTE, 0, 0, 23), (_EQUAL, 0, refused, _UDP)),
        *((_HALF, 0, 0, 20), (_AND, 0, 0, 0x3FFF), (_EQUAL, 0, refused, 0)),
        (_IP_LENGTH, 0, 0, 14),
        *((_HALF_X, 0, 0, 16), (_EQUAL, 0, refused, _CLIENT_PORT)),
        *((_BYTE_X, 0, 0, 22), (_EQUAL, 0, refused, _BOOTREPLY)),
        *((_WORD_X, 0, 0, 26), (_EQUAL, 0, refused, xid)),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )
    last = len(steps) - 1
    return tuple((code, yes, last - at - 1 if no == refused else no, k) for at, (code, yes, no, k) in enumerate(steps))


def parsed(frame: bytes) -> Reply | None:
    """Read an answer; None if it is damaged or something else. The UDP checksum is not looked at.

    A veth pair leaves that partial.
    """
    try:
        return _parsed(frame)
    except (struct.error, IndexError, ValueError):
        return None


def _parsed(frame: bytes) -> Reply | None:
    if frame[12:14] != struct.pack("!H", _ETHERTYPE_IP) or frame[14] >> 4 != 4 or frame[23] != _UDP:
        return None
    start = 14 + max(_IP.size, (frame[14] & 15) * 4)
    end = 14 + int.from_bytes(frame[16:18])  # behind it may be padding of Ethernet
    _, port, length, _ = _PORTS.unpack_from(frame, start)
    data = frame[start + _PORTS.size : start + length]
    if port != _CLIENT_PORT or start + length > min(end, len(frame)):
        return None
    op, kind, size, _, xid, _, _, _, yours, _, _, mac, sname, file, cookie = _HEADER.unpack_from(data)
    if (op, kind, size, cookie) != (_BOOTREPLY, _ETHERNET, 6, _COOKIE):
        return None
    options = _options(data[_HEADER.size :], file, sname)
    answer = Kind(int.from_bytes(options[_KIND])) if _KIND in options else None
    if answer not in (Kind.OFFER, Kind.ACK, Kind.NAK):
        return None
    address = IPAddress(int.from_bytes(yours), 4)
    return Reply(answer, xid, mac[:6].hex(":"), frame[6:12].hex(":"), address, options)


def _options(data: bytes, file: bytes, sname: bytes) -> dict[int, bytes]:
    """Collect options by code, those that came in parts put together, also from fields that option 52 names.

    Raises:
        IndexError, ValueError: one of them is longer than what is there.
    """
    found = list(_each(data))
    overload = int.from_bytes(dict(found).get(_OVERLOAD, b""))
    for bit, more in ((1, file), (2, sname)):
        if overload in (bit, 3):
            found.extend(_each(more))
    together: dict[int, bytes] = {}
    for code, value in found:
        together[code] = together.get(code, b"") + value
    return together


def _each(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        end = at + 2 + data[at + 1]
        if end > len(data):
            raise ValueError(f"option {data[at]} is cut")
        yield data[at], data[at + 2 : end]
        at = end


def lease_of(reply: Reply, obtained: float) -> DhcpLease | None:
    """Read the lease in an OFFER or ACK; None if it has none that can be used.

    A damaged option that may be absent counts as absent, also T1 and T2 in the wrong order (RFC 2131 section 4.4.5).
    """
    options, server, lease_s = reply.options, reply.server, _number(reply.options.get(_LEASE_TIME), 4)
    address = _interface(reply)
    if server is None or lease_s is None or address is None or lease_s < _LEAST_LEASE_S:
        return None
    gateway, routes, _ = _usable(address, *_ways(options, address))
    mtu = _number(options.get(_MTU), 2)
    t1, t2 = _number(options.get(_T1), 4) or 0, _number(options.get(_T2), 4) or 0
    if not 0 < t2 <= lease_s:
        t2 = lease_s * 7 // 8
    if not 0 < t1 <= t2:
        t1 = min(lease_s // 2, t2)
    endless = lease_s == _INFINITE
    return DhcpLease(
        address=address,
        server=server,
        server_mac=reply.source,
        obtained=obtained,
        gateway=gateway,
        routes=routes,
        mtu=mtu if mtu is not None and mtu >= _LEAST_MTU else None,
        renew_s=None if endless else t1,
        rebind_s=None if endless else t2,
        lease_s=None if endless else lease_s,
    )


def left_out(reply: Reply) -> list[str]:
    """Tell which routes of an answer its lease lacks: what cannot be reached or is there already keeps none from it."""
    address = _interface(reply)
    return [] if address is None else _usable(address, *_ways(reply.options, address))[2]


def _interface(reply: Reply) -> IPNetwork | None:
    """Read the address with its prefix length; None for what no host can have, such as a broadcast address."""
    prefix = _prefix(reply)
    if prefix is None or not _is_host(reply.address):
        return None
    net = IPNetwork((int(reply.address), prefix), version=4)
    return net if is_host_address(net.ip, net.cidr) else None


def _prefix(reply: Reply) -> int | None:
    """Take the prefix length from option 1, or from the address's class as before there were masks."""
    first = int(reply.address) >> 24
    mask = reply.options.get(_MASK)
    if mask is None:
        return 8 if first < 128 else 16 if first < 192 else 24
    hosts = ~int.from_bytes(mask) & 0xFFFFFFFF
    return 32 - hosts.bit_length() if len(mask) == 4 and hosts & (hosts + 1) == 0 and hosts != 0xFFFFFFFF else None


def _is_host(address: IPAddress) -> bool:
    first = int(address) >> 24
    return 0 < first < 224 and first != 127


def _ways(options: dict[int, bytes], address: IPNetwork) -> tuple[IPAddress | None, tuple[Way, ...]]:
    """Find the gateway and other routes: option 121 decides alone if it is there (RFC 3442)."""
    routes: tuple[Way, ...] | None = None
    with suppress(IndexError, ValueError):
        routes = tuple(_routes(options[_ROUTES])) if _ROUTES in options else None
    if routes is None:
        router = _address(options.get(_ROUTER, b"")[:4])
        if router is not None and address.prefixlen == 32:
            # A client whose prefix holds only itself (/32) reaches the router on the link, as other clients have it.
            return router, ((IPNetwork(router), _NOWHERE),)
        return router, ()
    # A default route without a next hop is no gateway, but still a route.
    gateways = [hop for net, hop in routes if net.prefixlen == 0 and hop]
    others = tuple((net, hop) for net, hop in routes if net.prefixlen or not hop)
    return gateways[0] if gateways else None, others


def _usable(
    address: IPNetwork, gateway: IPAddress | None, routes: tuple[Way, ...]
) -> tuple[IPAddress | None, tuple[Way, ...], list[str]]:
    """Leave out what the kernel refuses in a container that has this address; the rest is as good as without it.

    A destination has one route, the subnet has the address's own, and a next hop is a neighbour
    (net/ipv4/fib_semantics.c).

    Returns:
        gateway and routes that are left, and what is not, in words.
    """
    on_link = [address.cidr, *(net for net, hop in routes if not hop)]

    def is_neighbour(hop: IPAddress) -> bool:
        ends = (address.network, address.broadcast) if address.prefixlen < 31 else ()
        return _is_host(hop) and hop not in (address.ip, *ends) and any(hop in net for net in on_link)

    kept: dict[IPNetwork, IPAddress] = {}
    lost = []
    if gateway is not None and not is_neighbour(gateway):
        lost.append(f"0.0.0.0/0 via {gateway}")
        gateway = None
    for net, hop in routes:
        is_there = net in kept or net == address.cidr or (gateway is not None and net.prefixlen == 0)
        if not is_there and (not hop or is_neighbour(hop)):
            kept[net] = hop
        elif kept.get(net) != hop and not (net == address.cidr and not hop):
            lost.append(f"{net} via {hop}")
    return gateway, tuple(kept.items()), lost


def _routes(data: bytes) -> Iterator[Way]:
    at = 0
    while at < len(data):
        width = data[at]
        hop = at + 1 + (width + 7) // 8
        if width > 32 or hop + 4 > len(data):
            raise ValueError("a route is cut")
        target = int.from_bytes(data[at + 1 : hop].ljust(4, b"\0"))
        yield IPNetwork((target, width), version=4).cidr, IPAddress(int.from_bytes(data[hop : hop + 4]), 4)
        at = hop + 4


def _address(data: bytes) -> IPAddress | None:
    address = IPAddress(int.from_bytes(data), 4) if len(data) == 4 else _NOWHERE
    return address if _is_host(address) else None


def _number(data: bytes | None, size: int) -> int | None:
    return int.from_bytes(data) if data is not None and len(data) == size else None
