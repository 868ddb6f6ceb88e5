"""What the kernel cannot translate is relayed: to ::1, and over IPv6 to a container that has IPv4 alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netaddr import IPAddress

from pynetdriver.kernel import relay
from tests.lab.command import CommandFailed
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import OTHER, PROGRAM, REVOKE, Host, ids, network, port, program
from .inside import inside
from .test_life import can_bind

UDP = 17
#: Sends back what it gets and, at the end, from where it came: python3 -c ECHO ADDRESS
ECHO = """
import socket, sys, threading
def serve(connection, peer):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(b"|" + peer[0].encode())
def datagrams(held):
    while True:
        data, peer = held.recvfrom(65536)
        held.sendto(data + b"|" + peer[0].encode(), peer)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
udp = socket.socket(family, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
threading.Thread(target=datagrams, args=(udp,), daemon=True).start()
listener = socket.create_server((sys.argv[1], 80), family=family, backlog=200)
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
"""
#: Fails to connect within a second: python3 -c REACH ADDRESS
REACH = "import socket, sys; socket.create_connection((sys.argv[1], 8080), timeout=1)"
#: Addresses of the host; a client must get its answer from the one that it asked.
HOST = ("2001:db8::1", "2001:db8::2")


@contextmanager
def container(host: Host, number: int = 2, *, dual: bool = False, listening: str = "0.0.0.0") -> Iterator[Namespace]:
    """Play the engine: move an endpoint's link into a namespace with an echo server, if one shall listen."""
    host.attach(number, dual=dual)
    link = f"pnc{f'{number:04x}' * 3}"
    with Namespace() as sandbox:
        host.netns.run("ip", "link", "set", link, "netns", sandbox.name)
        sandbox.run("ip", "address", "add", f"10.9.0.{number}/24", "dev", link)
        if dual:
            sandbox.run("ip", "address", "add", f"fd00:9::{number:x}/64", "dev", link, "nodad")
        sandbox.run("ip", "link", "set", link, "up")
        for gateway in ["10.9.0.1", *(["fd00:9::1"] if dual else [])]:
            sandbox.run("ip", "route", "add", "default", "via", gateway)
        server = sandbox.popen(sys.executable, "-c", ECHO, listening, stdout=-1, stderr=-3) if listening else None
        try:
            if server is not None:
                assert server.stdout is not None and server.stdout.readline() == b"up\n"
            yield sandbox
        finally:
            if server is not None:
                server.kill()
                server.communicate()


def answer(address: str, number: int = 8080, data: bytes = b"hello") -> str:
    """Send data, close this side, and return what comes back until the other side closes."""
    with socket.create_connection((address, number), timeout=10) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def datagram(address: str, source: str = "") -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.bind((source, 0))
        client.connect((address, 5353))  # so that only the answer of this very address arrives
        client.send(b"hello")
        return client.recv(99).decode()


def connections(host: Host) -> int:
    """Count the daemon's sockets that are connected to a container; no others of it are connected."""
    lines = host.netns.run("ss", "-tunpH", "state", "connected").splitlines()
    return sum(f"pid={host.daemon.pid}," in line for line in lines)


def give_addresses(host: Host) -> None:
    for address in HOST:
        host.netns.run("ip", "address", "add", f"{address}/64", "dev", "lo", "nodad")


def ask_ipv4() -> None:
    for address in ("::1", "localhost", *HOST):
        assert answer(address) == "hello|10.9.0.1", address
    assert answer("10.9.0.1") == "hello|10.9.0.1"
    for address in ("::1", *HOST):
        assert [datagram(address) for _ in range(3)] == ["hello|10.9.0.1"] * 3
    assert datagram(HOST[0], source=HOST[1]) == datagram(HOST[1], source=HOST[0]) == "hello|10.9.0.1"


def test_ipv6_reaches_a_container_that_has_ipv4_alone(host: Host) -> None:
    """By ::1 and by any address of the host, TCP and UDP; the container sees its gateway."""
    give_addresses(host)
    host.ok("CreateNetwork", network())
    with container(host):
        host.ok(PROGRAM, program(2, port(8080), port(5353, 53, UDP)))
        assert "publish6" not in "".join(one for one in host.state().rules.splitlines() if "10.9.0.2" in one)
        inside(host.netns, ask_ipv4)
        assert connections(host) > 0
        host.ok(REVOKE, ids())
        assert connections(host) == 0


def ask_dual() -> None:
    assert answer("::1") == "hello|fd00:9::1"
    assert [datagram("::1") for _ in range(3)] == ["hello|fd00:9::1"] * 3
    assert answer(HOST[0]) == f"hello|{HOST[0]}", "this one needs no relay"


def test_loopback_reaches_a_container_with_both_families(host: Host) -> None:
    """::1 leads to the container's IPv6 address."""
    give_addresses(host)
    host.ok("CreateNetwork", network(dual=True))
    with container(host, dual=True, listening="::"):
        host.ok(PROGRAM, program(2, port(8080), port(5353, 53, UDP)))
        inside(host.netns, ask_dual)


def ask_loopback() -> None:
    assert answer("::1") == "hello|10.9.0.1"


def test_loopback_reaches_a_program_that_listens_on_ipv4_alone(host: Host) -> None:
    """A container with both families may run a program that knows only one."""
    host.ok("CreateNetwork", network(dual=True))
    with container(host, dual=True):
        host.ok(PROGRAM, program(2, port(8080, address="::1")))
        inside(host.netns, ask_loopback)


def ask_one_address() -> None:
    assert answer(HOST[0]) == answer("::1", 8081) == "hello|10.9.0.1"
    for address, number in ((HOST[1], 8080), ("::1", 8080), (HOST[0], 8081), ("127.0.0.1", 8080)):
        with pytest.raises(ConnectionRefusedError):
            answer(address, number)


def test_a_port_on_one_ipv6_address_is_on_no_other(host: Host) -> None:
    """-p [2001:db8::1]:… and -p [::1]:… for a container that has IPv4 alone."""
    give_addresses(host)
    host.ok("CreateNetwork", network())
    with container(host):
        host.ok(PROGRAM, program(2, port(8080, address=HOST[0]), port(8081, address="::1")))
        inside(host.netns, ask_one_address)


def test_ipv6_is_left_to_another_network_when_the_engine_says_so(host: Host) -> None:
    """A container's IPv6 gateway may be on another network, which publishes there."""
    host.ok("CreateNetwork", network())
    with container(host):
        request = program(2, port(8080), port(8081, address="::1"))
        request["Options"]["com.docker.network.driver.private.no_proxy_6to4"] = True
        host.ok(PROGRAM, request)
        assert host.netns.run("ss", "-tlnH6") == ""
        assert not can_bind(host, 8080) and can_bind(host, 8081)


def transfer() -> None:
    data = os.urandom(1 << 20) * 48
    with socket.create_connection(("::1", 8080), timeout=30) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        came, length = hashlib.sha256(), 0
        while length < len(data):
            part = client.recv(min(1 << 16, len(data) - length))
            assert part, "closed before all had come back"
            came.update(part)
            length += len(part)
        sender.join()
        assert came.digest() == hashlib.sha256(data).digest()
        assert client.recv(99) == b"|10.9.0.1" and client.recv(99) == b""


def stuff() -> None:
    """Send without ever reading: the container stops taking, and so must the relay."""
    with socket.create_connection(("::1", 8080), timeout=1) as client:
        with pytest.raises(TimeoutError):
            client.sendall(bytes(1 << 28))
        assert answer("::1") == "hello|10.9.0.1"


def test_much_goes_both_ways(host: Host) -> None:
    """All of it, the end of each direction too; the relay keeps none of it in memory, and goes on with others."""
    host.ok("CreateNetwork", network())
    with container(host):
        host.ok(PROGRAM, program(2, port(8080)))
        inside(host.netns, transfer)
        inside(host.netns, stuff)
        status = Path(f"/proc/{host.daemon.pid}/status").read_text()
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        assert peak < 150_000, f"{peak} kB"


def ask_in_parallel() -> None:
    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("::1", 8080)
        await barrier.wait()
        writer.write(b"%d" % number * 1000)
        writer.write_eof()
        assert await reader.read() == b"%d" % number * 1000 + b"|10.9.0.1"
        writer.close()

    async def everyone() -> None:
        await asyncio.gather(*map(one, range(100)))

    barrier = asyncio.Barrier(100)
    asyncio.run(everyone())


def vanish() -> None:
    """Reset a connection, leave one half open, and drop one that has something to read."""
    clients = [socket.create_connection(("::1", 8080)) for _ in range(3)]
    for one in clients:
        one.sendall(b"hello")
    assert clients[0].recv(9) == b"hello"
    clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    clients[1].shutdown(socket.SHUT_WR)
    for one in clients:
        one.close()


def test_nothing_is_left_of_clients(host: Host) -> None:
    """A hundred at once, and some that go without a word."""
    host.ok("CreateNetwork", network())
    with container(host) as sandbox:
        host.ok(PROGRAM, program(2, port(8080)))
        inside(host.netns, ask_in_parallel)
        inside(host.netns, vanish)
        eventually(lambda: connections(host) == 0)
        eventually(lambda: sandbox.run("ss", "-tnH", "state", "established") == "")
    assert "Traceback" not in host.daemon.log and "error" not in host.daemon.log


def be_refused() -> None:
    with pytest.raises(ConnectionResetError):
        answer("::1")
    with pytest.raises(TimeoutError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        for _ in range(3):
            client.sendto(b"hello", ("::1", 5353))
        client.recv(99)


def test_a_client_hears_that_the_container_refuses(host: Host) -> None:
    """No program listens: the connection is reset, a datagram stays unanswered, nothing is left."""
    host.ok("CreateNetwork", network())
    with container(host, listening=""):
        host.ok(PROGRAM, program(2, port(8080), port(5353, 53, UDP)))
        inside(host.netns, be_refused)
        assert connections(host) == 1  # the UDP client's, for a minute and a half
    assert "Traceback" not in host.daemon.log


#: Holds a connection open until its end comes, and says how: python3 -c CLIENT
CLIENT = """
import socket
client = socket.create_connection(("::1", 8080))
client.sendall(b"hello")
client.recv(5)
print("up", flush=True)
try: print("end" if client.recv(5) == b"" else "data", flush=True)
except ConnectionResetError: print("reset", flush=True)
input()
"""


@contextmanager
def client(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    with host.netns.popen(sys.executable, "-c", CLIENT, stdin=-1, stdout=-1, stderr=-3) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_new_daemon_relays_again(host: Host) -> None:
    """kill -9 ends relayed connections; what the kernel still remembers of them does not keep the port."""
    give_addresses(host)
    host.ok("CreateNetwork", network())
    with container(host):
        host.ok(PROGRAM, program(2, port(8080), port(5353, 53, UDP)))
        with client(host) as held:
            host.daemon.kill()
            assert said(held) == b"end"
            assert "FIN-WAIT" in host.netns.run("ss", "-tanH6"), "there is nothing to get over"
            host.daemon.start()
            assert "no longer ours" not in host.daemon.log
            inside(host.netns, ask_ipv4)
            assert not can_bind(host, 8080) and "[::]:8080" in host.netns.run("ss", "-tlnH6")


def bind_exclusively() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", 8080))


def test_a_port_is_free_at_once_though_it_has_clients(host: Host) -> None:
    """Published elsewhere or no more, its connections end, and the next one has it."""
    host.ok("CreateNetwork", network())
    with container(host):
        host.ok(PROGRAM, program(2, port(8080)))
        with client(host) as held:
            host.ok(PROGRAM, program(2, port(8080, 81), port(8081)))
            assert said(held) == b"reset"
        host.ok(PROGRAM, program(2, port(8080)))
        with client(host) as held:
            host.ok(REVOKE, ids())
            inside(host.netns, bind_exclusively)
            assert said(held) == b"reset"


async def _forget_idle_clients() -> None:
    held, server, asker = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3))
    for one in (held, server):
        one.bind(("::1", 0))
    server.settimeout(5)
    room = relay.Relay()
    before = len(os.listdir("/proc/self/fd"))
    room.open(held, "udp", (IPAddress("::1"),), server.getsockname()[1])
    relay.IDLE_S = 1
    asker.connect(held.getsockname()[:2])
    senders = set()
    for _ in range(8):
        asker.send(b"hello")
        await asyncio.sleep(0.25)
        senders.add(server.recvfrom(99)[1])
    assert len(senders) == 1, "a client that goes on was forgotten"
    await asyncio.sleep(1.5)
    assert len(os.listdir("/proc/self/fd")) == before
    asker.send(b"hello")
    await asyncio.sleep(0.25)
    assert server.recvfrom(99)[1] not in senders
    room.close(held)
    for one in (held, server, asker):
        one.close()


async def _leave_descriptors_to_others() -> None:
    held, server = (socket.create_server(("::1", 0), family=socket.AF_INET6) for _ in range(2))
    room = relay.Relay()
    room.open(held, "tcp", (IPAddress("::1"),), server.getsockname()[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
    clients = [socket.create_connection(held.getsockname()[:2]) for _ in range(40)]
    await asyncio.sleep(0.5)
    assert len(os.listdir("/proc/self/fd")) < 112
    for one in clients[:30]:
        one.close()
    server.setblocking(False)
    for _ in range(40):
        connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(server), 5)
        connection.close()
    room.close(held)
    for one in (held, server, *clients):
        one.close()


def forget_idle_clients() -> None:
    asyncio.run(_forget_idle_clients())


def leave_descriptors_to_others() -> None:
    asyncio.run(_leave_descriptors_to_others())


@pytest.mark.parametrize("experiment", [forget_idle_clients, leave_descriptors_to_others])
def test_clients_do_not_pile_up(experiment: Callable[[], None]) -> None:
    """Datagrams have no end, and connections no bound: the one is a time, the other the daemon's own."""
    with Namespace() as netns:
        inside(netns, experiment)


def test_an_internal_network_does_not_reach_a_relayed_port(host: Host) -> None:
    """Its own bridge has addresses of the host, but no port of another network is open there."""
    host.ok("CreateNetwork", network())
    host.ok("CreateNetwork", network(OTHER, 8, dual=True, internal=True))
    with container(host):
        host.ok(PROGRAM, program(2, port(8080)))
        host.attach(3, OTHER, 8, dual=True)
        with Namespace() as inner:
            host.netns.run("ip", "link", "set", "pnc000300030003", "netns", inner.name)
            inner.run("ip", "address", "add", "fd00:8::3/64", "dev", "pnc000300030003", "nodad")
            inner.run("ip", "link", "set", "pnc000300030003", "up")
            eventually(lambda: inner.run("ping", "-c1", "-W1", "fd00:8::1"))
            with pytest.raises(CommandFailed, match="timed out"):
                inner.run(sys.executable, "-c", REACH, "fd00:8::1")
