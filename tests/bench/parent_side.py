"""What pynet itself takes on a parent: a thousand endpoints, and leases of a DHCP server; no engine is there."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.daemon_side import host, milliseconds, move, ok
from tests.bench.measure import Row, Samples, compared, in_turn, limited, quartiles
from tests.lab.command import LabError
from tests.lab.daemon import Daemon
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually
from tests.netns.host import endpoint_id, join, network

TRAFFIC = (sys.executable, str(Path(__file__).with_name("traffic.py")))
PARENT = "lan0"
MANY, FEW = 1000, 10
#: What a lease may take besides the server's own answers.
LEASE_MS = 50
_ATTACHING = ("CreateEndpoint", "Join")
_NETWORK = "a0" * 32
#: Numbers of the endpoints that come and go; the others stay.
_PASSING = 5000
_OFFER, _ACK = 2, 5  # RFC 2132 section 9.6


def crowded(folder: Path, quick: bool) -> list[Row]:
    """Attach an endpoint beside a thousand on its parent, against beside a few; theirs are in another namespace."""
    many = MANY // 10 if quick else MANY
    rows = []
    for shim, goal in ((False, 1.1), (True, None)):
        with ExitStack() as stack:
            sides = {}
            for side, count in (("full", many), ("empty", FEW)):
                attaching = stack.enter_context(_on_parent(folder / f"{side}-{shim}", shim))
                attaching.populate(count)
                sides[side] = partial(attaching.go, 10)
            samples = in_turn(3 if quick else 15, sides)
        what = f"endpoint made and joined with {many:,} on its macvlan parent{', host_access=true' if shim else ''}"
        rows.append(compared(f"{what}, against {FEW}", samples, "ms", goal, "full", "empty"))
    return rows


class _Attaching:
    """Endpoints of one macvlan network."""

    def __init__(self, netns: Namespace, daemon: Daemon, sandbox: Namespace) -> None:
        self._netns = netns
        self._daemon = daemon
        self._sandbox = sandbox
        self._number = _PASSING

    def populate(self, count: int) -> None:
        """Make those that stay."""
        links = [self._attach(number) for number in range(count)]
        move(self._netns, {self._sandbox: links})
        self.go(10)

    def go(self, count: int) -> float:
        """Have some come and go; returns the median milliseconds inside pynet of coming."""
        since = len(self._daemon.log)
        for _ in range(count):
            self._number += 1
            self._attach(self._number)
            for method in ("Leave", "DeleteEndpoint"):
                ok(self._daemon, method, _ids(self._number))
        taken = milliseconds(self._daemon, since, _ATTACHING)
        return statistics.median(map(sum, zip(*taken.values(), strict=True)))

    def _attach(self, number: int) -> str:
        address = f"10.100.{1 + number // 200}.{1 + number % 200}/16"
        interface = {"Address": address, "AddressIPv6": "", "MacAddress": ""}
        ok(self._daemon, "CreateEndpoint", {**_ids(number), "Interface": interface, "Options": {}})
        return str(ok(self._daemon, "Join", join(0) | _ids(number))["InterfaceName"]["SrcName"])


@contextmanager
def _on_parent(folder: Path, shim: bool) -> Iterator[_Attaching]:
    with host(folder) as (netns, daemon), Namespace() as neighbour, Namespace() as sandbox:
        connect(Plug(netns, PARENT, ("10.100.0.2/16",)), Plug(neighbour, "eth0", ("10.100.0.1/16",)))
        pool = {"AddressSpace": "LocalDefault", "Pool": "10.100.0.0/16", "Gateway": "10.100.0.1/16"}
        ok(daemon, "CreateNetwork", _network(_NETWORK, pool, conflict_check="false", host_access=str(shim).lower()))
        yield _Attaching(netns, daemon, sandbox)


def lease(folder: Path, quick: bool) -> list[Row]:
    """Endpoints that get their addresses from a DHCP server, each as a machine that the server has never seen."""
    networks = {"unchecked": ("b0" * 32, "false"), "checked": ("b1" * 32, "true")}
    # As the engine says it with --ipam-driver null.
    nobody = {"AddressSpace": "null", "Pool": "0.0.0.0/0", "Gateway": "0.0.0.0/0"}
    numbers = iter(range(1, 1000))
    calls: dict[str, list[tuple[int, int]]] = {side: [] for side in networks}
    with host(folder / "lease") as (netns, daemon), Namespace() as lan, ExitStack() as stack:
        connect(Plug(netns, PARENT), Plug(lan, "eth0", ("192.0.2.1/24",)))
        stack.enter_context(_dnsmasq(lan, folder))
        heard = stack.enter_context(_tap(lan, folder / "tap"))
        for network_id, check in networks.values():
            ok(daemon, "CreateNetwork", _network(network_id, nobody, dhcp="true", conflict_check=check))

        def one(side: str) -> Callable[[], float]:
            def measure() -> float:
                interface = {"Address": "", "AddressIPv6": "", "MacAddress": ""}
                ids, since = _ids(next(numbers), networks[side][0]), len(daemon.log)
                begin = time.time_ns()
                ok(daemon, "CreateEndpoint", {**ids, "Interface": interface, "Options": {}})
                calls[side].append((begin, time.time_ns()))
                return milliseconds(daemon, since, ("CreateEndpoint",))["CreateEndpoint"][0]

            return measure

        # Nothing is left out for warming up: what was heard is put to the calls afterwards.
        samples = in_turn(5 if quick else 40, {side: one(side) for side in networks}, warm_up=False)
        time.sleep(0.2)  # the tap writes the last line
        messages = heard()
    server = {side: [_answering(messages, *span) for span in spans] for side, spans in calls.items()}
    beyond = Samples(
        {
            side: [all_of_it - own for all_of_it, own in zip(samples.values[side], server[side], strict=True)]
            for side in networks
        }
    )
    answers = [own for side in server.values() for own in side]
    what = "endpoint made with a DHCP lease, without the server's own time"
    return [
        _milliseconds(f"{what}, conflict_check=false", beyond.values["unchecked"], LEASE_MS),
        _milliseconds(f"{what}, with conflict_check", beyond.values["checked"], None),
        _milliseconds("answers of the DHCP server (dnsmasq) to one endpoint", answers, None),
    ]


def _answering(messages: list[tuple[int, int, int]], begin: int, end: int) -> float:
    """Milliseconds between questions and answers on the server's wire within a time."""
    asked: dict[int, int] = {}
    total, answers = 0, 0
    for moment, kind, transaction in messages:
        if not begin <= moment <= end:
            continue
        if kind not in (_OFFER, _ACK):
            asked[transaction] = moment
        elif transaction in asked:
            total += moment - asked.pop(transaction)
            answers += 1
    if not answers:
        raise LabError(f"no DHCP server was heard during a call; heard at all: {len(messages)} messages")
    return total / 1e6


