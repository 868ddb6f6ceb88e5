"""A client that keeps its source port reaches what is published now, not what was there before."""

import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from subprocess import PIPE, Popen
from typing import Any

import pytest

from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import SOON_S, eventually

from .host import PROGRAM, REVOKE, Host, endpoint, endpoint_id, ids, join, network, port, program

ECHO = (
    "import socket,sys;f=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
    "s=socket.socket(f,socket.SOCK_DGRAM);s.bind((sys.argv[1],int(sys.argv[2])));print('up',flush=True)\n"
    "while True: a=s.recvfrom(99)[1]; s.sendto(sys.argv[3].encode(),a)"
)
#: Asks from one and the same source port, once for each line of its input, and says who answered.
ASK = (
    "import socket,sys;f=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
    "s=socket.socket(f,socket.SOCK_DGRAM);s.bind((sys.argv[1],4444));s.settimeout(0.3)\n"
    "for line in sys.stdin:\n"
    "  s.sendto(b'?',(sys.argv[2],int(sys.argv[3])))\n"
    "  try: print(s.recv(99).decode(),flush=True)\n"
    "  except OSError as e: print('-',flush=True)"
)
#: Take connections to a port, and make one; both are kept.
LISTEN = (
    "import socket;s=socket.create_server(('',5001));print('up',flush=True);kept=[]\n"
    "while True: kept.append(s.accept())"
)
CONNECT = (
    "import socket,sys,time;s=socket.create_connection((sys.argv[1],int(sys.argv[2])),5);print('up',flush=True)\n"
    "time.sleep(60)"
)
HOST, CLIENT = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.2", 6: "2001:db8::2"}


class Asker:
    """A client with one socket."""

    def __init__(self, where: Namespace, source: str, target: str, number: int) -> None:
        command = (sys.executable, "-c", ASK, source, target, str(number))
        self.process: Popen[bytes] = where.popen(*command, stdin=PIPE, stdout=PIPE)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        with self.process:
            pass

    def ask(self) -> str:
        """Ask once."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()


@contextmanager
def running(where: Namespace, script: str, *arguments: str) -> Iterator[None]:
    """Have a script run there from when it says `up`."""
    with where.popen(sys.executable, "-c", script, *arguments, stdout=PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()


def answering(where: Namespace, address: str, number: int, name: str) -> AbstractContextManager[None]:
    """Have a UDP server there that answers its name."""
    return running(where, ECHO, address, str(number), name)


def move_in(host: Host, number: int, container: Namespace, address: int = 0) -> None:
    """Do what the engine does after Join; the addresses end with the endpoint's number or the given one."""
    link = f"pnc{endpoint_id(number)[:12]}"
    host.netns.run("ip", "link", "set", link, "netns", container.name)
    last = address or number
    for given in (f"10.9.0.{last}/24", f"fd00:9::{last:x}/64"):
        container.run("ip", "address", "add", given, "dev", link, *(("nodad",) if ":" in given else ()))
    container.run("ip", "link", "set", link, "up")
    for gateway in ("10.9.0.1", "fd00:9::1"):
        container.run("ip", "route", "add", "default", "via", gateway)


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """A machine beside the host."""
    with Namespace() as machine:
        own, other = (tuple(f"{side[v]}/{24 if v == 4 else 64}" for v in (4, 6)) for side in (HOST, CLIENT))
        connect(Plug(host.netns, "lan0", own), Plug(machine, "eth0", other))
        yield machine


@pytest.mark.parametrize(("version", "address"), [(4, ""), (4, HOST[4]), (6, HOST[6])])
def test_a_flow_follows_the_published_port(host: Host, lan: Namespace, version: int, address: str) -> None:
    """Before it is published, while it is, when another container has it, and after: one client, one socket.

    The host port is not the container's, so a mix-up of the two shows. On all addresses of IPv6 the daemon would
    relay what goes on to the host.
    """
    host.ok("CreateNetwork", network(dual=True))
    with ExitStack() as stack:
        containers = [stack.enter_context(Namespace()) for _ in range(2)]
        for number, container in enumerate(containers, 2):
            host.ok("CreateEndpoint", endpoint(number, dual=True))
            host.ok("Join", join(number))
            move_in(host, number, container)
            stack.enter_context(answering(container, "::" if version == 6 else "0.0.0.0", 53, f"container {number}"))
        asker = Asker(lan, CLIENT[version], HOST[version], 5353)
        stack.callback(asker.close)
        with answering(host.netns, HOST[version], 5353, "host"):
            assert asker.ask() == "host"
        for number in (2, 3):
            host.ok(PROGRAM, program(number, port(5353, 53, socket.IPPROTO_UDP, address)))
            assert eventually(lambda: asker.ask() == f"container {number}", timeout_s=SOON_S)  # noqa: B023
            host.ok("RevokeExternalConnectivity", ids(number))
        assert eventually(lambda: asker.ask() == "-", timeout_s=SOON_S)
        with answering(host.netns, HOST[version], 5353, "host"):
            assert eventually(lambda: asker.ask() == "host", timeout_s=SOON_S)


