"""Who reaches whom, and which source address is seen: one topology for any driver; judges nothing.

usage: python -m tests.engine.reach VERSION DRIVER [KIND ...]       e.g. 28.5 bridge nat routed
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from tests.engine.lab import FORWARDING, Lab
from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.netns import Namespace

PROBE = str(Path(__file__).with_name("probe.py"))
OPTION = "com.docker.network.bridge."
PUBLIC_PORT, LOOPBACK_PORT, LAN_PORT, CLOSED_PORT, MACHINE_PORT = 80, 81, 82, 84, 7000
#: What both machines know: all networks of the topology, and a second address of the host.
ALL4, ALL6 = "10.40.0.0/16", "fd00:40::/48"
SECOND4, SECOND6 = "192.0.2.9", "2001:db8:1::9"

#: Begins the name of a network that there is twice in one topology, the second time of pynet.
TWIN = "p-"

Start = Callable[..., "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Kind:
    """A network of the topology, with what makes it different."""

    name: str
    options: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    since: int = 0  #: the engine whose own driver knows it first
    ipv6: bool = True
    driver: str = ""  #: in place of the topology's

    @property
    def number(self) -> int:
        """Which of all networks it is."""
        (number,) = (i for i, one in enumerate(KINDS) if one.name == self.name.removeprefix(TWIN))
        return number + (len(KINDS) if self.name.startswith(TWIN) else 0)

    @property
    def arguments(self) -> tuple[str, ...]:
        """For `docker network create`."""
        return (*self.others, *(word for option in self.options for word in ("-o", option)))


def _mode(mode: str) -> tuple[str, str]:
    return (f"{OPTION}gateway_mode_ipv4={mode}", f"{OPTION}gateway_mode_ipv6={mode}")


KINDS = (
    Kind("nat"),
    Kind("nat2"),
    Kind("internal", others=("--internal",)),
    Kind("no-icc", (f"{OPTION}enable_icc=false",)),
    Kind("no-masquerade", (f"{OPTION}enable_ip_masquerade=false",)),
    Kind("unprotected", _mode("nat-unprotected"), since=28),
    Kind("routed", _mode("routed"), since=28),
    Kind("isolated", _mode("isolated"), ("--internal",), since=28),
    Kind("trusted", (f"{OPTION}trusted_host_interfaces=lan0",), since=28),
    Kind("host-address", (f"com.docker.network.host_ipv4={SECOND4}", f"com.docker.network.host_ipv6={SECOND6}")),
    Kind("no-gateway", (f"{OPTION}inhibit_ipv4=true",)),
    Kind("only4", ipv6=False),
    Kind("on-loopback", (f"{OPTION}host_binding_ipv4=127.0.0.1",)),
)


@dataclass(frozen=True, order=True)
class Cell:
    """One question: does `source` get an answer there?"""

    source: str  #: "host", "neighbour" or a container: "nat-a" publishes ports, "nat-b" does not
    network: str  #: whose container is meant; "" for the machines
    #: The address that is asked. Of the network: "container" (that of -a), "quiet" (that of -b), "gateway";
    #: of the host: "lan", "loopback"; of the second machine: "neighbour".
    via: str
    port: str  #: "all", "loopback", "lan": where it is published; "closed": nowhere; "machine": the host's own
    protocol: str
    family: int

    @property
    def place(self) -> str:
        """The network that the source is on, or "host" or "neighbour"."""
        return self.source[:-2] if self.source[-2:] in ("-a", "-b") else self.source


class Answer(NamedTuple):
    """Who answered, and as whom the asking side is seen; nothing is seen of an echo."""

    who: str
    seen: str = ""


Matrix = dict[Cell, Answer | None]


def known(version: str) -> tuple[Kind, ...]:
    """The kinds that the own driver of an engine knows; it would ignore the options of the others."""
    return tuple(kind for kind in KINDS if kind.since <= int(version.partition(".")[0]))


Questions = Callable[[Lab, str, Sequence[Kind]], Iterator[tuple[Cell, str, int]]]


def measure(
    lab: Lab, driver: str, kinds: Sequence[Kind], roles: str = "ab", questions: Questions | None = None
) -> Matrix:
    """Build the topology with a driver, ask every question from everywhere at once, and take it away."""
    containers = [f"{kind.name}-{role}" for kind in kinds for role in roles]
    asked = questions or _questions
    start: dict[str, Start] = {name: partial(lab.sandbox, name) for name in containers}
    start |= {"host": lab.host.popen, "neighbour": lab.neighbour.popen}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.enter_context(_machines_set_up(lab))
        stack.callback(_take_away, lab, kinds)
        for kind in kinds:
            lab.docker("network", "create", "-d", kind.driver or driver, *_subnets(kind), *kind.arguments, kind.name)
        list(pool.map(lambda kind: _run(lab, kind, roles), kinds))
        list(pool.map(lambda name: _serve(start[name], name, stack), start))
        names = _names(lab, kinds)
        found = pool.map(lambda name: _ask(start[name], list(asked(lab, name, kinds)), names), start)
        return {cell: answer for part in found for cell, answer in part.items()}


def _subnets(kind: Kind) -> tuple[str, ...]:
    subnets = ("--subnet", f"{address_of(kind, 4, 0)}/24")
    return (*subnets, "--ipv6", "--subnet", f"{address_of(kind, 6, 0)}/64") if kind.ipv6 else subnets


def address_of(kind: Kind, family: int, number: int) -> str:
    """The n-th address of a network."""
    subnet = ip_network((ALL4, ALL6)[family == 6])
    step = 256 if family == 4 else 1 << 64
    return str(subnet[kind.number * step + number])


def host_port_of(kind: Kind, port: str) -> int:
    """Where a port of a network's first container is published."""
    return 20000 + 10 * kind.number + ("all", "loopback", "lan").index(port)


