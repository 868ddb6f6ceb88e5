"""Damage under running containers: what was hit flows again at once, what was not loses no packet."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.lab import Lab
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import SOON_S, eventually

EVERY_S = 0.05
GUEST, GUEST_GATEWAY = "192.168.122.2", "192.168.122.1"


class Ping:
    """Twenty echo requests a second, from before the block to its end; tells what was lost."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.lost = -1

    def finish(self) -> None:
        """Count the gaps up to the last answer."""
        time.sleep(0.5)
        self._process.send_signal(signal.SIGINT)
        said = self._process.communicate(timeout=10)[0].decode()
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", said)}
        assert answered, said
        self.lost = max(answered) - len(answered)


@contextmanager
def pinging(*processes: subprocess.Popen[bytes]) -> Iterator[list[Ping]]:
    pings = [Ping(one) for one in processes]
    try:
        time.sleep(0.5)
        yield pings
    finally:
        for one in pings:
            one.finish()


def _ping(lab: Lab, container: str, target: str) -> subprocess.Popen[bytes]:
    return lab.sandbox(container, "ping", "-n", "-i", str(EVERY_S), target, stdout=subprocess.PIPE)


def _mended(lab: Lab) -> list[str]:
    return [line for line in lab.daemon.log.splitlines() if " mended " in line]


@pytest.fixture
def pair(lab: Lab) -> Iterator[Lab]:
    """Two networks with two containers each, one of them published."""
    for number, name in enumerate(("net", "calm")):
        lab.network(name, "--subnet", f"10.{6 + number}.0.0/24")
        lab.web(f"{name}1", "--network", name, "-p", f"808{number}:80")
        lab.run(f"{name}2", "--network", name)
    yield lab


def _bridge(lab: Lab, name: str) -> str:
    return "pn-" + lab.docker("network", "inspect", "-f", "{{.Id}}", name)[:12]


def test_a_deleted_bridge_is_back_within_a_second(pair: Lab) -> None:
    """The network's own traffic stops for less than a second, the other network's not at all."""
    lab = pair
    near, far = lab.addresses("net1", "net")["IPAddress"], lab.addresses("calm1", "calm")["IPAddress"]
    with pinging(_ping(lab, "net2", near), _ping(lab, "calm2", far), _ping(lab, "calm2", lab.lan.NEIGHBOUR4)) as pings:
        lab.host.run("ip", "link", "delete", _bridge(lab, "net"))
        time.sleep(1.5)
    hit, calm, outward = pings
    assert any("bridge pn-" in line for line in _mended(lab))
    assert hit.lost * EVERY_S < 1 and calm.lost == outward.lost == 0
    for number, name in enumerate(("net1", "calm1")):
        assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:808{number}/hostname") == name
    assert lab.pings("net1", lab.lan.NEIGHBOUR4)


def test_a_port_pulled_out_harms_nobody_else(pair: Lab) -> None:
    """One container is cut off for less than a second, its neighbours on the same bridge are not."""
    lab = pair
    lab.run("net3", "--network", "net")
    near = lab.addresses("net1", "net")["IPAddress"]
    link = "pnh" + lab.addresses("net2", "net")["EndpointID"][:12]
    with pinging(_ping(lab, "net2", near), _ping(lab, "net3", near)) as (hit, calm):
        lab.host.run("ip", "link", "set", link, "nomaster")
        time.sleep(1)
    assert hit.lost * EVERY_S < 1 and calm.lost == 0
    assert any(f"port {link}" in line for line in _mended(lab))


def test_a_flushed_ruleset_is_written_anew_at_once(pair: Lab) -> None:
    """`nft flush ruleset` takes ports for less than a second and no packet within networks.

    It takes the engine's own rules too, as far as they are nftables: those come with the engine's next start.
    Of legacy tables the kernel tells nothing, so they are looked at once a second; there only pynet's chains are
    flushed, as without the engine's its policy drops everything.
    """
    lab = pair
    near, far = lab.addresses("net1", "net")["IPAddress"], lab.addresses("calm1", "calm")["IPAddress"]
    rules, count = lab.rules(), len(_mended(lab))
    told = "nft" in lab.name
    try:
        with pinging(_ping(lab, "net2", near), _ping(lab, "calm2", far)) as pings:
            if told:
                lab.host.run("nft", "flush", "ruleset")
            else:
                for chain in ("raw -F PYNET-RAW", "nat -F PYNET-PUBLISH", "mangle -F PYNET-FORWARD"):
                    lab.engine.machine.run("iptables", "-t", *chain.split())
            said = "rules were changed"
            wait_s = 1 if told else 3
            eventually(lambda: said in "".join(_mended(lab)[count:]), timeout_s=wait_s, every_s=0.02)
            assert not told or len(lab.rules()) == len(rules)
            for number, name in enumerate(("net1", "calm1")):
                assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:808{number}/hostname") == name
        assert [one.lost for one in pings] == [0, 0]
        assert ("by='nft (pid " in "".join(_mended(lab)[count:])) == told
    finally:
        lab.engine.restart()


