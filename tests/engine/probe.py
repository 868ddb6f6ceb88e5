"""Answer probes or send them, inside a network namespace; knows nothing of networks or engines.

probe.py serve NAME PORT…    prints "up", then tells whoever asks NAME and the address it sees, until killed
probe.py ask                 reads [[protocol, address, port], …], prints what each was told or null, both as JSON
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

#: PATIENCE_S without any answer is the end of a try.
TRIES, PATIENCE_S = 2, 0.6
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "icmp": socket.SOCK_DGRAM}
#: Echo requests for a ping socket, which fills in identifier and checksum.
ECHO = {socket.AF_INET: struct.pack("!BBHHH", 8, 0, 0, 0, 1), socket.AF_INET6: struct.pack("!BBHHH", 128, 0, 0, 0, 1)}


async def serve(name: str, ports: list[int]) -> None:
    """Answer on TCP and UDP, IPv4 and IPv6, from the address that was asked."""

    def told(peer: str) -> bytes:
        return f"{name} {peer.removeprefix('::ffff:')}".encode()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(told(writer.get_extra_info("peername")[0]))
        writer.close()

    def received(sock: socket.socket) -> None:
        _, control, _, peer = sock.recvmsg(64, 256)
        asked = [(level, kind, data[:16] + bytes(4)) for level, kind, data in control]
        with suppress(OSError):  # There may be no way back.
            sock.sendmsg([told(peer[0])], asked, 0, peer)

    for port in ports:
        sock = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1000)
        await asyncio.start_server(connected, sock=sock)
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setblocking(False)
        sock.bind(("", port))
        asyncio.get_running_loop().add_reader(sock, partial(received, sock))
    end = time.monotonic() + 5
    while _tentative() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def _tentative() -> bool:
    """Whether an IPv6 address is not yet usable. Source: kernel net/ipv6/addrconf.c, if6_seq_show."""
    lines = Path("/proc/net/if_inet6").read_text().splitlines()
    return any(int(line.split()[4], 16) & 0x40 for line in lines)


async def ask(protocol: str, address: str, port: int) -> str | None:
    """Return what is told at an address, "echo" for ICMP, None if it is refused; waits for ever."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = 0
    if protocol == "icmp":
        number = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    loop = asyncio.get_running_loop()
    with suppress(OSError), socket.socket(family, KINDS[protocol], number) as sock:
        sock.setblocking(False)
        if protocol == "tcp":
            await loop.sock_connect(sock, (address, port))
        else:
            sock.connect((address, port))
        await loop.sock_sendall(sock, ECHO[family] if number else b"who?")
        data = await loop.sock_recv(sock, 200)
        return "echo" if data and number else data.decode() or None
    return None


async def ask_all(questions: list[tuple[str, str, int]]) -> list[str | None]:
    """Ask everybody at once, and who did not answer again: twice at least, and as long as that brings answers."""
    answers: list[str | None] = [None] * len(questions)
    news, tries = True, 0
    while news or tries < TRIES:
        tasks = {i: asyncio.create_task(ask(*one)) for i, one in enumerate(questions) if answers[i] is None}
        before, done = -1, 0
        while before < done < len(tasks):
            await asyncio.sleep(PATIENCE_S)
            before, done = done, sum(task.done() for task in tasks.values())
        told = {i: task.result() for i, task in tasks.items() if task.done()}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for i, answer in told.items():
            answers[i] = answer
        news, tries = any(told.values()), tries + 1
    return answers


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2], [int(port) for port in sys.argv[3:]]))
    else:
        json.dump(asyncio.run(ask_all(json.load(sys.stdin))), sys.stdout)
