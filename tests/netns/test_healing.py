"""Damage done by others to what is pynet's is mended within a second; what is not pynet's is left as it is."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynetdriver.firewall.engine import CHAIN
from tests.lab.daemon import Daemon
from tests.lab.netns import Namespace
from tests.lab.wait import SOON_S, eventually

from .host import GENERIC, NETWORK, OTHER, PROGRAM, Host, endpoint, ids, join, network, port, program, rules, stopped

BRIDGE, OTHER_BRIDGE = "pn-9f9f9f9f9f9f", "pn-8e8e8e8e8e8e"
PORT = "pnh000200020002"
MODES = ("hairpin", "isolated", "locked")
#: Long enough for a repair that should not be.
LONG_S = 0.4


def picture(host: Host) -> Any:
    """All of the host's state, and how its bridges' ports are set."""
    found = json.loads(host.netns.run("ip", "-d", "-j", "link"))
    data = {one["ifname"]: one.get("linkinfo", {}).get("info_slave_data", {}) for one in found}
    return host.state(), {name: [modes.get(one) for one in MODES] for name, modes in data.items()}


def mended(host: Host) -> list[str]:
    """What the daemon says that it mended."""
    return [line for line in host.daemon.log.splitlines() if " mended " in line]


def heals(host: Host, before: Any, timeout_s: float = SOON_S) -> None:
    def is_whole() -> bool:
        now = picture(host)
        assert now == before, now
        return True

    eventually(is_whole, timeout_s=timeout_s, every_s=0.01)


@pytest.fixture
def busy(host: Host) -> Host:
    """Two networks, one of which keeps its containers apart; two published endpoints on each."""
    host.ok("CreateNetwork", network(dual=True))
    apart: dict[str, Any] = {"com.docker.network.bridge.enable_icc": "false"}
    host.ok("CreateNetwork", network(OTHER, 8, **apart))
    for number, network_id, subnet in ((2, NETWORK, 9), (3, NETWORK, 9), (4, OTHER, 8), (5, OTHER, 8)):
        host.attach(number, network_id, subnet, dual=network_id == NETWORK)
        host.ok(PROGRAM, program(number, port(8080 + number), network_id=network_id))
    time.sleep(LONG_S)
    assert not mended(host)
    return host


DAMAGE = {
    "ruleset flushed": ("pynet's rules", "nft flush ruleset"),
    "table deleted": ("pynet's rules", "nft delete table inet pynet"),
    "table asleep": ("pynet's rules", "nft add table inet pynet { flags dormant; }"),
    "chain flushed": ("pynet's rules", "nft flush chain inet pynet forward"),
    "rule added": ("pynet's rules", "nft insert rule inet pynet forward accept"),
    "element deleted": ("pynet's rules", "nft delete element inet pynet publish4 { tcp . 8082 }"),
    "bridge deleted": (f"bridge {BRIDGE} is", f"ip link delete {BRIDGE}"),
    "bridge of isolated ports deleted": (f"bridge {OTHER_BRIDGE} is", f"ip link delete {OTHER_BRIDGE}"),
    "bridge down": (f"bridge {BRIDGE} is down", f"ip link set {BRIDGE} down"),
    "bridge's MTU": (f"bridge {BRIDGE} has the MTU 1300", f"ip link set {BRIDGE} mtu 1300"),
    "bridge's MAC": (f"bridge {BRIDGE} has the MAC", f"ip link set {BRIDGE} address 02:00:00:00:00:01"),
    "port pulled out": (f"port {PORT} is not in {BRIDGE}", f"ip link set {PORT} nomaster"),
    "port moved": (f"port {PORT} is not in {BRIDGE}", f"ip link set {PORT} master {OTHER_BRIDGE}"),
    "port down": (f"port {PORT} is down", f"ip link set {PORT} down"),
    "hairpin off": (f"port {PORT} is no longer hairpin", f"bridge link set dev {PORT} hairpin off"),
    "not isolated": ("port pnh000400040004 is no longer isolated", "bridge link set dev pnh000400040004 isolated off"),
    "address removed": (f"address 10.9.0.1/24 dev {BRIDGE} is gone", f"ip address delete 10.9.0.1/24 dev {BRIDGE}"),
    "IPv6 address removed": (f"address fd00:9::1/64 dev {BRIDGE}", f"ip address delete fd00:9::1/64 dev {BRIDGE}"),
    "addresses flushed": (f"address 10.9.0.1/24 dev {BRIDGE} is gone", f"ip address flush dev {BRIDGE}"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_mended_within_a_second(busy: Host, name: str) -> None:
    """Everything is as it was, and one line says what was damaged."""
    said, command = DAMAGE[name]
    before = picture(busy)
    busy.netns.run(*command.split())
    eventually(lambda: any(said in line for line in mended(busy)), timeout_s=SOON_S, every_s=0.01)
    heals(busy, before)
    if "nft" in command:
        assert "by='nft (pid " in mended(busy)[0]


def test_many_kinds_of_damage_at_once(busy: Host) -> None:
    """Whatever comes together is mended together."""
    before = picture(busy)
    commands = [busy.netns.popen(*command.split(), stderr=subprocess.DEVNULL) for _, command in DAMAGE.values()]
    for one in commands:
        one.wait()
    heals(busy, before)


def test_what_is_the_users_stays_and_is_not_watched(busy: Host) -> None:
    """Rules in the user's part cause no rewrite, and a repair leaves them where they are."""

    def handles() -> str:
        return busy.netns.run("nft", "-a", "list", "chain", "inet", "pynet", "forward")

    before = handles()
    for command in (
        "add chain inet pynet user_mine",
        "add set inet pynet user_friends { type ipv4_addr; elements = { 192.0.2.7 }; }",
        "add rule inet pynet user ip saddr @user_friends jump user_mine",
        "add element inet pynet user_friends { 192.0.2.8 }",
        "add rule inet pynet user_mine counter accept",
    ):
        busy.netns.run("nft", command)
    theirs = [rules(busy.netns, f"{one} inet pynet {name}") for one, name in KEPT]
    time.sleep(LONG_S)
    assert not mended(busy) and handles() == before
    busy.netns.run("nft", "flush", "chain", "inet", "pynet", "forward")
    eventually(lambda: handles().replace(" ", "").count("\n") == before.count("\n"), timeout_s=SOON_S, every_s=0.01)
    assert [rules(busy.netns, f"{one} inet pynet {name}") for one, name in KEPT] == theirs and all(theirs)