def _run(lab: Lab, kind: Kind, roles: str) -> None:
    everywhere, lo, lan = (host_port_of(kind, port) for port in ("all", "loopback", "lan"))
    ports = []
    for protocol in ("tcp", "udp"):
        ports += ["-p", f"{everywhere}:{PUBLIC_PORT}/{protocol}", "-p", f"127.0.0.1:{lo}:{LOOPBACK_PORT}/{protocol}"]
        ports += ["-p", f"{lab.lan.HOST4}:{lan}:{LAN_PORT}/{protocol}"]
        if kind.ipv6:
            ports += ["-p", f"[{lab.lan.HOST6}]:{lan}:{LAN_PORT}/{protocol}"]
    for role, number, published in (("a", 0x10, ports), ("b", 0x11, []))[: len(roles)]:
        fixed = ("--ip", address_of(kind, 4, number), *(("--ip6", address_of(kind, 6, number)) if kind.ipv6 else ()))
        lab.run(f"{kind.name}-{role}", "--network", kind.name, *fixed, *published)


def _serve(start: Start, name: str, stack: ExitStack) -> None:
    ports = (MACHINE_PORT,) if name in ("host", "neighbour") else (PUBLIC_PORT, LOOPBACK_PORT, LAN_PORT, CLOSED_PORT)
    server = start(sys.executable, PROBE, "serve", name, *map(str, ports), stdout=subprocess.PIPE)
    stack.callback(server.wait)
    stack.callback(server.kill)
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"up\n"


def _names(lab: Lab, kinds: Sequence[Kind]) -> dict[str, str]:
    names = {lab.lan.HOST4: "host", lab.lan.HOST6: "host", SECOND4: "host-second", SECOND6: "host-second"}
    names |= {lab.lan.NEIGHBOUR4: "neighbour", lab.lan.NEIGHBOUR6: "neighbour", "127.0.0.1": "lo", "::1": "lo"}
    for kind in kinds:
        for family in (4, 6):
            for number, suffix in ((1, "gateway"), (0x10, "a"), (0x11, "b")):
                names[address_of(kind, family, number)] = f"{kind.name}-{suffix}"
    return names


def _questions(lab: Lab, source: str, kinds: Sequence[Kind]) -> Iterator[tuple[Cell, str, int]]:
    lan = {4: lab.lan.HOST4, 6: lab.lan.HOST6}
    loopback = {"host": {4: "127.0.0.1", 6: "::1"}, "neighbour": {4: "127.0.0.1"}}.get(source, {})
    neighbour = {4: lab.lan.NEIGHBOUR4, 6: lab.lan.NEIGHBOUR6}

    def each(
        network: str, via: str, address: str, ports: dict[str, int], echo: bool
    ) -> Iterator[tuple[Cell, str, int]]:
        family = 6 if ":" in address else 4
        for port, number in ports.items():
            for protocol in ("tcp", "udp"):
                yield Cell(source, network, via, port, protocol, family), address, number
        if echo:
            yield Cell(source, network, via, "", "icmp", family), address, 0

    for family in (4, 6):
        for via, addresses in (("lan", lan), ("neighbour", neighbour)):
            yield from each("", via, addresses[family], {"machine": MACHINE_PORT}, True)
    for kind in kinds:
        published = {port: host_port_of(kind, port) for port in ("all", "loopback", "lan")}
        direct = {"all": PUBLIC_PORT, "loopback": LOOPBACK_PORT, "closed": CLOSED_PORT}
        for family in (4, 6):
            yield from each(kind.name, "lan", lan[family], published, False)
            if family in loopback:
                yield from each(kind.name, "loopback", loopback[family], published, False)
            if kind.ipv6 or family == 4:
                gateway, a, b = (address_of(kind, family, number) for number in (1, 0x10, 0x11))
                machine = {} if source == "host" else {"machine": MACHINE_PORT}
                yield from each(kind.name, "gateway", gateway, published | machine, True)
                yield from each(kind.name, "container", a, direct, True)
                yield from each(kind.name, "quiet", b, {"closed": CLOSED_PORT}, True)


