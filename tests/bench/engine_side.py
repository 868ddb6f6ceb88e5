"""What a user of docker waits for, with networks of the built-in driver and of pynet in one engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench import daemon_side as calls
from tests.bench.measure import BUILTIN, PYNET, Row, compared, in_turn, limited, median_of, shown, timed
from tests.engine.lab import Lab
from tests.lab.command import CommandFailed
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.netns.host import endpoint_id, join, network, port, program
from tests.vm.kernel import INSIDE

#: In the virtual machine it is the one that is there.
ENGINE = "own" if INSIDE else "28.5"
TRAFFIC = (sys.executable, str(Path(__file__).with_name("traffic.py")))
#: Networks by driver: user-defined ones both.
SIDES = {BUILTIN: "net-builtin", PYNET: "net-pynet"}
NONE = "pynet without ports"
FIRST_PORT = 20000
CROWD = 20


@dataclass
class Picture:
    """Seconds of `docker run` by the number of published ports: what the picture shows."""

    seconds: dict[int, dict[str, float]] = field(default_factory=dict)


@contextmanager
def laboratory(folder: Path, bridges: bool) -> Iterator[Lab]:
    """An engine with pynet and a LAN, perhaps with a bridge network of each driver."""
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(ENGINE))
        lan = stack.enter_context(Lan(engine.netns))
        daemon = stack.enter_context(Daemon(engine.netns, engine.plugins / "pynet.sock", folder / "engine"))
        lab = Lab(engine.version, engine, lan, daemon)
        if bridges:
            lab.docker("network", "create", "-d", "bridge", SIDES[BUILTIN])
            lab.network(SIDES[PYNET])
        yield lab


def run(lab: Lab, quick: bool) -> list[Row]:
    """A container from start to end, without ports."""

    def one(net: str) -> float:
        return timed(lambda: lab.docker("run", "--rm", "--network", net, "busybox", "true"))

    samples = in_turn(3 if quick else 15, {side: partial(one, net) for side, net in SIDES.items()})
    return [compared("`docker run --rm`, no ports", samples, "s", 1.0)]


def ports(lab: Lab, quick: bool, picture: Picture) -> list[Row]:
    """The start of a container with published ports, until `docker run -d` returns."""
    rows = []
    goals = {0: None, 20: 0.3, 200: 0.05, 1000: 0.02}
    rounds = {0: 2, 20: 2, 200: 1} if quick else {0: 8, 20: 8, 200: 4, 1000: 3}
    for count, times in rounds.items():
        # The built-in takes long for many; meanwhile pynet does it more than once.
        often = 1 if count < 200 else 3
        sides: dict[str, Callable[[], float]] = {
            BUILTIN: partial(_start, lab, SIDES[BUILTIN], count),
            PYNET: median_of(often, partial(_start, lab, SIDES[PYNET], count)),
            NONE: median_of(often, partial(_start, lab, SIDES[PYNET], 0)),
        }
        samples = in_turn(times, sides, warm_up=count < 200)
        what = f"`docker run -d` with {count:,} published ports" if count else "`docker run -d`, no ports"
        rows.append(compared(what, samples, "s", goals[count]))
        if count:
            rows.append(compared("… against pynet's own without ports", samples, "s", 1.3, base=NONE))
        picture.seconds[count] = {side: samples.median(side) for side in SIDES}
    return rows


def footprint(lab: Lab, quick: bool) -> list[Row]:
    """Processes and memory for 200 published ports."""
    count = 200
    # A daemon that was never larger than it has to be.
    lab.daemon.kill()
    lab.daemon.start()
    found = {}
    for side, net in SIDES.items():
        with container(lab, "few", net):
            before, memory = set(lab.host.pids()), calls.resident_mb(lab.daemon)
            with container(lab, "many", net, *_published(count)):
                new = {pid for pid in lab.host.pids() if pid not in before and not _comm(pid).startswith("containerd")}
                growth = max(0.0, calls.resident_mb(lab.daemon) - memory)
                found[side] = (len(new), sum(map(_proportional_mb, new)) if side == BUILTIN else growth)
    (processes, memory), (ours, growth) = found[BUILTIN], found[PYNET]
    return [
        limited("processes per published port", ours / count, "", 0, builtin=f"{processes / count:g}"),
        limited(f"memory for {count} published ports", growth, "MB", 5, builtin=shown(memory, "MB")),
    ]


def connect(lab: Lab, quick: bool) -> list[Row]:
    """New connections from the LAN to a published port, with few and with many ports published."""
    rounds, connects = (2, 200) if quick else (12, 1000)
    with ExitStack() as stack:
        for number, net in enumerate(SIDES.values()):
            stack.enter_context(_server(lab, f"server-{number}", net, "-p", f"{8080 + number}:80"))
        crowd = [(endpoint_id(number), 10000 + 100 * number) for number in range(100)]
        _attach_crowd(lab.daemon, [one for one, _ in crowd])

        def crowded() -> float:
            for endpoint, first in crowd:
                many = [port(first + number, address=calls.PRESENT) for number in range(100)]
                calls.ok(lab.daemon, "ProgramExternalConnectivity", program(0, *many) | _of_crowd(endpoint))
            try:
                return _connect(lab, 8081, connects)
            finally:
                for endpoint, _ in crowd:
                    calls.ok(lab.daemon, "RevokeExternalConnectivity", _of_crowd(endpoint))
                time.sleep(0.5)  # the kernel frees its sockets and elements a moment later

        few = {BUILTIN: partial(_connect, lab, 8080, connects), PYNET: partial(_connect, lab, 8081, connects)}
        samples = in_turn(rounds, {"10,000": crowded, **few})
        for endpoint, _ in crowd:
            calls.ok(lab.daemon, "DeleteEndpoint", _of_crowd(endpoint))
        calls.ok(lab.daemon, "DeleteNetwork", {"NetworkID": _CROWD})
        span = f"{FIRST_PORT}-{FIRST_PORT + 199}:80-279"
        stack.enter_context(_server(lab, "server-200", SIDES[BUILTIN], "-p", span, inside="180"))
        # One from the middle of the 200, for their rules are tried one after the other.
        at_200 = {BUILTIN: partial(_connect, lab, FIRST_PORT + 100, connects), PYNET: few[PYNET]}
        busy = in_turn(max(rounds // 2, 2), at_200)
    new = "new TCP connection from the LAN"
    return [
        compared(f"{new}, one published port", samples, "µs", None),
        # "Quicker than the built-in", with the precision of the ratio.
        compared(f"{new}, one published port with the built-in, 10,000 with pynet", samples, "µs", 0.99, "10,000"),
        compared("… against pynet's own with one", samples, "µs", 1.05, "10,000", PYNET),
        compared(f"{new}, 200 published ports with the built-in, one with pynet", busy, "µs", None),
    ]


def throughput(lab: Lab, quick: bool) -> list[Row]:
    """One TCP connection, as fast as it goes."""
    rounds, seconds = (1, 1.0) if quick else (9, 2.0)
    with ExitStack() as stack:
        within: dict[str, Callable[[], float]] = {}
        published: dict[str, Callable[[], float]] = {}
        for number, (side, net) in enumerate(SIDES.items()):
            sender, receiver, open_port = f"sender-{number}", f"receiver-{number}", 8090 + number
            stack.enter_context(container(lab, sender, net))
            stack.enter_context(container(lab, receiver, net, "-p", f"{open_port}:5001"))
            address = lab.addresses(receiver, net)["IPAddress"]
            sink = partial(lab.sandbox, receiver)
            from_container = partial(lab.sandbox, sender, *TRAFFIC, "send", address, "5001", str(seconds))
            within[side] = partial(stream, sink, from_container)
            from_lan = partial(lab.neighbour.popen, *TRAFFIC, "send", Lan.HOST4, str(open_port), str(seconds))
            published[side] = partial(stream, sink, from_lan)
        return [
            compared(what, in_turn(rounds, sides), "Gbit/s", 1.0, at_least=True)
            for what, sides in (
                ("TCP throughput between containers", within),
                ("TCP throughput from the LAN through a published port", published),
            )
        ]


def crowd(lab: Lab, quick: bool) -> list[Row]:
    """Many containers started at once, and removed at once."""

    def one(net: str) -> float:
        names = [f"crowd-{number}" for number in range(CROWD)]
        return timed(lambda: _come_and_go(lab, names, net))

    samples = in_turn(1 if quick else 6, {side: partial(one, net) for side, net in SIDES.items()}, warm_up=not quick)
    return [compared(f"{CROWD} containers started at once, and removed at once", samples, "s", 0.8)]


_CROWD = "c0" * 32


def _of_crowd(endpoint: str) -> dict[str, str]:
    return {"NetworkID": _CROWD, "EndpointID": endpoint}


def _attach_crowd(daemon: Daemon, endpoints: list[str]) -> None:
    """Give pynet endpoints that the engine does not know."""
    calls.ok(daemon, "CreateNetwork", network(_CROWD, 77))
    for number, endpoint in enumerate(endpoints, 2):
        interface = {"Address": f"10.77.0.{number}/24", "AddressIPv6": "", "MacAddress": ""}
        body = {**_of_crowd(endpoint), "Interface": interface, "Options": {}}
        calls.ok(daemon, "CreateEndpoint", body)
        calls.ok(daemon, "Join", join(0) | _of_crowd(endpoint))


def _published(count: int) -> tuple[str, ...]:
    span = f"{FIRST_PORT}-{FIRST_PORT + count - 1}"
    return ("-p", f"{span}:{span}") if count else ()


def _start(lab: Lab, net: str, count: int) -> float:
    words = ("run", "-d", "--name", "measured", "--network", net, *_published(count), "busybox", "sleep", "3600")
    try:
        return timed(lambda: lab.docker(*words, timeout_s=600))
    finally:
        lab.docker("rm", "-f", "measured", timeout_s=600)


@contextmanager
def container(lab: Lab, name: str, net: str, *arguments: str) -> Iterator[None]:
    """A container that does nothing."""
    lab.docker("run", "-d", "--name", name, "--network", net, *arguments, "busybox", "sleep", "3600", timeout_s=600)
    try:
        yield
    finally:
        lab.docker("rm", "-f", name, timeout_s=600)


@contextmanager
def _server(lab: Lab, name: str, net: str, *arguments: str, inside: str = "80") -> Iterator[None]:
    """A container in which a port accepts connections."""
    with container(lab, name, net, *arguments):
        process = lab.sandbox(name, *TRAFFIC, "serve", inside, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()
            process.communicate()


def _connect(lab: Lab, published: int, count: int) -> float:
    output = lab.neighbour.run(*TRAFFIC, "connect", Lan.HOST4, str(published), str(count))
    times: list[float] = sorted(json.loads(output))
    return times[len(times) // 2]


def stream(receiver: Callable[..., subprocess.Popen[bytes]], sender: Callable[[], subprocess.Popen[bytes]]) -> float:
    """Gbit/s of one connection to port 5001; the receiver starts a program where it is to listen."""
    sink = receiver(*TRAFFIC, "sink", "5001", stdout=subprocess.PIPE)
    try:
        assert sink.stdout is not None and sink.stdout.readline() == b"up\n"
        assert sender().wait(60) == 0
        return float(sink.communicate(timeout=60)[0])
    finally:
        sink.kill()
        sink.communicate()


def _come_and_go(lab: Lab, names: list[str], net: str) -> None:
    words = ("docker", "-H", f"unix://{lab.engine.socket}", "run", "-d", "--network", net, "--name")
    started = [
        lab.engine.machine.popen(*words, name, "busybox", "sleep", "3600", stdout=subprocess.DEVNULL) for name in names
    ]
    codes = [process.wait(300) for process in started]
    lab.docker("rm", "-f", *names, timeout_s=300)
    if any(codes):
        raise CommandFailed(words, f"exit codes {codes}", "", "")


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "containerd, gone"


def _proportional_mb(pid: int) -> float:
    """Memory of a process, what it shares with others counted once among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