def test_rules_taken_from_the_engines_chain_are_there_again(pair: Lab) -> None:
    """Somebody flushes DOCKER-USER: at once where the kernel tells of it, else with the next look."""
    lab = pair
    told = "nft" in lab.name
    before = lab.state()["engine's chain"]
    for command in ("iptables", "ip6tables"):
        lab.engine.machine.run(command, "-F", "DOCKER-USER", check=False)  # older engines have but the one
        # As it was: newer engines keep no rule of their own in it.
        for line in before[command]:
            if line.endswith("-j RETURN"):
                lab.engine.machine.run(command, *line.split())
    eventually(lambda: lab.pings("net1", lab.lan.NEIGHBOUR4), timeout_s=SOON_S if told else 40)
    eventually(lambda: lab.state()["engine's chain"] == before, timeout_s=SOON_S if told else 40)


def test_an_engines_restart_leaves_containers_their_way_out(lab: Lab) -> None:
    """The engine writes its chains anew: what it starts again is reached and reaches."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.web("web", "--network", "net", "-p", "8080:80", "--restart", "always")
    lab.engine.restart()
    eventually(lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web", timeout_s=20)
    eventually(lambda: lab.pings("web", lab.lan.NEIGHBOUR4), timeout_s=5)


def test_what_the_engine_does_is_no_damage(lab: Lab) -> None:
    """Containers with ports come and go, eight at a time: nothing is mended."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    time.sleep(1.5)
    before = len(_mended(lab))
    for _ in range(2):
        names = [f"one{number}" for number in range(8)]
        for number, name in enumerate(names):
            lab.web(name, "--network", "net", "-p", f"{8000 + number}:80")
        lab.docker("rm", "-f", *names, timeout_s=120)
    assert _mended(lab)[before:] == []
    # It was watched all the time.
    (bridge,) = [one["ifname"] for one in lab.links() if one["ifname"].startswith("pn-")]
    lab.host.run("ip", "link", "delete", bridge)
    eventually(lambda: _mended(lab)[before:], timeout_s=SOON_S)


@pytest.fixture
def guest(lab: Lab) -> Iterator[Namespace]:
    """A guest behind a bridge of others, routed to the LAN by the host, as libvirt does it."""
    host = lab.host
    with Namespace() as guest:
        host.run("ip", "link", "add", "virbr0", "up", "type", "bridge")
        host.run("ip", "address", "add", f"{GUEST_GATEWAY}/24", "dev", "virbr0")
        connect(Plug(host, "vnet0"), Plug(guest, "eth0", (f"{GUEST}/24",)))
        host.run("ip", "link", "set", "vnet0", "master", "virbr0")
        guest.run("ip", "route", "add", "default", "via", GUEST_GATEWAY)
        lab.neighbour.run("ip", "route", "add", "192.168.122.0/24", "via", lab.lan.HOST4)
        try:
            yield guest
        finally:
            lab.neighbour.run("ip", "route", "delete", "192.168.122.0/24", check=False)
            for link in ("vnet0", "virbr0"):
                host.run("ip", "link", "delete", link, check=False)


def test_guests_of_others_keep_their_network(lab: Lab, guest: Namespace) -> None:
    """Networks of pynet come, are damaged, are mended and go: a guest loses no packet, and gains no way."""

    def reaches() -> bool:
        return "1 received" in guest.run("ping", "-nc1", "-W1", lab.lan.NEIGHBOUR4, check=False)

    def life() -> None:
        lab.network("net", "--subnet", "10.6.0.0/24")
        lab.web("web", "--network", "net", "-p", "8080:80")
        lab.host.run("ip", "link", "delete", _bridge(lab, "net"))
        flush = "nft flush chain inet pynet forward" if "nft" in lab.name else "iptables -t mangle -F PYNET-FORWARD"
        lab.engine.machine.run(*flush.split())
        eventually(lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web", timeout_s=SOON_S)
        lab.docker("rm", "-f", "web")
        lab.docker("network", "rm", "net")

    def policies() -> list[list[str]]:
        listed = [lab.engine.machine.run(command, "-S", "FORWARD") for command in ("iptables", "ip6tables")]
        # Older engines move their own rule to the top with every network.
        return [sorted(line for line in one.splitlines() if "PYNET" not in line) for one in listed]

    as_the_engine_has_it = reaches()
    life()
    assert reaches() == as_the_engine_has_it
    allow = [("FORWARD", end, "virbr0", "-j", "ACCEPT") for end in ("-i", "-o")]
    for rule in allow:
        lab.engine.machine.run("iptables", "-I", *rule)
    try:
        before = policies()
        links = lab.host.run("ip", "-br", "link", "show", "master", "virbr0")
        with pinging(guest.popen("ping", "-n", "-i", str(EVERY_S), lab.lan.NEIGHBOUR4, stdout=subprocess.PIPE)) as (
            ping,
        ):
            life()
        assert ping.lost == 0 and policies() == before
        assert lab.host.run("ip", "-br", "link", "show", "master", "virbr0") == links
    finally:
        for rule in allow:
            lab.engine.machine.run("iptables", "-D", *rule)
