"""The engine's bridges are known by its rules, whichever engine; who reaches whom between its networks and pynet's."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pynetdriver.firewall import EngineBridges
from pynetdriver.firewall.bridges import Bridges
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import SOON_S, eventually

from . import engine_rules
from .engine_rules import BRIDGES, CONTAINER, ENGINES
from .host import NETWORK, OTHER, PROGRAM, Host, both_firewalls, network, port, program
from .inside import inside

PROBE = str(Path(__file__).parents[1] / "engine" / "probe.py")
ONLY4 = "7d" * 32
GATEWAYS = ("10.77.{}.1", "fd00:77:{}::1")
#: IP version and port.
ASKED = [(version, port) for version in (4, 6) for port in (80, 81)]
FLAVOURS = [
    (engine, flavour)
    for engine in ENGINES
    for flavour in ("nft", "legacy")
    if (engine, flavour) != (ENGINES[-1], "legacy")
]
EVERY = {(version, name) for version in (4, 6) for name in ("x1", "x5", "x6")}
JUDGED = {
    "26": set(),
    "28": {one for one in EVERY if one[1] == "x6"},
    "29": {one for one in EVERY if one[1] != "x1"},
    "29 with nftables": EVERY,
}


def write_found() -> None:
    """Write what is read in this process's namespace to the file that the environment names."""
    found = asyncio.run(Bridges().read())
    Path(os.environ["FOUND"]).write_bytes(pickle.dumps(found))


