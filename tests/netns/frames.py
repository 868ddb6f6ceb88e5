"""Frames that no program would send, and a program of the host's that hears what it is not meant to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from tests.lab.netns import Namespace

BROADCAST = "ff:ff:ff:ff:ff:ff"
#: Those of a bridge's own protocols, which the host takes in as a port's (IEEE 802.1D table 7-10).
RESERVED = tuple(f"01:80:c2:00:00:{last}" for last in ("02", "03", "0e"))
PORT = 9999

_SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
    one.bind((sys.argv[1], 0))
    for frame in sys.argv[2:]:
        one.send(bytes.fromhex(frame))
"""
_SNIFF = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as one:
    one.bind((sys.argv[1], 3))
    print("ready", flush=True)
    while True:
        print(one.recv(4000).hex(), flush=True)
"""
_LISTEN = """
import socket, struct, sys
one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
one.bind(("::", int(sys.argv[1])))
print("ready", flush=True)
while (heard := one.recv(2000)) != b"end":
    print(heard.decode(), flush=True)
"""


def send(where: Namespace, *frames: bytes, link: str = "eth0") -> None:
    """Send whole frames by a packet socket, as who has NET_RAW can."""
    where.run(sys.executable, "-c", _SEND, link, *(frame.hex() for frame in frames))


def mac_of(where: Namespace, link: str = "eth0") -> str:
    """Tell a link's MAC."""
    return where.run("ip", "-br", "link", "show", link).split()[2]


def ethernet(to: str, source: str, packet: bytes, *tags: int) -> bytes:
    """Write a frame with an IP packet, perhaps with VLAN tags."""
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    tagged = b"".join(b"\x81\x00" + tag.to_bytes(2, "big") for tag in tags)
    return bytes.fromhex((to + source).replace(":", "")) + tagged + kind + packet


def ip(source: str, to: str, protocol: int, payload: bytes, *, fragment: int = 0, limit: int = 255) -> bytes:
    """Write a packet; for IPv4 `fragment` is what its header says of fragments."""
    addresses = ip_address(source).packed + ip_address(to).packed
    if len(addresses) == 32:
        return b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([protocol, limit]) + addresses + payload
    head = b"\x45\0" + (20 + len(payload)).to_bytes(2, "big") + b"\x12\x34" + fragment.to_bytes(2, "big")
    head += bytes([limit, protocol])
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + payload


def udp(source: str, to: str, text: str, port: int = PORT, source_port: int = 1234) -> bytes:
    """Write a UDP packet."""
    data = text.encode()
    length = 8 + len(data)
    addresses = ip_address(source).packed + ip_address(to).packed
    head = source_port.to_bytes(2, "big") + port.to_bytes(2, "big") + length.to_bytes(2, "big")
    pseudo = addresses + length.to_bytes(4, "big") + b"\0\0\0\x11"
    total = checksum(pseudo + head + b"\0\0" + data) or 0xFFFF
    return ip(source, to, 17, head + total.to_bytes(2, "big") + data)


def icmp6(source: str, to: str, message: bytes) -> bytes:
    """Write an ICMPv6 message with its checksum, of which the message has zeros."""
    pseudo = ip_address(source).packed + ip_address(to).packed + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    return message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]


def checksum(data: bytes) -> int:
    """Add up as RFC 1071 says."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@contextmanager
def heard(where: Namespace, port: int = PORT) -> Iterator[set[str]]:
    """Have a program listen on a UDP port of all addresses; what it heard is there at the end of the block."""
    found: set[str] = set()
    with where.popen(sys.executable, "-c", _LISTEN, str(port), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield found
            end = f'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"end", ("127.0.0.1", {port}))'
            where.run(sys.executable, "-c", end)
            found.update(line.decode().strip() for line in process.stdout)
        finally:
            process.kill()


@contextmanager
def seen(where: Namespace, link: str = "eth0") -> Iterator[list[str]]:
    """Look at a link's frames; those seen so far stand in the list as hexadecimal digits."""
    found: list[str] = []
    with where.popen(sys.executable, "-c", _SNIFF, link, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        output = process.stdout
        reading = threading.Thread(target=lambda: found.extend(line.decode() for line in output))
        reading.start()
        try:
            yield found
        finally:
            process.kill()
            reading.join()
