"""A container with IPv6 turned off on its interface: the engine takes its address back without a word to the driver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import NETWORK, PROGRAM, Host, both_firewalls, endpoint_id, ids, join, network, port, program
from .parents import POOL6, container, endpoint_on, on_lan, on_parent, reaches
from .test_life import can_bind

ADDRESS6 = "fd00:9::2"
FIRST = ("10.9.0.2/24", f"{ADDRESS6}/64")
SECOND = ("10.9.0.3/24", f"{ADDRESS6}/64")
#: Answers each connection with a word: python3 -c SERVER FAMILY WORD
SERVER = """
import socket, sys
listener = socket.create_server(("", 80), family=socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET)
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(sys.argv[2].encode())
"""
#: Says what it is told: python3 -c CLIENT ADDRESS PORT
CLIENT = (
    "import socket,sys;c=socket.create_connection((sys.argv[1],int(sys.argv[2])),10);c.settimeout(10);"
    "print(c.recv(99).decode())"
)


def turn_off(sandbox: Namespace) -> None:
    """Do as the engine with com.docker.network.endpoint.sysctls: the address was there, and is no more."""
    sandbox.write_sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")


@contextmanager
def serving(sandbox: Namespace, family: str, word: str) -> Iterator[None]:
    server = sandbox.popen(sys.executable, "-c", SERVER, family, word, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        yield
    finally:
        server.kill()
        server.communicate()


def asks(where: Namespace, address: str, number: int) -> str:
    return where.run(sys.executable, "-c", CLIENT, address, str(number), check=False).strip()


def stored(host: Host, number: int = 2) -> Any:
    return json.loads(host.state().rows["endpoint", endpoint_id(number)])


@both_firewalls
def test_the_address_is_the_next_containers(host: Host) -> None:
    """Ports of both work over both families from the next call on, and after kill -9; calls may be repeated."""
    host.netns.run("ip", "address", "add", "2001:db8::1/64", "dev", "lo", "nodad")
    host.ok("CreateNetwork", network(dual=True))
    with container(host, 2, *FIRST) as one, serving(one, "4", "one"):
        host.ok(PROGRAM, program(2, port(8080)))
        assert stored(host)["address6"] == FIRST[1]
        turn_off(one)
        with container(host, 3, *SECOND) as two, serving(two, "6", "two"):
            assert "address6" not in stored(host)
            host.ok(PROGRAM, program(3, port(8081)))
            assert reaches(host.netns, ADDRESS6)
            for restarted in (False, True):
                if restarted:
                    host.restart()
                assert [asks(host.netns, to, 8080) for to in ("127.0.0.1", "2001:db8::1")] == ["one", "one"]
                assert asks(host.netns, "2001:db8::1", 8081) == "two"
            before = host.state()
            host.ok("CreateEndpoint", endpoint_on(2, NETWORK, *FIRST))
            host.ok(PROGRAM, program(2, port(8080)))
            assert host.state() == before
            for number in (2, 3):
                host.ok("Leave", ids(number))
                host.ok("DeleteEndpoint", ids(number))
    assert can_bind(host, 8080) and ADDRESS6 not in host.state().rules


@both_firewalls
def test_a_port_is_relayed_when_ipv6_is_off_before_it_is_published(host: Host) -> None:
    """From engine 28 on the link is in its container when Program comes; nobody else asks for the address here."""
    host.netns.run("ip", "address", "add", "2001:db8::1/64", "dev", "lo", "nodad")
    host.ok("CreateNetwork", network(dual=True))
    with container(host, 2, *FIRST) as one, serving(one, "4", "one"):
        turn_off(one)
        host.ok(PROGRAM, program(2, port(8080)))
        assert [asks(host.netns, to, 8080) for to in ("127.0.0.1", "2001:db8::1")] == ["one", "one"]
        assert ADDRESS6 not in host.state().rules


def test_an_address_that_a_container_has_stays_its_own(host: Host) -> None:
    """Of either family while it is on the link; one of IPv4 also when it is not: no engine takes that back."""
    host.ok("CreateNetwork", network(dual=True))
    with container(host, 2, *FIRST) as one:
        before = host.state()
        for request in (endpoint_on(3, NETWORK, *SECOND), endpoint_on(3, NETWORK, FIRST[0])):
            assert "is in use by endpoint 000200020002" in host.refused("CreateEndpoint", request)
            assert host.state() == before
        one.run("ip", "address", "delete", FIRST[0], "dev", "eth0")
        assert "is in use" in host.refused("CreateEndpoint", endpoint_on(3, NETWORK, FIRST[0]))


def test_the_hosts_route_is_the_next_containers(host: Host) -> None:
    """On a parent, where the link that moved is found by looking for it."""
    with on_lan(host):
        host.ok("CreateNetwork", on_parent(pool6=POOL6, host_access="true"))
        with container(host, 2, "192.0.2.20/24", "2001:db8:1::20/64") as one:
            turn_off(one)
            with container(host, 3, "192.0.2.30/24", "2001:db8:1::20/64"):
                assert reaches(host.netns, "2001:db8:1::20") and reaches(host.netns, "192.0.2.20")
                host.ok("DeleteEndpoint", ids(2))
                eventually(lambda: reaches(host.netns, "2001:db8:1::20", 1))


@pytest.mark.parametrize("options", [{"com.docker.network.bridge.enable_icc": "false"}, {}])
def test_what_was_relayed_goes_to_the_container_alone(host: Host, options: dict[str, Any]) -> None:
    """Not to the one that has the address now, though IPv6 comes first on ::1."""
    host.ok("CreateNetwork", network(dual=True, **options))
    with container(host, 2, *FIRST) as one, serving(one, "4", "one"):
        host.ok(PROGRAM, program(2, port(8080)))
        turn_off(one)
        with container(host, 3, *SECOND) as two, serving(two, "6", "two"):
            assert asks(host.netns, "::1", 8080) == "one"


def test_a_link_that_the_engine_has_not_seen_to_yet_has_lost_nothing(host: Host) -> None:
    """Engines before 28 move and address it after Program."""
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, *FIRST))
    host.ok("Join", join())
    host.ok(PROGRAM, program(2, port(8080)))
    assert stored(host)["address6"] == FIRST[1]
