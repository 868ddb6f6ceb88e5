"""Send one UDP datagram with any addresses, past the sender's own routing: python forge.py LINK MAC FROM TO PORT."""

import socket
import struct
import sys


def main() -> None:
    """Put the frame on the wire."""
    link, mac, source, target, port = sys.argv[1:]
    payload = b"forged"
    datagram = struct.pack("!HHHH", 4000, int(port), 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((link, 0))
        ethernet = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("020000000001") + b"\x08\x00"
        wire.send(ethernet + head + datagram)


if __name__ == "__main__":
    main()
