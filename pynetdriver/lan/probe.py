"""Whether another machine on the LAN holds an address that a container is about to use.

It is asked as by a machine that wants the address for itself: with an ARP probe for IPv4 (RFC 5227 section 2.1.1) and
with a neighbour solicitation of duplicate address detection for IPv6 (RFC 4862 section 5.4). Neither has a sender
address, so nobody's neighbour cache changes, and both come from the link's own MAC, so no switch learns a container's.

A machine is not found if it is suspended, filters ARP or stands on the same parent (macvlan and ipvlan links do not
receive what their parent sends). A machine that is just running duplicate address detection for an address takes the
question for a conflict (RFC 4862, section 5.4.3), so ask only for addresses that are to be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Collection, Container

from netaddr import IPAddress

from pynetdriver.errors import HostError
from pynetdriver.lan.packet import Instruction, PacketSocket

#: How long answers are waited for: with what goes on around it, a container's start takes less than 0.1 s longer.
WITHIN_S = 0.085
_PROBES = 3
#: So many frames are sent before the event loop reads what came back.
_BURST = 32

_ARP, _IPV6 = 0x0806, 0x86DD  # linux/if_ether.h
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136  # RFC 4861 sections 4.3 and 4.4
_REQUEST, _REPLY, _TARGET_MAC = 1, 2, 2  # RFC 826; RFC 4861 section 4.6.1
_UP, _RUNNING, _NOARP = 0x1, 0x40, 0x80  # IFF_… of linux/if.h
_BROADCAST = b"\xff" * 6
_ALL_NODES, _ALL_NODES_ADDRESS = bytes.fromhex("333300000001"), IPAddress("ff02::1").packed
_OVERRIDE = 1 << 29  # what others remember (RFC 4861 section 4.4)
#: Solicited-node groups as MAC and as address, but for the last three bytes, which are the target's (RFC 4291 2.7.1).
_SOLICITED_MAC, _SOLICITED = bytes.fromhex("3333ff"), IPAddress("ff02::1:ff00:0").packed[:13]
#: Hardware and protocol type, lengths of both kinds of addresses.
_ETHERNET_IPV4 = struct.pack("!HHBB", 1, 0x0800, 6, 4)

# linux/bpf_common.h and linux/filter.h: loads are absolute, jumps compare with the operand.
_LOAD, _LOAD_HALF, _LOAD_BYTE, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
_VLAN_TAG, _VLAN_TAG_PRESENT = -0x1000 + 44, -0x1000 + 48
#: ARP and neighbour discovery, unless they carry the tag of another LAN than this link's; 0 only says a priority.
_PROGRAM: tuple[Instruction, ...] = (
    (_LOAD, 0, 0, _VLAN_TAG_PRESENT),
    (_EQUAL, 2, 0, 0),
    (_LOAD, 0, 0, _VLAN_TAG),
    (_ANY_BIT, 8, 0, 0x0FFF),
    (_LOAD_HALF, 0, 0, 12),
    (_EQUAL, 7, 0, _ARP),
    (_EQUAL, 0, 5, _IPV6),
    (_LOAD_BYTE, 0, 0, 20),
    (_EQUAL, 0, 3, _ICMPV6),
    (_LOAD_BYTE, 0, 0, 54),
    (_EQUAL, 2, 0, _SOLICITATION),
    (_EQUAL, 1, 0, _ADVERTISEMENT),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFF),
)


async def holders(
    link: str, addresses: Collection[IPAddress], own: Collection[str] = (), within_s: float = WITHIN_S
) -> dict[IPAddress, str]:
    """Ask for addresses, up to some 1000 at once, and return the MACs of those who answered or want them too.

    Three probes are spread over the time, for those that nobody has answered for yet. RFC 5227 would have them 1 to 2
    seconds apart, and RFC 4862 wait for a second: too long for the start of a container. On a wired LAN a machine
    that is awake answers within a millisecond or two.

    A link without ARP, such as a dummy or an ipvlan link of layer 3, has no neighbours, so nobody is found there.

    Args:
        own: MACs whose frames do not count, nor do those of the link itself.
        within_s: seconds that it takes, unless all addresses are answered for before.

    Raises:
        HostError: nobody can be asked, since the link is gone, down, without a carrier or not of the Ethernet kind.
    """
    asked = {address.packed: address for address in addresses}
    found: dict[IPAddress, str] = {}
    if not asked:
        return found
    everyone = asyncio.Event()

    def hear(frame: bytes) -> None:
        claimed = claim(frame, ours)
        if claimed is not None and claimed[0] in asked:
            found.setdefault(asked[claimed[0]], claimed[1].hex(":"))
            if len(found) == len(asked):
                everyone.set()

    loop = asyncio.get_running_loop()
    begin = loop.time()
    with contextlib.closing(PacketSocket(link, _PROGRAM, hear)) as packets:
        mac, flags = packets.mac, packets.flags
        if flags & _NOARP:
            return found
        refused = f'cannot ask on link "{link}" who holds an address: the link '
        if not mac:
            raise HostError(refused + "is not of the Ethernet kind")
        if not flags & _UP:
            raise HostError(refused + "is down")
        ours = {mac, *(bytes.fromhex(one.replace(":", "")) for one in own)}
        groups = {_SOLICITED_MAC + packed[13:] for packed in asked if len(packed) == 16}
        if groups:
            packets.join({_ALL_NODES, *groups})
        for number in range(1, _PROBES + 1):
            await _ask(packets, mac, [packed for packed, address in asked.items() if address not in found])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begin + within_s * number / _PROBES):
                    await everyone.wait()
                    break
        if not found and not packets.flags & _RUNNING:
            raise HostError(refused + "has no carrier")
        return found


async def _ask(packets: PacketSocket, mac: bytes, targets: Collection[bytes]) -> None:
    for number, target in enumerate(targets, 1):
        packets.send(probe(mac, target))
        if number % _BURST == 0:
            await asyncio.sleep(0)


def probe(mac: bytes, target: bytes) -> bytes:
    """Build the frame that asks for an address of 4 or 16 bytes."""
    if len(target) == 4:
        header = struct.pack("!6s6sH", _BROADCAST, mac, _ARP)
        return header + _ETHERNET_IPV4 + struct.pack("!H6s4s6s4s", _REQUEST, mac, bytes(4), bytes(6), target)
    header = struct.pack("!6s6sH", _SOLICITED_MAC + target[13:], mac, _IPV6)
    return header + _discovery(_SOLICITATION, bytes(16) + _SOLICITED + target[13:], bytes(4) + target)


def _discovery(kind: int, ends: bytes, rest: bytes) -> bytes:
    """Build the packet of a neighbour discovery message between two addresses (RFC 4861 section 4)."""
    checksum = _checksum(ends, struct.pack("!BBH", kind, 0, 0) + rest)
    message = struct.pack("!BBH", kind, 0, checksum) + rest
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + ends + message


def announcement(mac: bytes, address: bytes) -> bytes:
    """Build the frame that tells everybody whose an address of 4 or 16 bytes is."""
    if len(address) == 4:
        header = struct.pack("!6s6sH", _BROADCAST, mac, _ARP)
        return header + _ETHERNET_IPV4 + struct.pack("!H6s4s6s4s", _REQUEST, mac, address, bytes(6), address)
    header = struct.pack("!6s6sH", _ALL_NODES, mac, _IPV6)
    told = struct.pack("!I16sBB6s", _OVERRIDE, address, _TARGET_MAC, 1, mac)
    return header + _discovery(_ADVERTISEMENT, address + _ALL_NODES_ADDRESS, told)


def claim(frame: bytes, ours: Container[bytes] = ()) -> tuple[bytes, bytes] | None:
    """Tell which address the sender of a frame holds, or is about to take, in 4 or 16 bytes, and its MAC.

    Args:
        ours: MACs whose frames do not count, whether Ethernet or the message inside names them.

    Returns:
        None if it claims none, is malformed or ours.
    """
    kind = frame[12:14]
    if kind == _ARP.to_bytes(2):
        claimed = _arp(frame)
    elif kind == _IPV6.to_bytes(2):
        claimed = _neighbour(frame)
    else:
        return None
    return None if claimed is None or claimed[1] in ours or frame[6:12] in ours else claimed


def _arp(frame: bytes) -> tuple[bytes, bytes] | None:
    # RFC 5227 section 2.1.1: any packet with the address as its sender's, or a probe for it. Probes are broadcast
    # (section 1.1); switches that track devices send such packets to a MAC they know, which claims nothing.
    operation, mac, sender, target = int.from_bytes(frame[20:22]), frame[22:28], frame[28:32], frame[38:42]
    if len(target) < 4 or frame[14:20] != _ETHERNET_IPV4 or operation not in (_REQUEST, _REPLY):
        return None
    if any(sender):
        return sender, mac
    return (target, mac) if operation == _REQUEST and frame[:6] == _BROADCAST else None


def _neighbour(frame: bytes) -> tuple[bytes, bytes] | None:
    # What is valid: RFC 4861 sections 7.1.1 and 7.1.2; frames may be padded, and cut short by whoever sent them.
    message = frame[54:][: int.from_bytes(frame[18:20])]
    if len(message) < max(24, int.from_bytes(frame[18:20])) or frame[14] >> 4 != 6:
        return None
    if frame[20:22] != bytes([_ICMPV6, 255]) or message[1] or _checksum(frame[22:54], message):
        return None
    kind, target, mac, options = message[0], message[8:24], frame[6:12], message[24:]
    while options:
        size = options[1] * 8 if len(options) > 1 else 0
        if not 0 < size <= len(options):
            return None
        if kind == _ADVERTISEMENT and options[:2] == bytes([_TARGET_MAC, 1]):
            mac = options[2:8]
        options = options[size:]
    wanted = kind == _SOLICITATION and not any(frame[22:38]) and frame[38:51] == _SOLICITED
    return (target, mac) if wanted or kind == _ADVERTISEMENT else None


def _checksum(ends: bytes, message: bytes) -> int:
    """Return what to write into an ICMPv6 message with 0 for its checksum; 0 of one whose checksum is right."""
    data = ends + struct.pack("!II", len(message), _ICMPV6) + message
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
