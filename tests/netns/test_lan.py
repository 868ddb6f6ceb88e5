"""What passes between containers and a machine on the LAN, and what does not."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from subprocess import PIPE, Popen
from typing import Any, cast

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import OTHER, PROGRAM, Host, both_firewalls, endpoint_id, network, port, program
from .test_conntrack import CLIENT, HOST, Asker, answering, lan
from .test_relay import container

__all__ = ["lan"]  # a fixture

BRIDGE = "com.docker.network.bridge"
UDP = socket.IPPROTO_UDP
#: Asks a link-local address over TCP and UDP: python3 -c ASK ADDRESS LINK
ASK = (
    "import socket,sys\n"
    "for kind,port in (1,8080),(2,5353):\n"
    "  s=socket.socket(socket.AF_INET6,kind);s.settimeout(2)\n"
    "  s.connect((sys.argv[1],port,0,socket.if_nametoindex(sys.argv[2])))\n"
    "  s.send(b'hello');print(s.recv(99)[:5].decode())"
)
#: Asks once over UDP: python3 -c ONCE ADDRESS PORT
ONCE = (
    "import socket,sys;s=socket.socket(2,2);s.settimeout(1);s.connect((sys.argv[1],int(sys.argv[2])))\n"
    "s.send(b'?');print(s.recv(99).decode())"
)
#: An answer to a ping that nobody sent, and then a datagram: python3 -c UNASKED ADDRESS
UNASKED = (
    "import socket,sys\n"
    "s=socket.socket(2,3,1);s.sendto(bytes([0,0,0xff,0xf1,0,7,0,7]),(sys.argv[1],0))\n"
    "s=socket.socket(2,2);s.sendto(b'end',(sys.argv[1],9))"
)
#: Prints the source of all packets up to the first UDP one: python3 -c SOURCES
SOURCES = (
    "import socket;s=socket.socket(17,2,socket.htons(0x800));s.settimeout(5);print('up',flush=True)\n"
    "while True:\n"
    "  data,where=s.recvfrom(99)\n"
    "  if where[2]!=4: print(socket.inet_ntoa(data[12:16]),flush=True)\n"
    "  if data[9]==17: break"
)
SPRAY = (
    "import socket;s=socket.socket(2,2);s.setsockopt(1,6,1);s.setsockopt(1,25,b'eth0')\n"
    "for _ in range(50): s.sendto(bytes(1000),('255.255.255.255',5353))"
)


def local_address(where: Namespace, link: str) -> str:
    lines = where.run("ip", "-6", "address", "show", "dev", link, "-tentative").splitlines()
    return next((line.split()[1].partition("/")[0] for line in lines if "inet6 fe80" in line), "")


@contextmanager
def printing(where: Namespace, code: str) -> Iterator[Popen[bytes]]:
    with where.popen(sys.executable, "-c", code, stdout=PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            process.kill()


@both_firewalls
def test_link_local_addresses_of_the_host_lead_to_published_ports(host: Host, lan: Namespace) -> None:
    """As with docker-proxy, for neighbours and the host itself: names of multicast DNS often mean such addresses."""
    host.ok("CreateNetwork", network(dual=True))
    with container(host, dual=True, listening="::"):
        host.ok(PROGRAM, program(2, port(8080), port(5353, 53, UDP)))
        assert eventually(lambda: local_address(host.netns, "lan0") and local_address(lan, "eth0"), timeout_s=30)
        address = local_address(host.netns, "lan0")
        for where, link in ((lan, "eth0"), (host.netns, "lan0")):
            assert where.run(sys.executable, "-c", ASK, address, link).split() == ["hello", "hello"]


def test_the_host_has_no_address_in_an_isolated_network(host: Host) -> None:
    """Not even a link-local one, which the kernel would give the bridge with its first port."""
    modes: Any = {f"{BRIDGE}.gateway_mode_ipv{version}": "isolated" for version in (4, 6)}
    host.ok("CreateNetwork", network(dual=True, internal=True, **modes))
    host.ok("CreateNetwork", network(OTHER, 8, dual=True, internal=True))
    host.attach(2, dual=True)
    host.attach(3, OTHER, 8, dual=True)
    assert eventually(lambda: local_address(host.netns, f"pn-{OTHER[:12]}"), timeout_s=30)
    time.sleep(1)  # the kernel tells a bridge of its first port up to a second later
    assert "inet" not in host.netns.run("ip", "address", "show", "dev", "pn-9f9f9f9f9f9f")


@both_firewalls
def test_nothing_leaves_with_a_containers_address(host: Host, lan: Namespace) -> None:
    """The kernel translates nothing that belongs to no flow, such as an answer that nobody asked for."""
    host.ok("CreateNetwork", network())
    with container(host, listening="") as sandbox, printing(lan, SOURCES) as sources:
        sandbox.run(sys.executable, "-c", UNASKED, CLIENT[4])
        assert sources.stdout is not None and sources.stdout.read().split() == [HOST[4].encode()]


def test_broadcasts_do_not_fill_held_ports(host: Host, lan: Namespace) -> None:
    """Nobody reads what arrives at a published port's own socket."""
    host.ok("CreateNetwork", network())
    with container(host, listening=""):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP, "0.0.0.0")))
        lan.run(sys.executable, "-c", SPRAY)
        (held,) = host.netns.run("ss", "-uanH", "sport", "=", ":5353").splitlines()
        assert held.split()[1] == "0"


