"""What the kernel cannot translate is relayed: to ::1, over IPv6 to a container that has IPv4 alone, broadcasts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.kernel import relay
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.locks import Calls
from pynetdriver.model import Endpoint
from pynetdriver.portmap import PortRequest
from tests.lab.command import CommandFailed
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from . import engine_rules
from .host import OTHER, PROGRAM, REVOKE, Host, both_firewalls, ids, network, port, program
from .inside import inside
from .parents import on_lan
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
    room = relay.Relay(Calls())
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
    room = relay.Relay(Calls())
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


def come_later() -> None:
    held, asker = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    held.bind(("::1", 0))
    room = relay.Relay(Calls())
    room.open(held, "udp", (IPAddress("10.9.0.2"),), 53)
    asker.connect(held.getsockname()[:2])
    asker.send(b"no way there")
    time.sleep(0.3)
    subprocess.run(["ip", "address", "add", "10.9.0.2/32", "dev", "lo"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.9.0.2", 53))
        server.settimeout(5)
        asker.send(b"hello")
        assert server.recv(99) == b"hello"
    room.close(held)


def test_a_client_is_not_left_to_a_flow_that_could_not_begin() -> None:
    """The container was not to be reached when it first asked."""
    with Namespace() as netns:
        inside(netns, come_later)


@pytest.mark.parametrize("experiment", [forget_idle_clients, leave_descriptors_to_others])
def test_clients_do_not_pile_up(experiment: Callable[[], None]) -> None:
    """Datagrams have no end, and connections no bound: the one is a time, the other the daemon's own."""
    with Namespace() as netns:
        inside(netns, experiment)


def flood() -> None:
    """Connect as fast as can be, so often."""
    for _ in range(1500):
        with contextlib.suppress(OSError):
            socket.create_connection(("::1", 8080), timeout=20).close()


def spent(pid: int | None) -> dict[str, int]:
    """How much time of a processor each thread had, in ticks (proc(5))."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found[task.name] = sum(map(int, (task / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return found


def test_what_is_relayed_takes_no_time_of_the_loop_that_the_engine_waits_for(host: Host) -> None:
    """One client that connects as fast as it can keeps another thread busy; that ends with the last port."""
    host.ok("CreateNetwork", network())
    without = spent(host.daemon.pid)
    with container(host):
        host.ok(PROGRAM, program(2, port(8080)))
        before, times = spent(host.daemon.pid), dict[str, int]()
        while sum(times.values()) < 50:
            inside(host.netns, flood)
            times = {task: ticks - before.get(task, 0) for task, ticks in spent(host.daemon.pid).items()}
        assert times[str(host.daemon.pid)] < sum(times.values()) / 4, times
        relaying = max(times, key=lambda task: times[task])
        assert relaying not in without, "a thread though nothing is relayed"
        host.ok(REVOKE, ids())
        eventually(lambda: relaying not in spent(host.daemon.pid))


def carried_to(number: int) -> int:
    """Count UDP sockets that are connected to a port (proc_net_tcp.rst)."""
    lines = Path("/proc/self/net/udp").read_text().splitlines()[1:]
    return sum(int(line.split()[2].rpartition(":")[2], 16) == number for line in lines)


class Asked:
    """A relayed UDP port with its server, and clients with addresses of their own."""

    def __init__(self, room: relay.Relay) -> None:
        self.held, self.server = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for one in (self.held, self.server):
            one.bind(("127.0.0.1", 0))
        self.server.settimeout(20)
        self.number: int = self.server.getsockname()[1]
        room.open(self.held, "udp", (IPAddress("127.0.0.1"),), self.number)

    def ask(self, *sources: str) -> None:
        """Send from each of these addresses, and wait until it has come."""
        for source in sources:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((source, 999))
                client.sendto(source.encode(), self.held.getsockname())
                while self.server.recv(99) != source.encode():
                    pass


def share_among_ports() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
    room = relay.Relay(Calls())
    flooded, calm, other = (Asked(room) for _ in range(3))
    flooded.ask(*(f"127.1.{number // 250}.{number % 250 + 1}" for number in range(400)))
    assert carried_to(flooded.number) == 100
    few = [f"127.2.0.{number}" for number in range(1, 31)]
    calm.ask(*few)
    assert (carried_to(flooded.number), carried_to(calm.number)) == (70, 30)
    flooded.ask(*(f"127.3.0.{number}" for number in range(1, 250)))
    assert (carried_to(flooded.number), carried_to(calm.number)) == (70, 30), "one took what was another's"
    for asked in (calm, other):
        asked.ask(*(f"127.4.0.{number}" for number in range(1, 250)))
    shares = [carried_to(one.number) for one in (flooded, calm, other)]
    assert sum(shares) == 100 and min(shares) >= 33, shares


def share_among_sources() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
    room = relay.Relay(Calls())
    held, server = (socket.create_server(("127.0.0.1", 0), backlog=400) for _ in range(2))
    room.open(held, "tcp", (IPAddress("127.0.0.1"),), server.getsockname()[1])
    with socket.create_connection(held.getsockname(), 20, ("127.0.0.2", 0)) as one:
        many = [socket.create_connection(held.getsockname(), source_address=("127.0.0.3", 0)) for _ in range(149)]
        for ended in many[:50]:
            ended.settimeout(20)
            with pytest.raises(ConnectionResetError):
                ended.recv(1)
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)


@pytest.mark.parametrize("experiment", [share_among_ports, share_among_sources])
def test_nobody_takes_what_others_need(experiment: Callable[[], None]) -> None:
    """Neither a port, whoever floods it with sources that are not his own, nor one source at a port."""
    with Namespace() as netns:
        inside(netns, experiment)


def give_up_a_port_with_many_clients() -> None:
    relay._AT_ONCE = 2
    server = socket.create_server(("127.0.0.1", 0), backlog=99)
    holder = Endpoint(id="a" * 64, network_id="9" * 64, mac="", mac_given=False, address4=IPNetwork("127.0.0.1/8"))
    request = PortRequest("tcp", (IPAddress("::1"),), 8080, 8080, server.getsockname()[1])
    ports = HostPorts()
    for _ in range(5):
        mappings = ports.hold(holder, [request])
        clients = [socket.create_connection(("::1", 8080), 20) for _ in range(50)]
        others = [server.accept() for _ in clients]
        ports.release(holder.id, mappings)
    ports.hold(holder, [request])
    for one in clients:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    assert len(others) == 50
    ports.close()


def test_a_port_with_many_clients_is_free_at_once() -> None:
    """They are not all ended while the engine waits, and do not stand in the way of the next holder."""
    with Namespace() as netns:
        inside(netns, give_up_a_port_with_many_clients)


#: Broadcasts a datagram and says what is answered by whom: python3 -c BROADCAST ADDRESS
BROADCAST = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
one.settimeout(float(sys.argv[2]))
one.sendto(b"hello", (sys.argv[1], 5353))
try: data, (address, number) = one.recvfrom(99); print(data.decode(), address, number)
except TimeoutError: print("nothing")
"""