@pytest.mark.parametrize("by", ["program", "revoke", "endpoint", "crash"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_follows_to_another_port_of_the_same_address(host: Host, lan: Namespace, version: int, by: str) -> None:
    """`5000:5001` becomes `5000:5002` with the address unchanged, and the container listens on both."""
    host.ok("CreateNetwork", network(dual=True))
    address = HOST[version]
    with Namespace() as container, ExitStack() as stack:
        host.attach(2, dual=True)
        move_in(host, 2, container)
        for number in (5001, 5002):
            stack.enter_context(answering(container, "::" if version == 6 else "0.0.0.0", number, str(number)))
        asker = Asker(lan, CLIENT[version], address, 5000)
        stack.callback(asker.close)
        host.ok(PROGRAM, program(2, port(5000, 5001, socket.IPPROTO_UDP, address)))
        assert asker.ask() == "5001"
        number = 2
        if by == "revoke":
            host.ok(REVOKE, ids(2))
        elif by == "endpoint":
            # A container made anew: another endpoint with the addresses of the former one.
            host.ok("DeleteEndpoint", ids(2))
            number = 3
            again = {**endpoint(2, dual=True), **ids(3)}
            host.ok("CreateEndpoint", again)
            host.ok("Join", join(3))
            move_in(host, 3, container, address=2)
        host.ok(PROGRAM, program(number, port(5000, 5002, socket.IPPROTO_UDP, address)))
        if by == "crash":
            host.restart()
        assert eventually(lambda: asker.ask() == "5002", timeout_s=5)


@pytest.mark.parametrize("after", [port(5000, 5002), port(5003, 5001), port(5000, 5002, end=5009)])
def test_connections_to_what_is_published_no_more_are_forgotten(host: Host, lan: Namespace, after: Any) -> None:
    """TCP, when the container's port or the host's becomes another."""
    host.ok("CreateNetwork", network())
    with Namespace() as container, ExitStack() as stack:
        host.attach(2)
        move_in(host, 2, container)
        stack.enter_context(running(container, LISTEN))
        host.ok(PROGRAM, program(2, port(5000, 5001), port(6000, 5001)))
        for number in (5000, 6000):
            stack.enter_context(running(lan, CONNECT, HOST[4], str(number)))
        host.ok(PROGRAM, program(2, after, port(6000, 5001)))
        assert eventually(lambda: not any("dport=5000" in flow for flow in flows(host, "tcp")), timeout_s=5)
        assert any("dport=6000" in flow for flow in flows(host, "tcp"))


def test_flows_that_are_right_are_kept(host: Host, lan: Namespace) -> None:
    """A container's own flow to that port elsewhere, and flows to other ports, are remembered on."""
    host.ok("CreateNetwork", network(dual=True))
    with ExitStack() as stack:
        container = stack.enter_context(Namespace())
        host.ok("CreateEndpoint", endpoint(2, dual=True))
        host.ok("Join", join(2))
        move_in(host, 2, container)
        host.ok(PROGRAM, program(2, port(6000, 60, socket.IPPROTO_UDP)))
        stack.enter_context(answering(container, "0.0.0.0", 60, "container"))
        stack.enter_context(answering(lan, CLIENT[4], 5353, "lan"))
        outward = Asker(container, "10.9.0.2", CLIENT[4], 5353)
        inward = Asker(lan, CLIENT[4], HOST[4], 6000)
        stack.callback(outward.close)
        stack.callback(inward.close)
        assert (outward.ask(), inward.ask()) == ("lan", "container")
        before = flows(host)
        assert before
        host.ok(PROGRAM, program(2, port(6000, 60, socket.IPPROTO_UDP), port(5353, 53, socket.IPPROTO_UDP)))
        host.ok(PROGRAM, program(2, port(6000, 60, socket.IPPROTO_UDP)))
        host.daemon.stop()  # sees all that is in hand to its end
        assert flows(host) == before


def flows(host: Host, protocol: str = "udp") -> set[str]:
    """List remembered flows without what changes with time."""
    lines = host.netns.run("cat", "/proc/net/nf_conntrack").splitlines()
    words = [[word for word in line.split()[5:] if "=" in word] for line in lines if f" {protocol} " in line]
    return {" ".join(one) for one in words}
