"""A host that forwards for pynet alone routes nothing that it did not route before, with both kinds of firewall."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pynetdriver.firewall.engine import CHAIN
from pynetdriver.names import PLAIN_GROUP
from tests.conftest import left_out
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .host import GENERIC, NETWORK, OTHER, Host, both_firewalls, endpoint, join, network

pytestmark = both_firewalls
SWITCHES = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
DUAL = network(dual=True)
#: By what a packet of the administrator's choice is let through.
ACCEPT = {
    "nftables": ("nft", "add", "rule", "inet", "pynet", "user", "meta", "l4proto", "{ icmp, ipv6-icmp }", "accept"),
    "iptables": ("sh", "-c", "for c in iptables ip6tables; do $c-legacy -t mangle -A PYNET-USER -j ACCEPT; done"),
}


class Site:
    """A host with machines behind links of its own, all of which take it for their router."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.machines: dict[str, Namespace] = {}
        self._stack = ExitStack()

    def machine(self, number: int, link: str, *, bridge: str = "") -> Namespace:
        """Put a machine with the addresses 172.20.NUMBER.2 and fd20:NUMBER::2 behind a link of the host."""
        machine = self._stack.enter_context(Namespace())
        for where in (machine, self.host.netns):
            for conf in ("all", "default"):
                # Addresses are usable at once.
                where.write_sysctl(f"net/ipv6/conf/{conf}/accept_dad", "0")
        own = () if bridge else (f"172.20.{number}.1/24", f"fd20:{number}::1/64")
        plug = Plug(machine, "eth0", (f"172.20.{number}.2/24", f"fd20:{number}::2/64"))
        connect(Plug(self.host.netns, link, own), plug)
        if bridge:
            self.host.netns.run("ip", "link", "set", link, "master", bridge)
        for router in (f"172.20.{number}.1", f"fd20:{number}::1"):
            machine.run("ip", "route", "add", "default", "via", router, "dev", "eth0")
        self.machines[link] = machine
        return machine

    def bridge(self, name: str, number: int) -> None:
        """Make a bridge with the addresses of a router."""
        self.host.netns.run("ip", "link", "add", name, "type", "bridge")
        self.host.netns.run("ip", "link", "set", name, "up")
        for address in (f"172.20.{number}.1/24", f"fd20:{number}::1/64"):
            self.host.netns.run("ip", "address", "add", address, "dev", name, "nodad")

    def close(self) -> None:
        self._stack.close()


def pings(machine: Namespace, number: int, host: int = 2) -> list[bool]:
    """Tell whether a machine reaches another one by IPv4, and by IPv6."""
    script = 'for to in "$@"; do { ping -nc1 -W1 $to >/dev/null && echo $to; } & done; wait'
    asked = (f"172.20.{number}.{host}", f"fd20:{number}::{host}")
    answered = machine.run("sh", "-c", script, "sh", *asked).split()
    return [one in answered for one in asked]


def reaches(machine: Namespace, *numbers: int, host: int = 2) -> bool:
    """Wait until a machine reaches others by both."""
    return bool(eventually(lambda: all(all(pings(machine, one, host)) for one in numbers), timeout_s=15))


@pytest.fixture
def site(host: Host) -> Iterator[Site]:
    """Machines behind lan1 and lan2."""
    made = Site(host)
    try:
        for number in (1, 2):
            made.machine(number, f"lan{number}")
        yield made
    finally:
        made.close()


def forwards(host: Host) -> list[str]:
    return [host.netns.sysctl(one) for one in SWITCHES]


def test_strangers_are_not_routed_to_each_other(site: Site, host: Host, firewall: str) -> None:
    """From the first network on, over a restart and flushed rules, to the last one; the administrator may let them."""
    one, two = site.machines["lan1"], site.machines["lan2"]
    before = host.state()
    host.ok("CreateNetwork", DUAL)
    assert forwards(host) == ["1", "1"]
    assert pings(one, 2) == pings(two, 1) == [False, False]
    assert reaches(one, 1, 2, host=1)  # the host itself
    host.restart()
    assert pings(one, 2) == [False, False]
    host.flush_rules()
    eventually(lambda: "lan1" in host.state().rules, timeout_s=5)
    assert pings(one, 2) == [False, False]
    host.netns.run(*ACCEPT[firewall])
    assert reaches(one, 2)
    host.flush_rules()
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.state() == before