KEPT = (("chain", "user"), ("chain", "user_mine"), ("set", "user_friends"))


def test_rules_of_the_users_may_name_what_is_pynets(busy: Host) -> None:
    """Neither a repair nor a restart nor the last network's end fails on it; the next network finds all in place."""
    netns = busy.netns
    mine = ("iifname @links counter", "oifname vmap @anti_spoof", "iifname eth7 jump engine", "jump user_mine")
    netns.run("nft", "add chain inet pynet user_mine; add rule inet pynet user_mine jump to_pn-9f9f9f9f9f9f")
    for rule in mine:
        netns.run("nft", f"add rule inet pynet user {rule}")
    before = picture(busy)
    netns.run("nft", "flush chain inet pynet forward; delete element inet pynet publish4 { tcp . 8082 }")
    heals(busy, before)
    busy.restart()
    assert picture(busy) == before
    for number in (2, 3, 4, 5):
        busy.ok("DeleteEndpoint", ids(number, NETWORK if number < 4 else OTHER))
    for network_id in (NETWORK, OTHER):
        busy.ok("DeleteNetwork", {"NetworkID": network_id})
    assert "hook" not in netns.run("nft", "list", "table", "inet", "pynet")
    busy.ok("CreateNetwork", network(OTHER, 8))
    netns.run("nft", "flush", "chain", "inet", "pynet", "user")
    busy.restart()
    assert "anti_spoof_pn-9f" not in netns.run("nft", "list", "table", "inet", "pynet")