@both_firewalls
def test_a_port_on_another_address_of_the_host_is_another_one(host: Host, lan: Namespace) -> None:
    """What is relayed for a network without icc is its own port, not one of the same number elsewhere."""
    second, apart = "192.0.2.9", cast(Any, {f"{BRIDGE}.enable_icc": "false"})
    host.netns.run("ip", "address", "add", f"{second}/24", "dev", "lan0")
    host.ok("CreateNetwork", network(**apart))
    host.ok("CreateNetwork", network(OTHER, 8))
    with container(host) as asking, Namespace() as other:
        host.attach(3, OTHER, 8)
        link = f"pnc{endpoint_id(3)[:12]}"
        host.netns.run("ip", "link", "set", link, "netns", other.name)
        other.run("ip", "address", "add", "10.8.0.3/24", "dev", link)
        other.run("ip", "link", "set", link, "up")
        other.run("ip", "route", "add", "default", "via", "10.8.0.1")
        host.ok(PROGRAM, program(2, port(5353, 53, UDP, HOST[4])))
        host.ok(PROGRAM, program(3, port(5353, 53, UDP, second), network_id=OTHER))
        with answering(other, "0.0.0.0", 53, "other"):
            assert asking.run(sys.executable, "-c", ONCE, second, "5353").strip() == "other"


@both_firewalls
def test_who_asked_while_there_were_no_rules_is_answered_after(host: Host, lan: Namespace) -> None:
    """A client that keeps sending would go on reaching nobody: what began meanwhile is forgotten."""
    host.ok("CreateNetwork", network())
    # Of somebody else, so that flows are remembered all the while.
    theirs = "add table ip theirs; add chain ip theirs leaving { type nat hook postrouting priority 200; }"
    host.netns.run("nft", theirs)
    with container(host):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP, "0.0.0.0")))
        with closing(Asker(lan, CLIENT[4], HOST[4], 5353)) as asker:
            daemon = host.daemon.pid
            assert daemon is not None
            os.kill(daemon, signal.SIGSTOP)
            host.netns.run("nft", "delete", "table", "inet", "pynet", check=False)
            host.netns.run("iptables-legacy", "-t", "nat", "-F", "PYNET-PREROUTING", check=False)
            assert asker.ask() == "-"
            os.kill(daemon, signal.SIGCONT)
            assert eventually(lambda: asker.ask().startswith("?|"), timeout_s=30)
