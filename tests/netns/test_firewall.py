"""The two kinds of firewall: which one is chosen, and how the legacy one gets along with others in its tables."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.firewall import EngineBridges, chains
from pynetdriver.firewall.iptables import IptablesFirewall
from pynetdriver.plan import Crossing, Intent, Member, OpenPort, Owner, PortForward, Relaying, Segment
from tests.lab.legacy import legacy_rules
from tests.lab.netns import Namespace
from tests.lab.wait import SOON_S, eventually

from .host import GENERIC, NETWORK, OTHER, PROGRAM, REVOKE, Host, both_firewalls, ids, network, port, program
from .inside import inside

BRIDGE = "pn-9f9f9f9f9f9f"
#: Bridges of the engine's: none, one, and of every kind.
BRIDGES = (
    EngineBridges(),
    EngineBridges(frozenset({"docker0"}), isolated=False),
    EngineBridges(
        frozenset({"br-0123456789ab", "docker0", "mybr"}),
        frozenset({"br-0123456789ab", "new0"}),
        frozenset({(4, "mybr"), (6, "docker0")}),
    ),
)
legacy = pytest.mark.parametrize("firewall", ["iptables"])
#: Rules of others in each table, with counters.
THEIRS = """*{table}
:{chain} ACCEPT [7:700]
:THEIRS - [0:0]
[3:300] -A {chain} -s 10.1.0.0/16 -m comment --comment "not PYNET's" -j THEIRS
[4:400] -A THEIRS -p tcp -m multiport --dports 1,2 -m conntrack --ctstate NEW -j RETURN
COMMIT
"""
HOOKS = {"raw": "PREROUTING", "nat": "POSTROUTING", "filter": "FORWARD", "mangle": "FORWARD"}


def busy(host: Host) -> None:
    """Make networks of several kinds and publish ports."""
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    for number in (2, 3):
        host.attach(number, dual=True)
        host.ok(PROGRAM, program(number, port(8080 + number), port(53, 53, 17, "127.0.0.1", end=60)))


def idle(host: Host) -> None:
    """Remove all networks."""
    for id in (NETWORK, OTHER):
        host.ok("DeleteNetwork", {"NetworkID": id})


def nft(host: Host) -> str:
    return host.netns.run("nft", "list", "table", "inet", "pynet", check=False)


def said(host: Host) -> str:
    """What the daemon said of its choice, at its last start."""
    lines = [line for line in host.daemon.log.splitlines() if " because=" in line]
    return re.sub(r"\x1b\[\d*m", "", lines[-1])


@pytest.mark.parametrize("firewall", ["auto"])
@pytest.mark.parametrize(
    ("there", "kind", "why"),
    [
        ("iptables-legacy -A INPUT -j ACCEPT", "iptables", "rules in the legacy tables"),
        ("ip6tables-legacy -t nat -N THEIRS; ip6tables-legacy -t nat -A OUTPUT -j THEIRS", "iptables", "legacy tables"),
        ("iptables-nft -A INPUT -j ACCEPT", "nftables", "are in nftables"),
        ("iptables-legacy -L", "nftables", "iptables says iptables v"),
        ("iptables-nft -A INPUT -j ACCEPT; iptables-legacy -A INPUT -j ACCEPT", "nftables", "iptables says iptables v"),
        ("true", "nftables", "iptables says iptables v"),
        # A table with flags, whose listing libnftables 1.0.6 gets wrong.
        (
            "nft 'table inet asleep { flags dormant; }'; iptables-nft -A INPUT -j ACCEPT; iptables-legacy -L",
            "nftables",
            "are in nftables",
        ),
    ],
)
def test_auto_is_the_kind_that_the_hosts_rules_are_of(host: Host, there: str, kind: str, why: str) -> None:
    """Rules that are there decide, then what iptables says of itself."""
    if " (legacy)" in host.netns.run("iptables", "--version"):
        pytest.skip("this machine's own iptables is the legacy one")
    host.netns.run("sh", "-c", there)
    host.restart()
    assert f"kind={kind}" in said(host) and why in said(host)
    host.ok("CreateNetwork", network())
    assert bool(legacy_rules(host.netns)) is (kind == "iptables") and bool(nft(host)) is (kind == "nftables")


@both_firewalls
def test_a_change_of_kind_leaves_nothing_twice_and_no_gap(host: Host, firewall: str) -> None:
    """At a start with the other kind its rules are there before those of the former kind go."""
    busy(host)
    before = host.state().rules
    other = {"nftables": "iptables", "iptables": "nftables"}[firewall]
    gaps, stop = list[float](), threading.Event()

    def look() -> None:
        while not stop.is_set():
            # The new ones are looked at last: rules may move from there to here between two looks, but not back.
            former, new = (nft, lambda one: legacy_rules(one.netns))[:: 1 if firewall == "nftables" else -1]
            if "8082" not in former(host) and "8082" not in new(host):
                gaps.append(time.monotonic())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        host.restart(other)
    finally:
        stop.set()
        looking.join()
    assert not gaps
    assert bool(legacy_rules(host.netns)) is (other == "iptables") and bool(nft(host)) is (other == "nftables")
    host.restart(firewall)
    assert host.state().rules == before
    idle(host)
    assert not host.state().rules


@pytest.fixture
def with_theirs(host: Host) -> Callable[[], str]:
    """A host with rules of others in all tables; gives them back as they are now, with counters."""
    for table, chain in HOOKS.items():
        for restore in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            text = THEIRS.format(table=table, chain=chain)
            text = text.replace("10.1.0.0/16", "fd01::/16") if restore.startswith("ip6") else text
            host.netns.run(restore, "-c", input=text)

    def theirs() -> str:
        saved = host.netns.run("sh", "-c", "iptables-legacy-save -c; ip6tables-legacy-save -c")
        ours = re.compile(r"^(#|:PYNET-|.* -A PYNET-|.* -j PYNET-)")
        # Policies count what the host itself sends.
        policy = re.compile(r"^(:.* ACCEPT) \S+$")
        return "\n".join(policy.sub(r"\1", line) for line in saved.splitlines() if not ours.match(line))

    return theirs


@legacy
def test_rules_of_others_stay_byte_by_byte(host: Host, with_theirs: Callable[[], str]) -> None:
    """Their counters too, whatever of ours comes and goes in the same tables."""
    before = with_theirs()
    assert "[4:400] -A THEIRS" in before
    busy(host)
    assert with_theirs() == before
    host.restart()
    host.ok(REVOKE, ids(2))
    assert with_theirs() == before
    idle(host)
    assert with_theirs() == before and not legacy_rules(host.netns)


@legacy
def test_changes_of_others_at_the_same_time_are_not_lost(host: Host) -> None:
    """Somebody who does not know of the lock adds rules while we do; in the end all of them are there."""
    host.ok("CreateNetwork", network())
    host.attach()
    script = (
        "for i in $(seq 100); do until iptables-legacy -t nat -A PREROUTING -s 10.1.0.$i -j ACCEPT 2>/dev/null;"
        " do :; done; done"
    )
    changes = 0
    with host.netns.popen("env", "XTABLES_LOCKFILE=/dev/null", "sh", "-c", script) as adding:
        try:
            while adding.poll() is None:
                host.ok(PROGRAM, program(2, port(8080 + changes % 3)))
                changes += 1
        except BaseException:
            adding.kill()
            raise
    assert adding.returncode == 0 and changes > 10
    saved = host.netns.run("iptables-legacy-save", "-t", "nat")
    assert saved.count("-A PREROUTING -s 10.1.0.") == 100
    assert saved.count("--dport 808") == 1 and f"--dport {8080 + (changes - 1) % 3}" in saved


DAMAGE = {
    "another jump above ours": "iptables-legacy -t mangle -I FORWARD -j ACCEPT",
    "another rule before the drops on input": "ip6tables-legacy -t mangle -I INPUT -j ACCEPT",
    "jump removed": "iptables-legacy -t nat -D POSTROUTING -j PYNET-POSTROUTING",
    "chain flushed": "ip6tables-legacy -t nat -F PYNET-PREROUTING",
    "rule exchanged": f"iptables-legacy -t mangle -R PYNET-TO-{BRIDGE} 3 -j ACCEPT",
    "rule added": "iptables-legacy -t mangle -I PYNET-EDGE -j ACCEPT",
    "table emptied": "iptables-legacy -t mangle -F; iptables-legacy -t mangle -X",
    # The number of rules stays as it was, as when an engine starts again.
    "jump moved": "t='iptables-legacy -t mangle'; $t -D FORWARD 1; $t -A FORWARD -j PYNET-FORWARD",
}


@legacy
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_mended(host: Host, damage: str) -> None:
    """Within two seconds our part of the tables is as it was, and first where that matters."""
    host.netns.run("iptables-legacy", "-t", "mangle", "-A", "FORWARD", "-j", "ACCEPT")
    busy(host)
    before = legacy_rules(host.netns)
    assert before.count("(first)") > 5
    host.netns.run("sh", "-c", DAMAGE[damage])
    assert legacy_rules(host.netns) != before
    eventually(lambda: legacy_rules(host.netns) == before, timeout_s=SOON_S)
    assert "chains of pynet were changed" in host.daemon.log


@legacy
def test_nothing_is_written_while_nothing_changes(host: Host, with_theirs: Callable[[], str]) -> None:
    """Neither by looking every second, nor at a restart: counters of our own rules stay."""
    busy(host)
    counted = ("iptables-legacy", "-t", "nat", "-nvxL", "PYNET-OUTPUT", "1")
    host.netns.run("ping", "-c1", "-W1", "127.0.0.1")
    before = host.netns.run(*counted)
    assert before.split()[0] != "0"
    time.sleep(2.5)
    host.restart()
    assert host.netns.run(*counted) == before and "writing them anew" not in host.daemon.log


@legacy
def test_the_users_chain_comes_first_and_stays(host: Host, folder: Path) -> None:
    """PYNET-USER is made and, empty, removed by us; rules and further chains of the user's outlive all networks."""
    host.ok("CreateNetwork", network())
    assert ":PYNET-USER" in legacy_rules(host.netns)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert legacy_rules(host.netns) == ""
    host.ok("CreateNetwork", network())
    own = "t='iptables-legacy -t mangle'; $t -N PYNET-USER-MORE; $t -A PYNET-USER -s 10.1.1.1 -j PYNET-USER-MORE"
    host.netns.run("sh", "-c", own)
    time.sleep(1.5)
    host.restart()
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    left = legacy_rules(host.netns).splitlines()
    rule = "-A PYNET-USER -s 10.1.1.1/32 -j PYNET-USER-MORE (first)"
    assert left == ["IPv4 mangle", ":PYNET-USER", ":PYNET-USER-MORE", rule]
    host.ok("CreateNetwork", network())
    assert rule in legacy_rules(host.netns) and "-A PYNET-EDGE -j PYNET-USER (first)" in legacy_rules(host.netns)


