"""What pynet itself takes, driven over its socket in a namespace of its own; no engine is there."""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.measure import Row, Samples, compared, in_turn, limited, quartiles, shown
from tests.lab import command
from tests.lab.command import LabError
from tests.lab.daemon import Daemon
from tests.lab.netns import Namespace
from tests.lab.unix import call
from tests.netns.host import endpoint_id, join, network, port, program

COMING = ("CreateEndpoint", "Join", "ProgramExternalConnectivity")
GOING = ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint")
PORTS = 10
NETWORKS, EACH = 10, 100
#: The 10,000 ports are published on this address: a socket each. On all addresses it would be one for each
#: family, and more than root may open on some machines.
PRESENT = "0.0.0.0"
#: Numbers of the endpoints that come and go; the others stay.
_PASSING = 5000


def ok(daemon: Daemon, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call what must succeed."""
    status, answer = daemon.call(f"NetworkDriver.{method}", body)
    if status != 200 or "Err" in answer:
        raise LabError(f"{method}: {status} {answer}")
    return answer


def resident_mb(daemon: Daemon) -> float:
    """Memory of the daemon's process."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


class Cycles:
    """Endpoints that come with ten ports and go again, on a daemon that writes its log as JSON."""

    def __init__(self, daemon: Daemon, network_id: str, subnet: int) -> None:
        self._daemon = daemon
        self._network = network_id
        self._subnet = subnet
        self._number = _PASSING
        self.milliseconds: dict[str, list[float]] = {method: [] for method in COMING + GOING}

    def go(self, count: int) -> tuple[float, float]:
        """Do it some times; returns the median times inside pynet of coming and of going."""
        read = len(self._daemon.log)
        for _ in range(count):
            self._number += 1
            one = attachment(self._number, self._network, self._subnet, 200 + self._number % 50)
            ids = {key: one["CreateEndpoint"][key] for key in ("NetworkID", "EndpointID")}
            ports = [port(9000 + number, 80 + number) for number in range(PORTS)]
            for method, body in {**one, "ProgramExternalConnectivity": program(0, *ports) | ids}.items():
                ok(self._daemon, method, body)
            for method in GOING:
                ok(self._daemon, method, ids)
        taken = milliseconds(self._daemon, read, COMING + GOING)
        for method, times in taken.items():
            self.milliseconds[method] += times
        come, leave = (
            statistics.median(map(sum, zip(*(taken[method] for method in methods), strict=True)))
            for methods in (COMING, GOING)
        )
        return come, leave

    def sums(self, methods: tuple[str, ...]) -> list[float]:
        """Times of whole comings or goings."""
        return [sum(times) for times in zip(*(self.milliseconds[method] for method in methods), strict=True)]


def milliseconds(daemon: Daemon, since: int, methods: tuple[str, ...]) -> dict[str, list[float]]:
    """Times of calls by method, as the daemon logged them as JSON after its log had a certain length."""
    lines = [json.loads(line) for line in daemon.log[since:].splitlines() if line.startswith("{")]
    return {method: [line["ms"] for line in lines if line["event"] == f"NetworkDriver.{method}"] for method in methods}


def attachment(number: int, network_id: str, subnet: int, last: int) -> dict[str, dict[str, Any]]:
    """The first two calls about an endpoint."""
    ids = {"NetworkID": network_id, "EndpointID": endpoint_id(number)}
    interface = {"Address": f"10.{subnet}.0.{last}/24", "AddressIPv6": "", "MacAddress": ""}
    return {"CreateEndpoint": {**ids, "Interface": interface, "Options": {}}, "Join": join(0) | ids}


def calls(folder: Path, quick: bool) -> tuple[list[Row], list[str]]:
    """Time inside pynet, on a host with nothing else; also how it divides among the calls."""
    with host(folder / "calls") as (_, daemon):
        ok(daemon, "CreateNetwork", network(_network_id(0), 100))
        cycles = Cycles(daemon, _network_id(0), 100)
        cycles.go(10)
        cycles.milliseconds = {method: [] for method in COMING + GOING}
        cycles.go(20 if quick else 200)
    rows = []
    for what, methods, most in (
        (f"time inside pynet: endpoint made, joined, {PORTS} ports published", COMING, 3),
        ("time inside pynet: ports revoked, left, endpoint deleted", GOING, 5),
    ):
        times = cycles.sums(methods)
        low, high = quartiles(times)
        spread = f"half in {low:.1f} to {high:.1f} ms"
        rows.append(limited(what, statistics.median(times), "ms", most, spread=spread))
    split = [f"{method} {statistics.median(cycles.milliseconds[method]):.1f}" for method in COMING + GOING]
    return rows, split


def thousand(folder: Path, quick: bool) -> list[Row]:
    """Memory, a restart and calls with 1,000 endpoints, then with 10,000 published ports."""
    each = 10 if quick else EACH
    total = NETWORKS * each
    many, all_ports = f"{total:,} endpoints", f"{total * PORTS:,} published ports"
    with ExitStack() as stack:
        netns, full = stack.enter_context(host(folder / "full"))
        _, empty = stack.enter_context(host(folder / "empty"))
        sandboxes = [stack.enter_context(Namespace()) for _ in range(2)]
        time.sleep(2)  # past the first looks of its monitor
        rows = [limited("memory of the idle daemon", resident_mb(full), "MB", 55)]
        addresses = _populate(full, netns, sandboxes, each)
        rows.append(limited(f"memory of the daemon with {many}", resident_mb(full), "MB", 80))
        rows += _restarts(full, sandboxes[0], addresses[1], many, 2 if quick else 5, most=1)
        _publish_all(full, each)
        rows.append(limited(f"memory of the daemon with {many} and {all_ports}", resident_mb(full), "MB", None))
        rows += _restarts(full, sandboxes[0], addresses[1], f"{many} and {all_ports}", 2, most=None)
        ok(empty, "CreateNetwork", network(_network_id(0), 100))
        rows += _beside(full, empty, f"{many}, {all_ports}", quick)
    return rows


def _beside(full: Daemon, empty: Daemon, what: str, quick: bool) -> list[Row]:
    sides = {"full": Cycles(full, _network_id(0), 100), "empty": Cycles(empty, _network_id(0), 100)}
    come = Samples({side: [] for side in sides})
    leave = Samples({side: [] for side in sides})

    def block(side: str) -> Callable[[], float]:
        def measure() -> float:
            first, second = sides[side].go(10)
            come.values[side].append(first)
            leave.values[side].append(second)
            return first

        return measure

    in_turn(3 if quick else 15, {side: block(side) for side in sides})
    for samples in (come, leave):  # what came first was warming up
        samples.values = {side: times[1:] for side, times in samples.values.items()}
    return [
        compared(f"endpoint with {PORTS} ports made with {what} present, against an empty host", come, "ms", 1.1,
                 "full", "empty"),
        compared("the same, removed", leave, "ms", 1.1, "full", "empty"),
    ]  # fmt: skip


@contextmanager
def host(folder: Path) -> Iterator[tuple[Namespace, Daemon]]:
    """A namespace with a daemon that writes its log as JSON; the folder is made."""
    folder.mkdir()
    with Namespace() as netns, Daemon(netns, folder / "pynet.sock", folder / "state", "--log-format", "json") as daemon:
        yield netns, daemon


def _network_id(number: int) -> str:
    return f"{0xA0 + number:02x}" * 32


def _populate(daemon: Daemon, netns: Namespace, sandboxes: list[Namespace], each: int) -> list[str]:
    """Make all endpoints, and move their links away as an engine does; returns two addresses of one network.

    The first endpoint gets a sandbox of its own, all others share the second.
    """
    moves = []
    for net in range(NETWORKS):
        ok(daemon, "CreateNetwork", network(_network_id(net), 100 + net))
        for number in range(each):
            one = attachment(1 + net * each + number, _network_id(net), 100 + net, 2 + number)
            ok(daemon, "CreateEndpoint", one["CreateEndpoint"])
            moves.append(ok(daemon, "Join", one["Join"])["InterfaceName"]["SrcName"])
    move(netns, {sandboxes[0]: moves[:1], sandboxes[1]: moves[1:]})
    addresses = ["10.100.0.2", "10.100.0.3"]
    for link, place, address in zip(moves, sandboxes, addresses, strict=False):
        command.run("ip", "-n", place.name, "address", "add", f"{address}/24", "dev", link)
        command.run("ip", "-n", place.name, "link", "set", link, "up")
    return addresses


def move(netns: Namespace, places: Mapping[Namespace, list[str]]) -> None:
    """Move links into sandboxes, as an engine does after Join."""
    batch = [f"link set {link} netns {place.name}\n" for place, links in places.items() for link in links]
    command.run("ip", "-n", netns.name, "-batch", "-", input="".join(batch), timeout_s=300)


def _publish_all(daemon: Daemon, each: int) -> None:
    for net in range(NETWORKS):
        for number in range(net * each, (net + 1) * each):
            ids = {"NetworkID": _network_id(net), "EndpointID": endpoint_id(1 + number)}
            ports = [port(10000 + PORTS * number + one, 80 + one, address=PRESENT) for one in range(PORTS)]
            ok(daemon, "ProgramExternalConnectivity", program(0, *ports) | ids)


def _restarts(daemon: Daemon, sandbox: Namespace, target: str, what: str, times: int, most: float | None) -> list[Row]:
    """Kill and start the daemon while one container pings another, 20 times a second."""
    sandbox.run("ping", "-c1", "-W5", target)
    ping = sandbox.popen("ping", "-i", "0.05", target, stdout=subprocess.PIPE)
    seconds = []
    try:
        for _ in range(times):
            time.sleep(0.5)
            daemon.kill()
            seconds.append(_first_answer(daemon))
        time.sleep(0.5)
    finally:
        ping.send_signal(signal.SIGINT)
        said = ping.communicate(timeout=20)[0].decode()
    counted = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    if counted is None:
        raise LabError(f"ping said: {said}")
    sent, lost = int(counted[1]), int(counted[1]) - int(counted[2])
    low, high = quartiles(seconds)
    spread = f"{shown(low, 's')} to {shown(high, 's')}"
    return [
        limited(f"restart with {what}, until the first answer", statistics.median(seconds), "s", most, spread=spread),
        limited(f"packets lost of {sent} in {times} times `kill -9` and restart", lost, "", 0),
    ]


def _first_answer(daemon: Daemon) -> float:
    """Start the daemon; returns the seconds from the start of its process to an answer."""
    answered = threading.Event()
    moments: list[float] = []

    def ask() -> None:
        while not answered.is_set():
            try:
                call(daemon.socket, "NetworkDriver.DiscoverNew", {})
                moments.append(time.perf_counter())
                answered.set()
            except OSError:
                answered.wait(0.003)

    start = time.perf_counter()
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        daemon.start()
        answered.wait(20)
    finally:
        answered.set()
        asking.join()
    return moments[0] - start