def found_in(netns: Namespace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> EngineBridges:
    monkeypatch.setenv("FOUND", str(folder / "found"))
    inside(netns, write_found)
    found = pickle.loads((folder / "found").read_bytes())
    assert isinstance(found, EngineBridges)
    return found


@pytest.mark.parametrize(("engine", "flavour"), FLAVOURS)
def test_the_engines_rules_tell_what_its_bridges_are(
    engine: str, flavour: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bridges that no rule names are others', and so are names that are no bridge; what rules say goes with them."""
    with Namespace() as netns:
        for name in (*BRIDGES, "others0", "docker0"):
            netns.run("ip", "link", "add", name, "type", "bridge")
        engine_rules.write(netns, engine, flavour)
        netns.run("ip", "link", "delete", "x5")
        netns.run("ip", "link", "add", "x5", "type", "veth")
        judged = {one for one in JUDGED[engine] if one[1] != "x5"}
        assert found_in(netns, folder, monkeypatch) == EngineBridges(
            names=frozenset({"x1", "x2", "x6", "docker0"}),
            closed=frozenset({"x2"}),
            judged=frozenset(judged),
            passed_on=frozenset(judged if engine in ("28", "29") else ()),
            isolated=engine in ("26", "28"),
        )


#: The flavour of the engine's rules, and pynet's kind beside it.
KINDS = {"nftables": "nft", "iptables": "legacy"}
PLACES = [(engine, kind) for engine in ENGINES for kind in KINDS if (engine, KINDS[kind]) in FLAVOURS]


class Crowd:
    """Containers of networks of an engine's and of pynet's, each of which tells its name on ports 80 and 81."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self._host, self._stack = host, stack
        self.places: dict[str, Namespace] = {}

    def of_the_engine(self, bridge: str) -> None:
        number = BRIDGES[bridge]
        host = self._host.netns
        for version, length in ((4, 24), (6, 64)):
            address = CONTAINER[version].format(number)[:-1] + f"1/{length}"
            host.run("ip", "address", "add", address, "dev", bridge, *(("nodad",) if version == 6 else ()))
        inner = self._entered(bridge)
        addresses = tuple(CONTAINER[version].format(number) + f"/{length}" for version, length in ((4, 24), (6, 64)))
        connect(Plug(host, f"v{bridge}"), Plug(inner, "eth0", addresses))
        host.run("ip", "link", "set", f"v{bridge}", "master", bridge)
        self._serve(inner, bridge, *(one.format(number) for one in GATEWAYS))

    def of_the_lan(self) -> None:
        inner = self._entered("lan")
        connect(
            Plug(self._host.netns, "lan0", ("192.0.2.1/24", "fd00:192::1/64")),
            Plug(inner, "eth0", ("192.0.2.2/24", "fd00:192::2/64")),
        )
        for gateway in ("192.0.2.1", "fd00:192::1"):
            inner.run("ip", "route", "add", "default", "via", gateway)

    def of_pynet(self, name: str, number: int, id: str, subnet: int, *, dual: bool = True) -> None:
        self._host.attach(number, id, subnet, dual=dual)
        inner = self._entered(name)
        link = f"pnc{number:04x}{number:04x}{number:04x}"
        self._host.netns.run("ip", "link", "set", link, "netns", inner.name)
        inner.run("ip", "address", "add", f"10.{subnet}.0.{number}/24", "dev", link)
        if dual:
            inner.run("ip", "address", "add", f"fd00:{subnet}::{number:x}/64", "dev", link, "nodad")
        inner.run("ip", "link", "set", link, "up")
        self._serve(inner, name, f"10.{subnet}.0.1", f"fd00:{subnet}::1" if dual else "")

    def _entered(self, name: str) -> Namespace:
        self.places[name] = self._stack.enter_context(Namespace())
        self.places[name].write_sysctl("net/ipv6/conf/default/accept_dad", "0")
        return self.places[name]

    def _serve(self, inner: Namespace, name: str, *gateways: str) -> None:
        for gateway in filter(None, gateways):
            inner.run("ip", "route", "add", "default", "via", gateway)
        server = inner.popen(sys.executable, PROBE, "serve", name, "80", "81", stdout=subprocess.PIPE)
        self._stack.callback(server.wait)
        self._stack.callback(server.kill)
        assert server.stdout is not None
        with server.stdout:
            assert server.stdout.readline() == b"up\n"

    def told(self, questions: dict[str, list[tuple[str, int]]]) -> dict[str, list[str | None]]:
        """Have everybody ask addresses and ports over TCP at once; who answers at each."""
        asking = {}
        for source, asked in questions.items():
            text = json.dumps([("tcp", address, number) for address, number in asked]).encode()
            asking[source] = self.places[source].popen(sys.executable, PROBE, "ask", stdin=-1, stdout=-1), text
        said = {source: json.loads(process.communicate(text, 30)[0]) for source, (process, text) in asking.items()}
        return {source: [one and one.split()[0] for one in answers] for source, answers in said.items()}


@pytest.fixture
def crowd(host: Host) -> Iterator[Crowd]:
    unprotected: dict[str, Any] = {
        f"com.docker.network.bridge.gateway_mode_ipv{version}": "nat-unprotected" for version in (4, 6)
    }
    with ExitStack() as stack:
        found = Crowd(host, stack)
        host.ok("CreateNetwork", network(dual=True))
        host.ok("CreateNetwork", network(OTHER, 8, dual=True, **unprotected))
        host.ok("CreateNetwork", network(ONLY4, 7))
        found.of_pynet("nat", 2, NETWORK, 9)
        found.of_pynet("unprotected", 3, OTHER, 8)
        found.of_pynet("only4", 4, ONLY4, 7, dual=False)
        host.ok(PROGRAM, program(2, port(8080)))
        host.ok(PROGRAM, program(4, port(8090), network_id=ONLY4))
        yield found


@pytest.mark.parametrize(("engine", "firewall"), PLACES)
def test_who_reaches_whom_between_the_engines_networks_and_pynets(host: Host, crowd: Crowd, engine: str) -> None:
    """As between networks of that engine: internal ones reach no port, routed and unprotected ones are reached."""
    flavour = KINDS[host.firewall]
    engine_rules.write(host.netns, engine, flavour, ())
    host.netns.run("ip", "-batch", "-", input="".join(f"link add {one} up type bridge\n" for one in BRIDGES))
    engine_rules.write(host.netns, engine, flavour)
    for bridge in BRIDGES:
        crowd.of_the_engine(bridge)
    crowd.of_the_lan()
    unprotected = [("10.8.0.3", 81), ("fd00:8::3", 81)]
    into = [("10.9.0.2", 80), ("fd00:9::2", 80), *unprotected]
    questions = {
        # Their own gateway is an address of the host.
        bridge: [(gateway.format(number), port) for gateway in GATEWAYS for port in (8080, 8090)] + into
        for bridge, number in BRIDGES.items()
    }
    containers = [(CONTAINER[version].format(number), port) for number in BRIDGES.values() for version, port in ASKED]
    questions["lan"] = into
    questions["nat"] = [*unprotected, *containers]
    modern = engine.startswith("29")
    is_open: list[str | None] = ["unprotected"] * 2 if modern else [None] * 2
    reached = ["nat", "only4", "nat", "only4", None, None, *is_open]
    expected: dict[str, list[str | None]] = dict.fromkeys(BRIDGES, reached)
    expected["x2"] = [None] * 8
    expected["lan"] = [None, None, "unprotected", "unprotected"]
    # Ports 80, which is published, and 81 of each.
    expected["nat"] = [
        *is_open,
        *(["x1", None] if engine == "29 with nftables" else [None] * 2) * 2,
        *[None] * 4,
        *["x5" if modern else None] * 4,
        *["x6" if engine != "26" else None, None] * 2,
    ]

    def as_expected() -> bool:
        told = crowd.told(questions)
        assert told == expected
        return True

    eventually(as_expected, timeout_s=20)


@pytest.mark.parametrize(("engine", "flavour"), [("26", "legacy"), ("28", "nft"), (ENGINES[-1], "nft")])
def test_forwarding_stays_while_an_engine_has_a_bridge_of_any_name(host: Host, engine: str, flavour: str) -> None:
    """Its rules say whose bridge it is, whatever it is called; what is only a bridge needs nothing of it."""
    switches = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"

    def left_on() -> list[str]:
        host.ok("CreateNetwork", network(dual=True))
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        return [host.netns.sysctl(name) for name in switches]

    host.netns.run("ip", "link", "add", "x1", "type", "bridge")
    host.netns.run("ip", "address", "add", "fd00:77:1::1/64", "dev", "x1", "nodad")
    assert left_on() == ["0", "0"]
    engine_rules.write(host.netns, engine, flavour, ("x1",))
    assert left_on() == ["1", "1"]


def test_a_bridge_of_the_engines_is_not_adopted(host: Host) -> None:
    """As by the engine, which has no two networks on one bridge; its name alone does not tell."""
    named: dict[str, Any] = {"com.docker.network.bridge.name": "x1"}
    host.netns.run("ip", "link", "add", "x1", "type", "bridge")
    host.ok("CreateNetwork", network(**named))
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    engine_rules.write(host.netns, "28", bridges=("x1",))

    def refused() -> bool:
        status, answer = host.call("CreateNetwork", network(**named))
        if status == 200:
            host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        return status != 200 and "of the engine's own" in answer["Err"]

    eventually(refused)


@both_firewalls
def test_a_new_bridge_is_closed_until_the_engine_has_said_what_it_is(host: Host) -> None:
    """Until its rules are there it may be that of an internal network; nobody's are waited for beyond some seconds."""
    flavour = KINDS[host.firewall]

    def closed() -> str:
        if flavour == "nft":
            return host.netns.run("nft", "list", "set", "inet", "pynet", "engine_closed")
        return host.netns.run("sh", "-c", "iptables-legacy -t mangle -S PYNET-EDGE | grep -v -- -g")

    host.ok("CreateNetwork", network())
    host.netns.run("ip", "link", "add", "x1", "type", "bridge")
    engine_rules.write(host.netns, "28", flavour, ())
    # No rule can be told of these, and others can all the same.
    for name in ("-dash", "end+", r"x\377"):
        host.netns.run("sh", "-c", f"ip link add name \"$(printf -- '{name}')\" type bridge")
    for name in ("others0", "x2", "x6"):
        host.netns.run("ip", "link", "add", name, "type", "bridge")
    eventually(lambda: all(name in closed() for name in ("others0", "x2", "x6")), timeout_s=SOON_S, every_s=0.02)
    assert not any(name in closed() for name in ("-dash", "end+", "\ufffd"))
    engine_rules.write(host.netns, "28", flavour, ("x2", "x6"))
    eventually(lambda: [name in closed() for name in ("others0", "x1", "x2", "x6")] == [False, False, True, False])
