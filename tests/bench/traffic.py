"""Small clients and servers, run as a program of their own in a network namespace.

usage: python traffic.py serve PORT                     accept and close, until killed
       python traffic.py connect ADDRESS PORT COUNT     prints the microseconds of each connect() as JSON
       python traffic.py sink PORT                      takes one connection, prints its Gbit/s
       python traffic.py send ADDRESS PORT SECONDS      sends as much as it can
A server prints "up" as soon as it listens.
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


def _listener(port: str) -> socket.socket:
    server = socket.create_server(("", int(port)), backlog=4096)
    _say("up")
    return server


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


_COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "connect": connect, "sink": sink, "send": send}

if __name__ == "__main__":
    _COMMANDS[sys.argv[1]](*sys.argv[2:])