def broadcast(where: Namespace, address: str, wait_s: float = 10) -> str:
    return where.run(sys.executable, "-c", BROADCAST, address, str(wait_s)).strip()


def on_bridge(host: Host, sandbox: Namespace, bridge: str) -> None:
    """Put a machine with 10.7.0.2 on a bridge of the host's own."""
    host.netns.run("ip", "link", "add", bridge, "type", "bridge")
    host.netns.run("ip", "address", "add", "10.7.0.1/24", "dev", bridge)
    host.netns.run("ip", "link", "add", "there", "type", "veth", "peer", "name", "eth0", "netns", sandbox.name)
    for where, link in ((host.netns, bridge), (host.netns, "there"), (sandbox, "eth0")):
        where.run("ip", "link", "set", link, "up")
    host.netns.run("ip", "link", "set", "there", "master", bridge)
    sandbox.run("ip", "address", "add", "10.7.0.2/24", "broadcast", "10.7.0.255", "dev", "eth0")
    sandbox.run("ip", "route", "add", "default", "via", "10.7.0.1")


def test_broadcasts_reach_a_published_port(host: Host) -> None:
    """To all and to the subnet, also after a restart; the answer comes from the host's address there."""
    host.ok("CreateNetwork", network())
    with on_lan(host) as lan, container(host):
        lan.run("ip", "route", "replace", "default", "via", "192.0.2.1")
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        for _ in range(2):
            for address in ("255.255.255.255", "192.0.2.255"):
                assert broadcast(lan, address) == "hello|10.9.0.1 192.0.2.1 5353", address
            assert broadcast(lan, "192.0.2.1").startswith("hello|192.0.2."), "this one needs no relay"
            host.restart()
        host.ok(PROGRAM, program(2, port(5353, 53, UDP, "192.0.2.1")))
        assert broadcast(lan, "192.0.2.255", 1) == "nothing", "it is published on one address"
        host.ok(REVOKE, ids())
        assert broadcast(lan, "192.0.2.255", 1) == "nothing"


@pytest.mark.parametrize(("bridge", "reached"), [("virbr0", True), ("docker0", False), ("br-0123456789ab", False)])
def test_broadcasts_of_the_engines_containers_are_not_relayed(host: Host, bridge: str, reached: bool) -> None:
    """Some of its networks are internal, which their broadcasts do not show."""
    host.ok("CreateNetwork", network())
    with container(host), Namespace() as guest:
        on_bridge(host, guest, bridge)
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        answered = broadcast(guest, "10.7.0.255", 10 if reached else 2)
        assert answered == ("hello|10.9.0.1 10.7.0.1 5353" if reached else "nothing")


def test_broadcasts_of_an_engine_bridge_of_any_name_are_not_relayed(host: Host) -> None:
    """The engine's rules name it."""
    host.ok("CreateNetwork", network())
    with container(host), Namespace() as guest:
        on_bridge(host, guest, "x1")
        engine_rules.write(host.netns, engine_rules.ENGINES[1], bridges=("x1",))
        host.restart()
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        assert broadcast(guest, "10.7.0.255", 2) == "nothing"


@both_firewalls
def test_broadcasts_of_an_internal_network_stay_there(host: Host, firewall: str) -> None:
    """They reach the host, but no port of another network."""
    host.ok("CreateNetwork", network())
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    with container(host):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        host.attach(3, OTHER, 8)
        with Namespace() as inner:
            host.netns.run("ip", "link", "set", "pnc000300030003", "netns", inner.name)
            inner.run("ip", "address", "add", "10.8.0.3/24", "broadcast", "10.8.0.255", "dev", "pnc000300030003")
            inner.run("ip", "link", "set", "pnc000300030003", "up")
            eventually(lambda: inner.run("ping", "-c1", "-W1", "10.8.0.1"))
            assert broadcast(inner, "10.8.0.255", 2) == "nothing"
            host.ok("DeleteEndpoint", ids(3, OTHER))
            host.ok("DeleteNetwork", {"NetworkID": OTHER})


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