@legacy
def test_a_chain_of_others_with_a_name_like_ours_stays(host: Host) -> None:
    """Only chains that pynet makes are pynet's, over a restart and the last network."""
    host.ok("CreateNetwork", network())
    theirs = "t='iptables-legacy -t mangle'; $t -N PYNET-ADMIN; $t -A PYNET-ADMIN -s 10.1.1.1 -j DROP"
    host.netns.run("sh", "-c", theirs)
    host.restart()
    host.ok("CreateNetwork", network(OTHER, 8))
    for id in (NETWORK, OTHER):
        host.ok("DeleteNetwork", {"NetworkID": id})
    left = legacy_rules(host.netns).splitlines()
    assert left == ["IPv4 mangle", ":PYNET-ADMIN", "-A PYNET-ADMIN -s 10.1.1.1/32 -j DROP (first)"]


@legacy
def test_the_longest_name_of_a_link_makes_chains(host: Host) -> None:
    """15 characters, and such that differ in one bit of a letter: IPv6 rules match them whole as well."""
    for number, name in enumerate(("bridge-of-15-aa", "bridge-of-15-ac")):
        options = {"com.docker.network.bridge.name": name}
        made: Any = network(f"{number}" * 64, number, dual=True)
        host.ok("CreateNetwork", {**made, "Options": {GENERIC: options}})
    saved = host.netns.run("ip6tables-legacy-save")
    assert "-A PYNET-SOURCE-bridge-of-15-aa" in saved
    assert "-A PYNET-FORWARD -i bridge-of-15-aa -g PYNET-EDGE" in saved  # another mask would be shown