def test_what_is_of_others_is_neither_mended_nor_moved(busy: Host) -> None:
    """Tables, bridges, ports and addresses of others stay damaged, and outlive repairs untouched."""
    netns = busy.netns
    netns.run("ip", "link", "add", "virbr0", "up", "type", "bridge")
    netns.run("ip", "address", "add", "192.0.2.1/24", "dev", "virbr0")
    netns.run("ip", "link", "add", "vnet0", "up", "type", "veth", "peer", "name", "guest0")
    netns.run("ip", "link", "set", "vnet0", "master", OTHER_BRIDGE)
    netns.run("nft", "add table inet firewalld; add chain inet firewalld f { type filter hook forward priority 0; }")
    netns.run("nft", "add rule inet firewalld f counter accept; add table inet doomed")
    ours = picture(busy)
    for command in ("nft delete table inet doomed", "ip link set virbr0 down", "ip address flush dev virbr0"):
        netns.run(*command.split())
    netns.run("ip", "link", "set", "vnet0", "nomaster")
    time.sleep(LONG_S)
    assert not mended(busy)
    left = picture(busy)
    assert left != ours
    for _, command in DAMAGE.values():
        if command != "nft flush ruleset":
            netns.run(*command.split(), check=False)
    heals(busy, left)


def test_own_calls_are_no_damage(host: Host) -> None:
    """Fifty endpoints with ports, moved into a sandbox as the engine does, come and go: nothing is mended."""
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    with Namespace() as sandbox:
        for number in range(2, 52):
            host.attach(number, dual=True)
            host.netns.run("ip", "link", "set", f"pnc{number:04x}{number:04x}{number:04x}", "netns", sandbox.name)
            host.ok(PROGRAM, program(number, port(8000 + number), port(5000 + number, 53, 17)))
        # So many that the transaction is carried out by another thread.
        host.ok(PROGRAM, program(2, port(20000, 20000, end=21999)))
        for number in range(2, 52):
            host.ok("Leave", ids(number))
            if number % 2:
                host.ok("DeleteEndpoint", ids(number))
    for number in range(2, 52, 2):
        host.ok("DeleteEndpoint", ids(number))
    for network_id in (NETWORK, OTHER):
        host.ok("DeleteNetwork", {"NetworkID": network_id})
    time.sleep(LONG_S)
    assert mended(host) == [] and "[error" not in host.daemon.log
    # It was watched all the time.
    host.ok("CreateNetwork", network())
    host.netns.run("ip", "link", "delete", BRIDGE)
    eventually(lambda: mended(host), timeout_s=SOON_S)


def test_own_calls_are_known_in_a_pid_namespace(folder: Path) -> None:
    """Where the process ids that the kernel tells are not the daemon's own, its transactions are still known."""
    with Namespace() as netns:
        command = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "pynetdriver")
        host = Host(folder)
        host.netns = netns
        host.daemon = Daemon(netns, folder / "pynet.sock", folder / "state", command=command)
        with host.daemon:
            host.ok("CreateNetwork", network())
            host.attach()
            host.ok(PROGRAM, program(2, port(8080), port(20000, 20000, end=21999)))
            time.sleep(LONG_S)
            assert mended(host) == []
            before = rules(netns)
            netns.run("nft", "flush", "ruleset")
            eventually(lambda: rules(netns) == before, timeout_s=SOON_S, every_s=0.01)


def test_a_storm_of_others_leaves_the_daemon_responsive(busy: Host) -> None:
    """Hundreds of rules and links of others, each for itself: calls are answered meanwhile, damage is mended after.

    Between the links there are pauses: other tests want the kernel's lock on links, too, and a machine that is busy
    with this one alone shows nothing of the daemon's.
    """
    before = picture(busy)
    chains = (
        "nft add table ip storm; nft add chain ip storm c; i=0;"
        "while [ $i -lt 300 ]; do nft add rule ip storm c counter; i=$((i + 1)); done; nft delete table ip storm"
    )
    links = (
        "i=0; while [ $i -lt 200 ]; do ip link add storm$i type bridge; "
        "ip link delete storm$i; i=$((i + 1)); sleep 0.02; done"
    )
    took = list[float]()
    with busy.netns.popen("sh", "-c", chains) as rules_storm, busy.netns.popen("sh", "-c", links) as link_storm:
        while rules_storm.poll() is None or link_storm.poll() is None:
            asked = time.monotonic()
            busy.ok("CreateEndpoint", endpoint(6, dual=True))
            busy.ok("Join", join(6))
            busy.ok("Leave", ids(6))
            busy.ok("DeleteEndpoint", ids(6))
            took.append(time.monotonic() - asked)
            time.sleep(0.1)
    assert len(took) > 10 and statistics.median(took) < 5 and not mended(busy)
    heals(busy, before)
    busy.netns.run("ip", "link", "delete", BRIDGE)
    heals(busy, before)