def _milliseconds(what: str, values: list[float], most: float | None) -> Row:
    low, high = quartiles(values)
    spread = f"half in {low:.1f} to {high:.1f} ms"
    return limited(what, round(statistics.median(values), 2), "ms", most, spread=spread)


@contextmanager
def _dnsmasq(where: Namespace, folder: Path) -> Iterator[None]:
    log = folder / "dnsmasq.log"
    with log.open("wb") as file:
        process = where.popen(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--port=0"),
            *("--log-facility=-", "--interface=eth0", "--bind-interfaces", "--no-ping"),
            *(f"--dhcp-leasefile={folder / 'leases'}", "--dhcp-range=192.0.2.10,192.0.2.250,255.255.255.0,3600"),
            stdout=file,
            stderr=file,
        )
    try:
        eventually(lambda: "sockets bound" in log.read_text())
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _tap(where: Namespace, file: Path) -> Iterator[Callable[[], list[tuple[int, int, int]]]]:
    """Listen on eth0; gives a function for what was heard: nanoseconds since 1970, message type, transaction."""

    def heard() -> list[tuple[int, int, int]]:
        lines = file.read_text().splitlines()[1:]
        return [(moment, kind, transaction) for moment, kind, transaction in map(json.loads, lines)]

    with file.open("wb") as output:
        process = where.popen(*TRAFFIC, "tap", "eth0", stdout=output, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: file.read_text().startswith("up\n"))
        yield heard
    finally:
        process.kill()
        process.wait()


def _network(network_id: str, pool: dict[str, str], **options: str) -> Any:
    """Write a CreateNetwork request for a macvlan network."""
    given: dict[str, Any] = {"backend": "macvlan", "parent": PARENT, **options}
    return network(network_id, **given) | {"IPv4Data": [pool]}


def _ids(number: int, network_id: str = _NETWORK) -> dict[str, str]:
    return {"NetworkID": network_id, "EndpointID": endpoint_id(number)}