def _ask(start: Start, questions: list[tuple[Cell, str, int]], names: dict[str, str]) -> Matrix:
    asked = json.dumps([(cell.protocol, address, port) for cell, address, port in questions])
    with start(sys.executable, PROBE, "ask", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        said = json.loads(process.communicate(asked.encode(), 60)[0])
    return {cell: _answer(one, names) for (cell, _, _), one in zip(questions, said, strict=True)}


def _answer(said: str | None, names: dict[str, str]) -> Answer | None:
    if said is None:
        return None
    who, _, seen = said.partition(" ")
    return Answer(who, names.get(seen, seen))


@contextmanager
def _machines_set_up(lab: Lab) -> Iterator[None]:
    """The second machine sends all networks and 127.0.0.1 to the host; the host has a second address."""
    saved = {name: lab.host.sysctl(name) for name in FORWARDING}
    steps: tuple[tuple[Namespace, str, str], ...] = (
        (lab.neighbour, f"route add {ALL4} via {lab.lan.HOST4}", f"route del {ALL4}"),
        (lab.neighbour, f"route add {ALL6} via {lab.lan.HOST6}", f"route del {ALL6}"),
        (lab.neighbour, "address del 127.0.0.1/8 dev lo", "address add 127.0.0.1/8 dev lo"),
        (lab.neighbour, f"route add 127.0.0.1 via {lab.lan.HOST4}", "route del 127.0.0.1"),
        # A deprecated address is never chosen, only asked for.
        (lab.host, f"address add {SECOND4}/24 dev lan0", f"address del {SECOND4}/24 dev lan0"),
        (lab.host, f"address add {SECOND6}/64 dev lan0 nodad preferred_lft 0", f"address del {SECOND6}/64 dev lan0"),
    )
    lab.neighbour.write_sysctl("net/ipv4/conf/eth0/route_localnet", "1")
    for machine in (lab.host, lab.neighbour):
        machine.write_sysctl("net/ipv4/ping_group_range", "0 0")
    with ExitStack() as stack:
        for machine, there, back in steps:
            machine.run("ip", *there.split())
            stack.callback(machine.run, "ip", *back.split())
        yield
    # The engine's own driver leaves them on.
    for name, value in saved.items():
        lab.host.write_sysctl(name, value)


def _take_away(lab: Lab, kinds: Sequence[Kind]) -> None:
    lab.clean()
    left = set(lab.docker("network", "ls", "--format", "{{.Name}}").split()) & {kind.name for kind in kinds}
    if left:
        lab.docker("network", "rm", *left)


def told(cell: Cell, answer: Answer | None) -> str:
    """An answer for people, in which equal things have equal words."""
    if answer is None:
        return "no answer"
    names = {cell.source: "itself", f"{cell.place}-gateway": "its gateway"}
    return f"{answer.who} sees {names.get(answer.seen, answer.seen)}" if answer.seen else answer.who


def render(texts: Mapping[Cell, str]) -> str:
    """A text for each cell in few lines: who is told the same of the same thing stands together; "" is not shown."""
    rows: dict[tuple[str, str, str, int], dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for cell, text in texts.items():
        rows[cell.network, cell.via, cell.port, cell.family][cell.protocol][cell.source] = text
    lines, last = [], ""
    order = ["", *(kind.name for kind in KINDS)]
    for (network, via, port, family), protocols in sorted(rows.items(), key=lambda row: order.index(row[0][0])):
        same: dict[str, list[str]] = defaultdict(list)
        for protocol, answers in protocols.items():
            groups: dict[str, list[str]] = defaultdict(list)
            for source, text in answers.items():
                groups[text].append(source)
            shown = [text for text in sorted(groups, key="no answer".__eq__) if text]
            same["; ".join(f"{text}: {_crowd(groups[text], answers)}" for text in shown)].append(protocol)
        shown = [f"{via}:{port} {'+'.join(names)} ipv{family}: {text}" for text, names in same.items() if text]
        if shown and network != last:
            lines.append(f"\n## {network}")
            last = network
        lines += shown
    return "\n".join(lines)


def _crowd(sources: list[str], everybody: Iterable[str]) -> str:
    """Name the sources: a network for both of its containers, and who is missing if those are fewer."""
    named, missing = _paired(sources), _paired([one for one in everybody if one not in sources])
    if not missing:
        return "everybody"
    return f"everybody but {', '.join(missing)}" if len(missing) < len(named) / 2 else ", ".join(named)


def _paired(sources: list[str]) -> list[str]:
    both = {one[:-2] for one in sources if one.endswith("-a") and f"{one[:-2]}-b" in sources}
    return list(dict.fromkeys(one[:-2] if one[:-2] in both else one for one in sources))


def main(version: str, driver: str, *names: str) -> None:
    """Print the matrix of one driver on one engine."""
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(version))
        lan = stack.enter_context(Lan(engine.netns))
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        daemon = stack.enter_context(Daemon(engine.netns, engine.plugins / "pynet.sock", state))
        lab = Lab(version, engine, lan, daemon)
        matrix = measure(lab, driver, [kind for kind in known(version) if not names or kind.name in names])
    sys.stdout.write(render({cell: told(cell, answer) for cell, answer in matrix.items()}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
