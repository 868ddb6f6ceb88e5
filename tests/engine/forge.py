"""Send one UDP datagram with any addresses, past the sender's own routing: python forge.py LINK MAC FROM TO PORT."""

import ipaddress
import socket
import struct
import sys


def checksum(data: bytes) -> int:
    """Sum up as RFC 1071 does."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> None:
    """Put the frame on the wire."""
    link, mac, source, target, port = sys.argv[1:]
    payload = b"forged"
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    length = 8 + len(payload)
    ports = struct.pack("!HHH", 4000, int(port), length)
    pseudo = addresses + struct.pack("!HH", length, socket.IPPROTO_UDP)
    datagram = ports + struct.pack("!H", checksum(pseudo + ports + b"\0\0" + payload)) + payload
    if ":" in source:
        kind, head = b"\x86\xdd", struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + addresses
    else:
        kind, head = b"\x08\x00", struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, socket.IPPROTO_UDP, 0)
        head = head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((link, 0))
        ethernet = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + kind
        wire.send(ethernet + head + datagram)


if __name__ == "__main__":
    main()