@legacy
def test_a_chain_that_others_lead_to_is_emptied_only(host: Host) -> None:
    """A rule of somebody else's keeps the chain that it names, without a word every second."""
    host.ok("CreateNetwork", network())
    host.ok("CreateNetwork", network(OTHER, 8))
    host.netns.run("iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-j", f"PYNET-TO-{BRIDGE}")
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    left = [line for line in legacy_rules(host.netns).splitlines() if BRIDGE in line]
    assert left == [f":PYNET-TO-{BRIDGE}", f"-A OUTPUT -j PYNET-TO-{BRIDGE} (first)"]
    time.sleep(2.5)
    assert "chains of pynet were changed" not in host.daemon.log
    host.netns.run("iptables-legacy", "-t", "mangle", "-F", "OUTPUT")
    host.ok("DeleteNetwork", {"NetworkID": OTHER})
    assert not legacy_rules(host.netns)


@pytest.fixture
def own_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of iptables for this test alone: others run beside it, and would wait for the machine's in vain."""
    lock = folder / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    return lock


@legacy
def test_a_refused_change_is_undone(own_lock: Path, host: Host) -> None:
    """A lock that somebody holds for long fails the call, and what it had written already is put back."""
    host.daemon.before = ("env",)  # where the lock is, it reads when it is imported
    host.restart()
    host.ok("CreateNetwork", network())
    before = host.state()
    with own_lock.open("a") as lock:
        holding = subprocess.Popen(["flock", "-x", str(lock.fileno())], pass_fds=[lock.fileno()])
        assert holding.wait() == 0
        assert "another program holds" in host.refused("CreateNetwork", network(OTHER, 8))
    assert host.state() == before


