"""Small clients and servers, run as a program of their own in a network namespace.

usage: python traffic.py serve PORT                     accept and close, until killed
       python traffic.py connect ADDRESS PORT COUNT     prints the microseconds of each connect() as JSON
       python traffic.py sink PORT                      takes one connection, prints its Gbit/s
       python traffic.py send ADDRESS PORT SECONDS      sends as much as it can
       python traffic.py tap LINK                       prints DHCP messages that pass a link, until killed: nanoseconds
                                                        since 1970, message type, transaction, as JSON, one a line
A server prints "up" as soon as it listens, and so does a tap.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable

_CHUNK = 1 << 20
_WARM_UP = 500
#: Close at once, by a reset: thousands of connections leave no port in TIME_WAIT.
_RESET = struct.pack("ii", 1, 0)
_ALL = 0x0003  # ETH_P_ALL of linux/if_ether.h: only a tap for all sees what the machine itself sends
_TIMESTAMP = 35  # SO_TIMESTAMPNS of asm-generic/socket.h; the kernel says when a frame passed
_TIMESPEC = struct.Struct("ll")
_MAGIC, _MESSAGE_TYPE = b"\x63\x82\x53\x63", 53  # RFC 2131 section 3, RFC 2132 section 9.6


def serve(port: str) -> None:
    """Accept connections and close them."""
    with _listener(port) as server:
        while True:
            server.accept()[0].close()


def connect(address: str, port: str, count: str) -> None:
    """Measure how long new connections take; some more come first, for caches and clocks of the processor."""
    target, times = (address, int(port)), []
    for _ in range(_WARM_UP + int(count)):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            start = time.perf_counter_ns()
            one.connect(target)
            times.append((time.perf_counter_ns() - start) / 1000)
    _say(json.dumps(times[_WARM_UP:]))


def sink(port: str) -> None:
    """Measure what one connection brings."""
    buffer, total = bytearray(_CHUNK), 0
    with _listener(port) as server:
        connection, _ = server.accept()
        with connection:
            start = time.perf_counter()
            while received := connection.recv_into(buffer):
                total += received
            _say(str(total * 8 / 1e9 / (time.perf_counter() - start)))


def send(address: str, port: str, seconds: str) -> None:
    """Send for a while."""
    data, end = bytes(_CHUNK), time.monotonic() + float(seconds)
    with socket.create_connection((address, int(port)), timeout=10) as one:
        while time.monotonic() < end:
            one.sendall(data)


def tap(link: str) -> None:
    """Print the DHCP messages that pass."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
        packets.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        packets.bind((link, _ALL))
        _say("up")
        while True:
            frame, notes, _, _ = packets.recvmsg(2048, socket.CMSG_SPACE(_TIMESPEC.size))
            message = _dhcp(frame)
            if message is not None and notes:
                seconds, nanoseconds = _TIMESPEC.unpack(notes[0][2])
                _say(json.dumps([seconds * 10**9 + nanoseconds, *message]))


def _dhcp(frame: bytes) -> tuple[int, int] | None:
    """Return type and transaction of a DHCP message."""
    bootp = 14 + 4 * (frame[14] & 15) + 8 if len(frame) > 42 else 0
    if not bootp or frame[12:14] != b"\x08\0" or frame[23] != socket.IPPROTO_UDP:
        return None
    if frame[bootp + 236 : bootp + 240] != _MAGIC:
        return None
    at = bootp + 240
    while at + 2 < len(frame) and frame[at] != _MESSAGE_TYPE:
        at += 2 + frame[at + 1] if frame[at] else 1
    return (frame[at + 2], int.from_bytes(frame[bootp + 4 : bootp + 8])) if at + 2 < len(frame) else None


def _listener(port: str) -> socket.socket:
    server = socket.create_server(("", int(port)), backlog=4096)
    _say("up")
    return server


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


_COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "connect": connect, "sink": sink, "send": send, "tap": tap}

if __name__ == "__main__":
    _COMMANDS[sys.argv[1]](*sys.argv[2:])