def test_what_was_too_much_to_be_read_is_looked_for(busy: Host) -> None:
    """Messages that the kernel dropped are made up for by a look at everything."""
    before = picture(busy)
    busy.netns.run("ip", "link", "add", "noise", "type", "bridge")
    noise = "\n".join(f"link set noise mtu {1000 + number % 7}" for number in range(30_000))
    with stopped(busy):
        busy.netns.run("ip", "-batch", "-", input=noise)
        for command in ("link delete noise", f"link delete {BRIDGE}", f"address delete 10.8.0.1/24 dev {OTHER_BRIDGE}"):
            busy.netns.run("ip", *command.split())
    heals(busy, before)
    assert "looking at everything" in busy.daemon.log


def test_a_repair_brings_nothing_back_that_is_being_removed(host: Host) -> None:
    """Damage and removal at the same moment, many times: in the end nothing is left, nothing is said to be broken."""
    before = host.state()
    for number in range(2, 22):
        host.ok("CreateNetwork", network())
        host.attach(number)
        host.netns.run("ip", "link", "delete", BRIDGE)
        time.sleep(number * 0.005)
        for method in ("Leave", "DeleteEndpoint"):
            host.ok(method, ids(number))
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    time.sleep(LONG_S)
    assert host.state() == before and "[error" not in host.daemon.log
    host.ok("CreateNetwork", network())
    count = len(mended(host))
    host.netns.run("ip", "link", "delete", BRIDGE)
    eventually(lambda: len(mended(host)) > count, timeout_s=SOON_S)


def test_an_adopted_bridge_is_missed_but_not_made(host: Host) -> None:
    """A bridge of others is theirs to make; when it is back, pynet's ports, address and switches are on it again."""
    make = ["ip link add vpn0 address 02:00:00:00:00:07 up type bridge", "ip address add 192.0.2.1/24 dev vpn0"]
    for command in make:
        host.netns.run(*command.split())
    host.ok("CreateNetwork", {**network(), "Options": {GENERIC: {"com.docker.network.bridge.name": "vpn0"}}})
    for number in (2, 3):
        host.attach(number)
    host.ok(PROGRAM, program(2, port(8080)))
    before = picture(host)
    assert before[1][PORT] == [True, False, True]
    host.netns.run("ip", "link", "delete", "vpn0")
    eventually(lambda: "containers on it are cut off" in host.daemon.log, timeout_s=SOON_S)
    time.sleep(LONG_S)
    assert not mended(host) and "vpn0" not in picture(host)[1] and "[error" not in host.daemon.log
    for command in make:
        host.netns.run(*command.split())
    heals(host, before)
    assert host.netns.sysctl("net/ipv4/conf/vpn0/route_localnet") == "1"
    host.netns.run("ip", "link", "set", PORT, "nomaster")
    heals(host, before)
    host.netns.run("ip", "address", "delete", "10.9.0.1/24", "dev", "vpn0")
    heals(host, before)


def test_ports_go_to_no_bridge_of_others(busy: Host) -> None:
    """Somebody put a bridge of theirs in the place of pynet's: it gets no port; once it is gone, all is as before."""
    before = picture(busy)
    with stopped(busy):
        busy.netns.run("ip", "-batch", "-", input=f"link delete {BRIDGE}\nlink add {BRIDGE} type bridge\n")
    eventually(lambda: "cannot mend" in busy.daemon.log, timeout_s=SOON_S)
    time.sleep(LONG_S)
    links = busy.state().links
    assert links[PORT]["master"] is None and links[BRIDGE]["addresses"] == [] and not links[BRIDGE]["up"]
    busy.netns.run("ip", "link", "delete", BRIDGE)
    heals(busy, before)