LINKS = (BRIDGE, "bridge-of-15-aa", "br0")
SUBNETS = (IPNetwork("10.9.0.0/24"), IPNetwork("fd00:9::/64"))


def some_intents(choice: random.Random) -> list[Intent]:
    """Choose intents of any sort."""
    found: list[Intent] = []
    for _ in range(choice.randint(0, 4)):
        protocol, number = choice.choice(["tcp", "udp", "sctp"]), choice.randint(80, 90)
        host_address = choice.choice(["0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "fd01::1"])
        address = IPAddress("fd00:9::2" if ":" in host_address else "10.9.0.2")
        but_from = choice.choice([None, BRIDGE])
        found.append(PortForward(protocol, IPAddress(host_address), number, address, number + 1, but_from))
        found.append(OpenPort(protocol, address, number))
    found += [Relaying("tcp", 80)] * choice.randint(0, 1)
    found += [Member(choice.choice(LINKS), f"02:42:0a:09:00:0{choice.randint(0, 9)}")] * choice.randint(0, 1)
    return found


def a_segment(choice: random.Random, link: str) -> Segment:
    """Choose the edge of a network."""
    internal, isolated, anti_spoof, shared = (choice.random() < 0.5 for _ in range(4))
    crossings = tuple(
        Crossing(version, choice.choice(["published", "open", "all"]), choice.choice([None, "link", source]))
        for version, source in ((4, IPAddress("192.0.2.1")), (6, IPAddress("fd01::1")))
    )
    return Segment(
        link, SUBNETS, crossings, internal, isolated, anti_spoof, choice.choice([(), ("eth0", "eth1")]), shared
    )


def run_legacy(*command: str, version: int = 4, **options: Any) -> str:
    """Run an iptables command in this process's namespace."""
    name = f"ip{'6' if version == 6 else ''}tables-legacy{command[0]}"
    return str(subprocess.run([name, *command[1:]], check=True, capture_output=True, text=True, **options).stdout)


def changes_equal_the_whole() -> None:
    """Change owners at random; after each, compare with what iptables-restore makes of the same intents."""
    choice = random.Random(1)
    for _ in range(4):
        asyncio.run(changed_at_random(choice))


async def changed_at_random(choice: random.Random) -> None:
    firewall, owners, bridges = IptablesFirewall(), dict[Owner, tuple[Intent, ...]](), EngineBridges()
    for _ in range(25):
        if choice.random() < 0.15:
            bridges = choice.choice(BRIDGES)
            await firewall.set_engine_bridges(bridges)
        link = choice.choice(LINKS)
        owner = Owner.network(choice.choice([link, "one", "two", "three"]))
        owners[owner] = tuple([a_segment(choice, link)] if owner.id == link else some_intents(choice))
        if choice.random() < 0.25:
            owners[owner] = ()
        await firewall.set(owner, owners[owner])
        by_changes = [run_legacy("-save", version=version) for version in (4, 6)]
        tables = chains.render([chains.content(one) for one in owners.values()], bridges)
        for (version, name), wanted in tables.items():
            run_legacy("-restore", version=version, input=chains.written(wanted, name))
        whole = [run_legacy("-save", version=version) for version in (4, 6)]
        if tables:
            assert list(map(uncommented, by_changes)) == list(map(uncommented, whole))
        else:
            assert "PYNET" not in str(by_changes)
        assert not await firewall.repair()  # what iptables wrote is what we would have written
    await firewall.reset({})


def uncommented(saved: str) -> list[str]:
    """Leave out the time, and counters of policies."""
    return [line.partition(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


def test_changes_equal_the_whole() -> None:
    """After any sequence of changes the tables are, to the last byte, what iptables-restore writes at once."""
    with Namespace() as netns:
        inside(netns, changes_equal_the_whole)