def test_nothing_is_routed_back_by_the_link_that_it_came_by(site: Site, host: Host, firewall: str) -> None:
    """Two machines on one wire that are in different subnets do not meet by way of the host."""
    site.host.netns.run("ip", "address", "add", "172.20.3.1/24", "dev", "lan1")
    one = site.machines["lan1"]
    one.run("ip", "address", "add", "172.20.3.2/24", "dev", "eth0")
    ask = ("ping", "-nc1", "-W1", "-I", "172.20.1.2", "172.20.3.9")
    one.run("ip", "route", "add", "172.20.3.9", "via", "172.20.1.1")
    host.netns.run("ip", "neighbour", "add", "172.20.3.9", "lladdr", "02:00:00:00:00:99", "dev", "lan1")
    host.ok("CreateNetwork", DUAL)
    with one.popen(sys.executable, "-c", _HEARS, "02:00:00:00:00:99", stdout=-1) as heard:
        assert heard.stdout is not None and heard.stdout.readline() == b"up\n"
        one.run(*ask, check=False)
        assert heard.stdout.readline() == b"nothing\n"


_HEARS = (
    "import socket,sys,time;s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x800));s.bind(('eth0',0));"
    "s.setsockopt(263,1,__import__('struct').pack('iHH8x',socket.if_nametoindex('eth0'),1,0));"
    "to=bytes.fromhex(sys.argv[1].replace(':',''));end=time.monotonic()+3;print('up',flush=True)\n"
    "while (left:=end-time.monotonic())>0:\n"
    "  s.settimeout(left)\n"
    "  try: got=s.recv(2048)\n"
    "  except TimeoutError: break\n"
    "  if got[:6]==to: print('routed',flush=True); raise SystemExit\n"
    "print('nothing',flush=True)"
)


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_that_forwarded_before_goes_on(site: Site, host: Host, firewall: str, version: int) -> None:
    """Of the IP version of which it did; the other one is pynet's doing."""
    host.netns.write_sysctl(SWITCHES[version // 5], "1")
    for _ in range(2):
        eventually(lambda: pings(site.machines["lan1"], 2) == [version == 4, version == 6])
        host.ok("CreateNetwork", DUAL)
        assert forwards(host) == ["1", "1"]
    if firewall == "nftables":
        # As where rules are saved and loaded again at boot.
        host.daemon.kill()
        host.netns.run("nft", "add", "element", "inet", "pynet", f"strangers{version}", "{ lan1 }")
        host.daemon.start()
        eventually(lambda: pings(site.machines["lan1"], 2) == [version == 4, version == 6])


def test_links_that_others_make_later_are_theirs(site: Site, host: Host, firewall: str) -> None:
    """A guest's link that comes while pynet has the host forward is routed wherever its owner lets it."""
    host.ok("CreateNetwork", DUAL)
    guest = site.machine(3, "guest0")
    assert reaches(guest, 1) and reaches(site.machines["lan1"], 3)
    host.restart()
    assert reaches(guest, 1) and reaches(site.machines["lan1"], 3)
    assert pings(site.machines["lan1"], 2) == [False, False]


def test_what_pynet_makes_on_a_link_is_on_its_side(site: Site, host: Host, firewall: str) -> None:
    """A VLAN or the host's own link on a parent, told by the group of such, is a stranger to the host's other links."""
    host.ok("CreateNetwork", DUAL)
    beyond = site.machine(3, "own0")
    assert reaches(beyond, 1) and reaches(site.machines["lan1"], 3)
    host.netns.run("ip", "link", "set", "own0", "group", str(PLAIN_GROUP))
    assert pings(beyond, 1) == pings(site.machines["lan1"], 3) == [False, False]
    assert reaches(beyond, 3, host=1)


def test_what_pynet_makes_on_several_links_is_kept_apart(site: Site, host: Host, firewall: str) -> None:
    """As the links that it is on are, but only where the host did not forward before."""
    host.netns.write_sysctl(SWITCHES[0], "1")
    host.ok("CreateNetwork", DUAL)
    one, two = site.machine(3, "own0"), site.machine(4, "own1")
    assert reaches(one, 4) and reaches(two, 3)
    for link in ("own0", "own1"):
        host.netns.run("ip", "link", "set", link, "group", str(PLAIN_GROUP))
    assert pings(one, 4) == pings(two, 3) == [True, False]
    host.restart()
    assert pings(one, 4) == pings(two, 3) == [True, False]
    assert reaches(one, 4, host=1)


def test_a_link_that_forwarded_by_itself_still_does(site: Site, host: Host, firewall: str) -> None:
    """What comes by it goes where it went; what comes by others does not go out by it."""
    host.netns.write_sysctl("net/ipv4/conf/lan1/forwarding", "1")
    one, two = site.machines["lan1"], site.machines["lan2"]
    for _ in range(2):
        assert udp(one, two, "172.20.2.2") and not udp(two, one, "172.20.1.2")
        host.ok("CreateNetwork", DUAL)


def udp(source: Namespace, target: Namespace, address: str) -> bool:
    """Tell whether a datagram arrives."""
    listen = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',9000));s.settimeout(1);"
        "print('up',flush=True);print(s.recv(9).decode(),flush=True)"
    )
    send = f"import socket;socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('{address}',9000))"
    with target.popen(sys.executable, "-c", listen, stdout=-1, stderr=-3) as hearing:
        assert hearing.stdout is not None and hearing.stdout.readline() == b"up\n"
        source.run(sys.executable, "-c", send)
        return bool(hearing.stdout.readline() == b"x\n")


def test_the_guard_stays_while_the_switch_does(site: Site, host: Host, firewall: str) -> None:
    """A bridge of the engine's keeps the host forwarding after the last network, and strangers are no better off."""
    host.ok("CreateNetwork", DUAL)
    site.bridge("docker0", 9)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert forwards(host) == ["1", "1"]
    assert pings(site.machines["lan1"], 2) == [False, False]
    for _ in range(2):
        assert pings(site.machines["lan1"], 2) == [False, False]
        host.restart()
    host.flush_rules()
    eventually(lambda: "lan1" in host.state().rules, timeout_s=5)
    assert pings(site.machines["lan1"], 2) == [False, False]
    # Without its state, as when pynet was uninstalled and installed again: its rules say that there is a guard.
    host.daemon.kill()
    shutil.rmtree(host.daemon.state_dir)
    host.daemon.start()
    assert '"strangers"' in host.state().rows["setting", "/proc/sys/net/ipv4/ip_forward"]
    assert "docker0" not in str(host.state().rows)
    host.netns.run("ip", "link", "delete", "docker0")
    host.ok("CreateNetwork", DUAL)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert forwards(host) == ["0", "0"] and not host.state().rows and "lan1" not in host.state().rules


def test_machines_on_an_adopted_bridge_are_strangers_too(site: Site, host: Host, firewall: str) -> None:
    """Containers there go out, and nobody else."""
    site.bridge("br0", 3)
    machine = site.machine(3, "port0", bridge="br0")
    subnet = {"Pool": "172.20.3.0/24", "Gateway": "172.20.3.1/24"}
    options = {"com.docker.network.bridge.name": "br0", "com.docker.network.bridge.enable_ip_masquerade": "false"}
    made = {**network(), "IPv4Data": [{"AddressSpace": "", **subnet}], "Options": {GENERIC: options}}
    # The network's own half of the LAN.
    made["IPv4Data"][0]["Pool"] = "172.20.3.128/25"
    made["IPv4Data"][0]["Gateway"] = "172.20.3.129/25"
    host.ok("CreateNetwork", made)
    asked: Any = endpoint(2)
    asked["Interface"]["Address"] = "172.20.3.130/25"
    asked["Interface"]["AddressIPv6"] = ""
    host.ok("CreateEndpoint", asked)
    host.ok("Join", join(2))
    assert pings(machine, 1)[0] is pings(site.machines["lan1"], 3)[0] is False
    with Namespace() as container:
        host.netns.run("ip", "link", "set", "pnc000200020002", "netns", container.name)
        for command in ("address add 172.20.3.130/25 dev", "link set up dev"):
            container.run("ip", *command.split(), "pnc000200020002")
        container.run("ip", "route", "add", "default", "via", "172.20.3.129")
        assert "1 received" in container.run("ping", "-nc1", "-W1", "172.20.1.2", check=False)


def test_what_a_bridge_carries_is_not_routed(site: Site, host: Host, firewall: str) -> None:
    """With br_netfilter it comes by the same chains, and passes as before."""
    switches = [f"net/bridge/bridge-nf-call-{one}" for one in ("iptables", "ip6tables")]
    if "1" not in host.netns.run("sh", "-c", "test -e /proc/sys/net/bridge && echo 1 || true"):
        left_out("kernel br_netfilter", "this machine's kernel has not loaded it")
    for switch in switches:
        host.netns.write_sysctl(switch, "1")
    site.bridge("br0", 3)
    one = site.machine(3, "port0", bridge="br0")
    other = site.machine(4, "port1", bridge="br0")
    for address in ("172.20.3.4/24", "fd20:3::4/64"):
        other.run("ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    host.ok("CreateNetwork", DUAL)
    assert reaches(one, 3, host=4)
    assert pings(one, 1) == [False, False]


def test_a_store_of_version_0_2_0_gets_its_guard(site: Site, host: Host, firewall: str) -> None:
    """Who turned the switch on did not ask who was there: links on a LAN are taken for strangers, others are not."""
    for number in (1, 2):
        upper = f"wan{number}"
        host.netns.run("ip", "link", "add", upper, "link", f"lan{number}", "type", "macvlan", "mode", "private")
        host.netns.run("ip", "address", "add", f"172.20.1{number}.1/24", "dev", upper)
        host.netns.run("ip", "link", "set", upper, "up")
        machine = site.machines[f"lan{number}"]
        machine.run("ip", "address", "add", f"172.20.1{number}.2/24", "dev", "eth0")
        machine.run("ip", "route", "add", f"172.20.1{3 - number}.0/24", "via", f"172.20.1{number}.1")
    host.ok("CreateNetwork", network())
    host.daemon.kill()
    with sqlite3.connect(host.daemon.state_dir / "pynet.db") as store:
        changed = "UPDATE record SET data = CAST(json_remove(CAST(data AS TEXT), '$.strangers') AS BLOB)"
        assert store.execute(f"{changed} WHERE kind = 'setting'").rowcount
    host.daemon.start()
    kept = json.loads(host.state().rows["setting", "/proc/sys/net/ipv4/ip_forward"])["strangers"]["links"]
    assert kept == ["wan1", "wan2"]
    assert pings(site.machines["lan1"], 12)[0] is False
    eventually(lambda: pings(site.machines["lan1"], 2)[0])  # a pair might be a guest's


COMMANDS = {"nftables": "nft", "iptables": "legacy"}


def test_the_engines_bridges_are_closed_as_by_its_policy(site: Site, host: Host, firewall: str) -> None:
    """Where pynet had the host forward first, what no rule of the engine's accepts does not reach its containers."""
    commands = [f"{one}-{COMMANDS[firewall]}" for one in ("iptables", "ip6tables")]

    def at_the_end() -> list[str]:
        return [host.netns.run(one, "-S", "FORWARD").splitlines()[-1] for one in commands]

    closing = "-A FORWARD -o docker0 -m comment --comment pynet-closed -j DROP"
    host.ok("CreateNetwork", DUAL)
    for command in commands:
        host.netns.run(command, "-N", CHAIN)
        host.netns.run(command, "-A", "FORWARD", "-j", CHAIN)
    site.bridge("docker0", 9)
    container = site.machine(9, "veth9", bridge="docker0")
    eventually(lambda: at_the_end() == [closing] * 2, timeout_s=20)
    assert pings(site.machines["lan1"], 9) == [False, False]
    assert "0 received" in container.run("ping", "-nc1", "-W1", "172.20.1.2", check=False)
    # As the engine does for ports that it publishes, before or after.
    accept = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    for command in commands:
        host.netns.run(command, "-I", "FORWARD", "-o", "docker0", *accept)
        host.netns.run(command, "-A", "FORWARD", "-i", "lan1", "-o", "docker0", "-j", "ACCEPT")
    assert reaches(container, 1)
    if firewall == "iptables":
        host.restart()  # the kernel does not tell of changes
    eventually(lambda: at_the_end() == [closing] * 2, timeout_s=20)
    assert reaches(site.machines["lan1"], 9)
    assert pings(site.machines["lan2"], 9) == [False, False]
    # Flushed like the rest, and put back like the rest.
    for command in commands:
        host.netns.run(command, "-F", "FORWARD")
    for command in commands:
        host.netns.run(command, "-A", "FORWARD", "-j", CHAIN)
    if firewall == "iptables":
        host.restart()
    eventually(lambda: at_the_end() == [closing] * 2, timeout_s=20)
    for _ in range(2):
        host.ok("CreateNetwork", network(OTHER, 8, dual=True))
        host.ok("DeleteNetwork", {"NetworkID": OTHER})
        assert [host.netns.run(one, "-S", "FORWARD").count("docker0") for one in commands] == [1, 1]
    host.netns.run("ip", "link", "delete", "docker0")
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert [host.netns.run(one, "-S", "FORWARD").count("docker0") for one in commands] == [0, 0]


def test_the_engines_bridges_are_left_to_it_on_a_host_that_forwarded(site: Site, host: Host, firewall: str) -> None:
    """There the engine does not set its policy for its own networks either."""
    for switch in SWITCHES:
        host.netns.write_sysctl(switch, "1")
    command = f"iptables-{COMMANDS[firewall]}"
    host.netns.run(command, "-N", CHAIN)
    site.bridge("docker0", 9)
    site.machine(9, "veth9", bridge="docker0")
    host.ok("CreateNetwork", DUAL)
    eventually(lambda: "devgroup" in host.netns.run(command, "-S", CHAIN))
    assert "docker0" not in host.netns.run(command, "-S", "FORWARD")
    assert reaches(site.machines["lan1"], 9)
