"""Whoever opens connections without end: the engine's calls have what they need, and the log stays readable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import PROGRAM, Host, network, port, program

LIMIT = 600
METRICS = 9478
#: Opens connections until there are so many, then says how many it has, and again whenever it is asked to send:
#: python3 -c HOARD FAMILY ADDRESS SOURCE COUNT
HOARD = """
import ast, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
family, address, source = int(sys.argv[1]), ast.literal_eval(sys.argv[2]), sys.argv[3]
held = []
for _ in range(int(sys.argv[4])):
    one = socket.socket(family, socket.SOCK_STREAM)
    if source: one.bind((source, 0))
    one.settimeout(5)
    try: one.connect(address)
    except OSError: break
    held.append(one)
print(len(held), flush=True)
for line in sys.stdin:
    for one in held:
        try: one.send(line.encode())
        except OSError: pass
    print("sent", flush=True)
"""
#: Asks for metrics from an address: python3 -c SCRAPE SOURCE
SCRAPE = """
import http.client, sys
one = http.client.HTTPConnection("127.0.0.1", 9478, timeout=20, source_address=(sys.argv[1], 0))
one.request("GET", "/metrics")
answer = one.getresponse()
print(answer.status, answer.read().count(b"pynet_build_info"), answer.getheader("Connection"))
"""


@contextmanager
def hoard(
    where: Namespace, family: int, address: object, count: int, source: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Have many idle connections to a listener."""
    command = (sys.executable, "-c", HOARD, str(family), repr(address), source, str(count))
    with where.popen(*command, stdin=-1, stdout=-1) as process:
        try:
            assert process.stdout is not None and int(process.stdout.readline()) > count / 2
            yield process
        finally:
            process.kill()


def descriptors(host: Host) -> int:
    return len(list(Path(f"/proc/{host.daemon.pid}/fd").iterdir()))


@pytest.fixture
def scarce(host: Host) -> Host:
    """A host whose daemon has few descriptors and cannot take more, and a listener for metrics."""
    host.daemon.kill()
    few = ("prlimit", f"--nofile={LIMIT}:{LIMIT}", "setpriv", "--bounding-set=-sys_resource")
    host.daemon.before = (*few, "--inh-caps=-sys_resource")
    host.daemon.arguments += ("--metrics-address", f"127.0.0.1:{METRICS}")
    host.daemon.start()
    return host


def lines(host: Host, before: str) -> int:
    return len(host.daemon.log[len(before) :].splitlines())


def test_who_hoards_connections_for_metrics_keeps_nobody_out(scarce: Host) -> None:
    """Neither the engine nor another machine's Prometheus; whoever has most loses the oldest."""
    before, few = scarce.daemon.log, descriptors(scarce)
    with hoard(scarce.netns, 2, ("127.0.0.1", METRICS), 2 * LIMIT):
        scarce.ok("CreateNetwork", network())
        scarce.attach()
        scarce.ok(PROGRAM, program(2, port(8080)))
        eventually(lambda: descriptors(scarce) <= few + 64 + 10)
        assert scarce.netns.run(sys.executable, "-c", SCRAPE, "127.0.0.2").split() == ["200", "3", "close"]
    assert lines(scarce, before) < 20, scarce.daemon.log
    assert "oldest connections make way" in scarce.daemon.log


def test_what_is_no_request_is_logged_once(scarce: Host) -> None:
    """A line, whoever sends how much of it."""
    before = scarce.daemon.log
    for _ in range(3):
        with hoard(scarce.netns, 2, ("127.0.0.1", METRICS), 60) as many:
            assert many.stdin is not None and many.stdout is not None
            many.stdin.write(b"GET /metrics HTTP/1.1\r bad header\n")
            many.stdin.flush()
            assert many.stdout.readline() == b"sent\n"
    scarce.ok("CreateNetwork", network())
    eventually(lambda: "what came is no request" in scarce.daemon.log)
    assert lines(scarce, before) < 10 and "Traceback" not in scarce.daemon.log


def test_connections_that_use_all_up_are_logged_once_and_waited_for(scarce: Host) -> None:
    """Root's own, on the engine's socket, which has no bounds: when they go, calls are answered again."""
    before = scarce.daemon.log
    with hoard(scarce.netns, 1, str(scarce.daemon.socket), 2 * LIMIT):
        eventually(lambda: "connections have to wait" in scarce.daemon.log)
        assert descriptors(scarce) == LIMIT
    scarce.ok("CreateNetwork", network())
    assert lines(scarce, before) < 20 and "Traceback" not in scarce.daemon.log


def test_ports_leave_descriptors_to_calls(scarce: Host) -> None:
    """Published until no more can be, they are refused; the rest goes on."""
    scarce.ok("CreateNetwork", network(dual=True))
    scarce.attach(dual=True)
    scarce.attach(3, dual=True)
    status, answer = scarce.call(PROGRAM, program(2, *(port(number) for number in range(9000, 9000 + LIMIT))))
    assert status == 500 and "oo many open files" in answer["Err"]
    for last in range(9000 + LIMIT, 9000, -20):
        if scarce.call(PROGRAM, program(2, *(port(number) for number in range(9000, last))))[0] == 200:
            break
    assert last > 9000 + LIMIT // 4, "more could be published"
    assert LIMIT - descriptors(scarce) > 50
    for number in range(4, 14):
        scarce.attach(number, dual=True)
    scarce.ok("DeleteEndpoint", {"NetworkID": network()["NetworkID"], "EndpointID": "0002" * 16})
    scarce.ok(PROGRAM, program(3, *(port(number) for number in range(9000, 9100))))