def test_the_engines_bridges_are_known_as_they_come(busy: Host) -> None:
    """A bridge of the engine's own is in the set of those within a second, and out of it again."""

    def known() -> str:
        return busy.netns.run("nft", "list", "set", "inet", "pynet", "engine_bridges")

    busy.netns.run("ip", "link", "add", "br-0123456789ab", "type", "bridge")
    eventually(lambda: "br-0123456789ab" in known(), timeout_s=SOON_S, every_s=0.02)
    busy.netns.run("ip", "link", "delete", "br-0123456789ab")
    eventually(lambda: "br-0123456789ab" not in known(), timeout_s=SOON_S, every_s=0.02)


@pytest.fixture
def chain(busy: Host) -> Iterator[Host]:
    """An engine's chains are on the host, in the flavour that tells of changes, with pynet's rules in them."""
    _engine_writes_its_rules(busy)
    eventually(lambda: _rules_in_chain(busy) == 2, timeout_s=SOON_S)
    time.sleep(1)
    yield busy


def _engine_writes_its_rules(host: Host) -> None:
    for command in (f"-N {CHAIN}", "-P FORWARD DROP", f"-I FORWARD -j {CHAIN}"):
        host.netns.run("iptables-nft", *command.split())


def _rules_in_chain(host: Host) -> int:
    return host.netns.run("iptables-nft", "-S", CHAIN).count("0x706e -j ACCEPT")


def test_rules_taken_from_the_engines_chain_are_there_again(chain: Host) -> None:
    """One rule deleted, the chain flushed: the accept rules are back within a second."""
    count = len([line for line in mended(chain) if "the engine's chain" in line])
    for command in (f"-D {CHAIN} 1", f"-F {CHAIN}"):
        chain.netns.run("iptables-nft", *command.split())
        eventually(lambda: _rules_in_chain(chain) == 2, timeout_s=SOON_S, every_s=0.02)
        time.sleep(1)
    assert len([line for line in mended(chain) if "the engine's chain" in line]) == count + 2


def test_a_firewall_that_reloads_is_survived(chain: Host) -> None:
    """What firewalld does on a reload, by its commands: both of its backends leave containers their network.

    firewalld itself needs a message bus. With nftables it replaces its own table; with iptables it flushes all
    tables and puts policies, after which an engine that it tells writes its chains again.
    """
    before = picture(chain)
    table = "table inet firewalld {\nchain c {\ntype filter hook forward priority 10; policy accept;\n}\n}\n"
    for _ in range(2):
        chain.netns.run("nft", "-f", "-", input=f"table inet firewalld\ndelete table inet firewalld\n{table}")
    assert not [line for line in mended(chain) if "pynet's rules" in line]
    chain.netns.run("nft", "delete", "table", "inet", "firewalld")
    for name in ("filter", "nat"):
        for flush in ("-F", "-X"):
            chain.netns.run("iptables-nft", "-t", name, flush)
    chain.netns.run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    _engine_writes_its_rules(chain)
    eventually(lambda: _rules_in_chain(chain) == 2, timeout_s=SOON_S, every_s=0.02)
    chain.netns.run("iptables-nft", "-t", "nat", "-X", check=False)
    chain.netns.run("nft", "delete", "table", "ip", "nat", check=False)
    heals(chain, before)
    assert "-P FORWARD DROP" in chain.netns.run("iptables-nft", "-S", "FORWARD")


def test_a_crashed_daemon_finds_what_was_damaged_meanwhile(busy: Host) -> None:
    """What happened while nobody watched is found by the comparison at the start, and by the first look."""
    before = picture(busy)
    busy.daemon.kill()
    busy.netns.run("ip", "link", "delete", BRIDGE)
    busy.daemon.start()
    heals(busy, before)
    busy.ok("Join", join())
