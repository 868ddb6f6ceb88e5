"""Bridges that the user made: networks come and go on them, and they stay as they were."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import pytest

from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .host import GENERIC, NETWORK, OTHER, PROGRAM, Host, endpoint, ids, join, network, port, program

NAME = "com.docker.network.bridge.name"
SWITCHES = (
    *("ipv4/conf/br0/route_localnet", "ipv4/conf/br0/promote_secondaries", "ipv4/conf/br0/forwarding"),
    *("ipv6/conf/br0/disable_ipv6", "ipv6/conf/br0/accept_ra", "ipv6/conf/br0/accept_dad"),
)
#: What the kernel counts, and what it keeps from ports that are gone and from having been up.
VOLATILE = {"hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "qdisc", "operstate"}
VOLATILE |= {"tso_max_size", "tso_max_segs"}
#: How a user may have made the bridge.
MADE = {
    "bare": ("ip link add br0 type bridge",),
    "with an MTU": ("ip link add br0 mtu 1400 type bridge",),
    "with an MTU set later": ("ip link add br0 type bridge", "ip link set br0 mtu 9000"),
    "down": ("ip link add br0 address 02:00:00:00:00:42 type bridge",),
    "with addresses and a group": (
        "ip link add br0 address 02:00:00:00:00:42 group 7 type bridge ageing_time 5000 mcast_snooping 0",
        "ip link set br0 up",
        "ip address add 172.30.0.1/24 dev br0",
        "ip address add 10.9.0.254/24 dev br0",
        "ip address add fd77::1/64 dev br0 nodad",
    ),
    "with the gateway": (
        "ip link add br0 address 02:00:00:00:00:42 type bridge",
        "ip link set br0 up",
        "ip address add 10.9.0.1/16 dev br0",
        "ip address add fd00:9::1/64 dev br0 nodad",
    ),
    "with ports": (
        "ip link add br0 type bridge",
        "ip link add up0 address 06:00:00:00:00:01 mtu 1400 type veth peer name up1",
        "ip link set up0 master br0 up",
        "ip link set dev up0 type bridge_slave priority 5 neigh_suppress on isolated on",
        "ip link set br0 up",
    ),
    "without IPv6": (
        "ip link add br0 address 02:00:00:00:00:42 type bridge",
        "sysctl -qw net.ipv6.conf.br0.disable_ipv6=1 net.ipv4.conf.br0.route_localnet=1",
        "ip link set br0 up",
    ),
}


def make(host: Host, how: str = "with addresses and a group") -> None:
    """Make the bridge br0 as a user would."""
    for command in MADE[how]:
        host.netns.run(*command.split())


def picture(host: Host) -> dict[str, Any]:
    """Everything about links that are not pynet's and the bridge's switches that a user may see."""
    found: dict[str, Any] = {name: host.netns.sysctl(f"net/{name}") for name in SWITCHES}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                if key not in VOLATILE:
                    add(f"{path} {key}", one)
        else:
            found[path] = value

    for link in json.loads(host.netns.run("ip", "-d", "-j", "address")):
        if not link["ifname"].startswith("pn"):
            link["up"] = "UP" in link.pop("flags")
            addresses = [one for one in link.pop("addr_info") if one["scope"] != "link"]
            add(link["ifname"], {**link, "addresses": sorted(addresses, key=json.dumps)})
    return found


def adopting(id: str = NETWORK, number: int = 9, bridge: str = "br0", **options: Any) -> Any:
    """Write a request for a network on a bridge."""
    request = network(id, number, **options)
    request["Options"][GENERIC][NAME] = bridge
    return request


def lived_in(host: Host, *, dual: bool) -> None:
    """Have a network with an endpoint that publishes a port."""
    host.ok("CreateNetwork", adopting(dual=dual))
    for number in (2, 3):
        host.attach(number, dual=dual)
    host.ok(PROGRAM, program(2, port(8080, address="127.0.0.1"), port(8081)))


@pytest.mark.parametrize("dual", [False, True], ids=["IPv4", "dual"])
@pytest.mark.parametrize("how", MADE)
def test_a_bridge_is_as_before_when_the_network_is_gone(host: Host, how: str, dual: bool) -> None:
    """Addresses, MAC, MTU, group, state, ports and switches of an adopted bridge outlive network, crash and restart."""
    make(host, how)
    state, before = host.state(), picture(host)
    for crash in (False, True):
        lived_in(host, dual=dual)
        addresses = host.state().links["br0"]["addresses"]
        assert any(one.startswith("10.9.0.1/") for one in addresses)
        assert any(one.startswith("fd00:9::1/") for one in addresses) is (dual or how == "with the gateway")
        assert host.state().links["br0"]["up"] and host.netns.sysctl("net/ipv4/conf/br0/route_localnet") == "1"
        if crash:
            host.restart()
        host.ok("DeleteEndpoint", ids())
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        assert picture(host) == before
        assert host.state() == state


@pytest.mark.parametrize("after_ms", [5, 12, 20, 30, 45, 70])
def test_a_bridge_is_as_before_after_a_kill_at_any_time(host: Host, after_ms: int) -> None:
    """Whatever `kill -9` interrupts, a restart and the end of the network leave the bridge as it was found."""
    make(host)
    before = picture(host)
    killer = threading.Timer(after_ms / 1000, host.daemon.kill)
    killer.start()
    try:
        lived_in(host, dual=True)
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    except (OSError, HTTPException):
        pass
    finally:
        killer.join()
    host.daemon.start()
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert picture(host) == before and not host.state().rows and not host.state().rules


def test_a_bridge_is_as_before_when_the_network_could_not_be_made(host: Host) -> None:
    """A create that fails after the addresses were given takes them back, and the switches too."""
    make(host)
    before, state = picture(host), host.state()
    with host.netns.popen("nft", "-i", stdin=-1, stdout=-3, stderr=-3) as owner:
        assert owner.stdin is not None
        owner.stdin.write(b"add table inet pynet { flags owner; }\n")
        owner.stdin.flush()
        eventually(lambda: "pynet" in host.netns.run("nft", "list", "tables"))
        assert "nftables refused" in host.refused("CreateNetwork", adopting(dual=True))
        owner.kill()
    assert picture(host) == before
    eventually(lambda: "pynet" not in host.netns.run("nft", "list", "tables"))
    host.restart()
    assert picture(host) == before and host.state() == state


def test_an_address_that_came_later_stays(host: Host) -> None:
    """An address that the user gave in the gateway's subnet is not taken away with the gateway's."""
    make(host, "bare")
    host.ok("CreateNetwork", adopting())
    host.netns.run("ip", "address", "add", "10.9.0.250/24", "dev", "br0")
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.state().links["br0"]["addresses"] == ["10.9.0.250/24"]


def test_a_bridge_keeps_its_mac_while_containers_come_and_go(host: Host) -> None:
    """Containers remember the gateway's MAC: it changes neither with their ports nor with the first of them."""
    make(host, "bare")
    mac = host.state().links["br0"]["mac"]
    host.ok("CreateNetwork", adopting())
    for number in (3, 2):
        host.attach(number)
        assert host.state().links["br0"]["mac"] == mac


def test_a_bridge_that_vanished_is_said_and_may_come_back(host: Host) -> None:
    """Without its bridge a network takes no containers; with a new one it does, with address and switches."""
    make(host, "bare")
    host.ok("CreateNetwork", adopting())
    host.attach(2)
    host.netns.run("ip", "link", "delete", "br0")
    assert host.refused("CreateEndpoint", endpoint(3)).startswith(
        'bridge "br0" is gone from this host; make it again if it is yours, or restart pynet to restore it;'
    )
    host.restart()
    assert 'bridge "br0" is gone' in host.refused("CreateEndpoint", endpoint(3))
    make(host, "bare")
    eventually(lambda: host.state().links["br0"]["addresses"] == ["10.9.0.1/24"])
    host.attach(3)
    assert host.netns.sysctl("net/ipv4/conf/br0/route_localnet") == "1"
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    found = host.state()
    assert found.links["br0"]["addresses"] == [] and not found.rows and not found.rules
    host.netns.run("ip", "link", "delete", "br0")
    make(host, "bare")
    host.ok("CreateNetwork", adopting())
    host.netns.run("ip", "link", "delete", "br0")
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert not host.state().rows and not host.state().rules


def test_rules_in_the_engines_chain_name_the_bridge(host: Host) -> None:
    """Two adopted bridges are let through for their own subnets, each as long as its network is there."""

    def named(command: str) -> list[str]:
        lines = host.netns.run(command, "-S", "DOCKER-USER").splitlines()
        return sorted(line.split(" -m comment")[0] for line in lines if "--comment pynet" in line)

    make(host)
    host.netns.run("ip", "link", "add", "br1", "type", "bridge")
    for command in ("iptables", "ip6tables"):
        host.netns.run(command, "-N", "DOCKER-USER")
    host.ok("CreateNetwork", adopting(dual=True))
    rules = {
        subnet[0]: [
            f"-A DOCKER-USER {rule}" for rule in (f"-d {subnet} -o br0", "-i br0 -o br0", f"-s {subnet} -i br0")
        ]
        for subnet in ("10.9.0.0/24", "fd00:9::/64")
    }
    for restart in (False, True):
        if restart:
            host.restart()
            host.ok("CreateNetwork", adopting(OTHER, 8, "br1"))
            assert len(named("iptables")) == 6 and len(named("ip6tables")) == 4
            host.ok("DeleteNetwork", {"NetworkID": OTHER})
        assert named("iptables") == rules["1"] and named("ip6tables") == rules["f"]
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.netns.run("iptables", "-S", "DOCKER-USER").splitlines() == ["-N DOCKER-USER"]


class Machine(Namespace):
    """A machine with one link, eth0, on a bridge or a wire of the host."""

    def __init__(self, host: Host, link: str, *addresses: str, master: str = "", mac: str = "") -> None:
        super().__init__()
        self._host, self._link, self._addresses, self._master, self._mac = host, link, addresses, master, mac

    def __enter__(self) -> Machine:
        super().__enter__()
        connect(Plug(self._host.netns, self._link), Plug(self, "eth0", self._addresses))
        if self._mac:
            self.run("ip", "link", "set", "eth0", "address", self._mac)
        if self._master:
            self._host.netns.run("ip", "link", "set", self._link, "master", self._master)
        return self

    def pings(self, target: str) -> bool:
        return "1 received" in self.run("ping", "-c1", "-W1", target, check=False)


@pytest.fixture
def moved(host: Host) -> Iterator[Namespace]:
    """A container on br0, which other machines and other routes of the host use as well."""
    make(host)
    host.ok("CreateNetwork", adopting())
    host.ok("CreateEndpoint", endpoint())
    with Namespace() as container:
        host.netns.run("ip", "link", "set", "pnc000200020002", "netns", container.name, "name", "eth0")
        container.run("ip", "address", "add", "10.9.0.2/24", "dev", "eth0")
        container.run("ip", "link", "set", "eth0", "up")
        container.run("ip", "route", "add", "default", "via", "10.9.0.1")
        host.ok("Join", join())
        yield container


@pytest.mark.parametrize("netfilter", ["0", "1"])
def test_others_on_an_adopted_bridge_are_let_alone(host: Host, moved: Namespace, netfilter: str) -> None:
    """Who is on the bridge beside the containers is routed, and bridged, as if there was no network."""
    host.netns.run("sh", "-c", f"echo {netfilter} > /proc/sys/net/bridge/bridge-nf-call-iptables")
    with (
        Machine(host, "port0", "172.30.0.9/24", master="br0") as lan,
        Machine(host, "port1", "172.30.0.8/24", "10.9.0.8/24", master="br0") as peer,
        Machine(host, "wan0", "198.51.100.9/24") as beyond,
    ):
        host.netns.run("ip", "address", "add", "198.51.100.1/24", "dev", "wan0")
        for machine, gateway in ((lan, "172.30.0.1"), (beyond, "198.51.100.1")):
            machine.run("ip", "route", "add", "default", "via", gateway)
        assert lan.pings("198.51.100.9"), "out of the bridge"
        assert beyond.pings("172.30.0.9"), "into the bridge"
        assert lan.pings("172.30.0.8"), "across the bridge"
        assert peer.pings("10.9.0.2"), "to a container, bridged"
        assert "1 received" in moved.run("ping", "-c1", "-W1", "10.9.0.8"), "from a container, bridged"
        assert "1 received" in moved.run("ping", "-c1", "-W1", "198.51.100.9"), "from a container, routed"
        assert not beyond.pings("10.9.0.2"), "to a container, routed"
        host.netns.run("ip", "route", "add", "10.66.0.0/24", "dev", "br0")
        beyond.run("ip", "route", "replace", "10.9.0.0/24", "via", "198.51.100.1")
        moved.run("ip", "address", "add", "10.66.0.2/24", "dev", "eth0")
        assert "1 received" not in moved.run("ping", "-c1", "-W1", "-I", "10.66.0.2", "198.51.100.9", check=False)


@pytest.mark.parametrize("netfilter", ["0", "1"])
def test_containers_on_an_adopted_bridge_have_one_mac(host: Host, moved: Namespace, netfilter: str) -> None:
    """Frames with another MAC do not pass, and nobody else can take the container's place by using its MAC."""
    host.netns.run("sh", "-c", f"echo {netfilter} > /proc/sys/net/bridge/bridge-nf-call-iptables")
    with Machine(host, "port0", "10.9.0.8/24", master="br0", mac="02:42:0a:09:00:08") as peer:
        assert peer.pings("10.9.0.2")
        # What a loop in the LAN would bring back.
        peer.run("ip", "link", "set", "eth0", "address", "02:42:0a:09:00:02")
        peer.run("ping", "-c1", "-W1", "10.9.0.77", check=False)
        peer.run("ip", "link", "set", "eth0", "address", "02:42:0a:09:00:08")
        peer.run("ip", "neigh", "flush", "all")
        moved.run("ip", "neigh", "flush", "all")
        assert peer.pings("10.9.0.2")
        moved.run("ip", "link", "set", "eth0", "address", "02:00:00:00:66:66")
        peer.run("ip", "neigh", "flush", "all")
        assert not peer.pings("10.9.0.2")
        assert "02:00:00:00:66:66" not in peer.run("ip", "neigh") + host.netns.run("bridge", "fdb")


NOT_A_NAME = [".", "..", "a" * 16, "a b", "a/b", 'a"b', "é", "a;b", "a\nb"]


def test_bridges_that_cannot_be_adopted_are_refused(host: Host) -> None:
    """A link of another kind, a port, a bridge of the engine's or of another network, a name that is none."""
    make(host, "with ports")
    for command in (
        "ip link add port1 type bridge",
        "ip link add docker0 type bridge",
        "ip link add br-0123456789ab type bridge",
        "ip link add docker_gwbridge type bridge",
        "ip link add mac0 link up1 type macvlan",
        "ip tuntap add tap0 mode tap",
        "ip link add small type bridge",
        "ip link set small mtu 1000",
    ):
        host.netns.run(*command.split())
    host.ok("CreateNetwork", network(OTHER, 8))
    host.ok("CreateNetwork", adopting("7d" * 32, 7))
    before, state = picture(host), host.state()
    for name, said in {
        "up0": 'a port of "br0"',
        "up1": "a veth, not a bridge",
        "mac0": "a macvlan, not a bridge",
        "tap0": "a tun, not a bridge",
        "lo": "not a bridge",
        "docker0": "the engine gives to bridges of its own",
        "br-0123456789ab": "the engine gives to bridges of its own",
        "docker_gwbridge": "the engine gives to bridges of its own",
        "br0": "belongs to network 7d7d7d7d7d7d",
        "pn-8e8e8e8e8e8e": "belongs to network 8e8e8e8e8e8e",
        "small": 'bridge "small" has MTU 1000, and IPv6 needs 1280',
        **dict.fromkeys(NOT_A_NAME, "1 to 15 letters, digits and _ . -"),
    }.items():
        sentence = host.refused("CreateNetwork", adopting(bridge=name, dual=name == "small"))
        assert said in sentence, (name, sentence)
        assert picture(host) == before and host.state() == state, name


def test_only_the_bridge_itself_may_have_an_address_of_the_subnet(host: Host) -> None:
    """A subnet that holds an address of the host elsewhere is refused; on the bridge itself it is its own."""
    make(host)
    host.netns.run("ip", "address", "add", "10.8.0.7/24", "dev", "lo")
    assert "10.8.0.7" in host.refused("CreateNetwork", adopting(number=8))
    host.ok("CreateNetwork", adopting())


def test_a_bridge_that_its_owner_takes_down_stays_down(host: Host) -> None:
    """What its owner did to an adopted bridge is not undone; when it is up again all of the network's is back."""
    make(host)
    lived_in(host, dual=True)
    before = host.state()
    host.netns.run("ip", "link", "set", "br0", "down")
    time.sleep(0.5)
    down = host.state().links["br0"]
    assert not down["up"] and "fd00:9::1/64" not in down["addresses"]
    host.netns.run("ip", "link", "set", "br0", "up")
    host.netns.run("ip", "address", "add", "fd77::1/64", "dev", "br0", "nodad")
    eventually(lambda: host.state() == before, timeout_s=10, every_s=0.05)


def test_what_has_an_adopted_bridges_name_by_now_is_let_alone(host: Host) -> None:
    """A link that is no bridge gets neither address, switch nor port, whoever asks; a bridge that comes back does."""
    make(host, "bare")
    lived_in(host, dual=True)
    wanted = host.state().links["br0"]["addresses"]
    host.netns.run("ip", "link", "delete", "br0")
    host.netns.run("ip", "link", "add", "br0", "type", "veth", "peer", "name", "other")
    theirs = picture(host)
    for crash in (False, True):
        if crash:
            host.restart()
        time.sleep(0.5)
        assert '"br0" is not the bridge any more' in host.refused("CreateEndpoint", endpoint(7, dual=True))
        assert picture(host) == theirs and host.state().links["pnh000200020002"]["master"] is None
    host.netns.run("ip", "link", "delete", "br0")
    make(host, "bare")
    eventually(lambda: host.state().links["br0"]["addresses"] == wanted, timeout_s=10, every_s=0.05)
    eventually(lambda: host.state().links["pnh000200020002"]["master"] == "br0", timeout_s=10, every_s=0.05)


def test_what_could_not_be_removed_does_not_harm_the_next_network(host: Host) -> None:
    """A network that stays on a bridge since the disk was full is gone from it before the next one is made there."""
    make(host)
    before = picture(host)
    host.ok("CreateNetwork", adopting(dual=True))
    with contextlib.closing(sqlite3.connect(host.folder / "state" / "pynet.db", isolation_level=None)) as full:
        full.execute("BEGIN IMMEDIATE")
        assert "disk" in host.refused("DeleteNetwork", {"NetworkID": NETWORK})
    host.ok("CreateNetwork", adopting(OTHER, dual=True))
    assert [key for kind, key in host.state().rows if kind == "network"] == [OTHER]
    state = host.state()
    host.restart()
    assert host.state() == state
    host.ok("DeleteNetwork", {"NetworkID": OTHER})
    assert picture(host) == before and not host.state().rows


def test_a_bridge_is_as_before_when_networks_on_it_follow_each_other_at_once(host: Host) -> None:
    """One that is asked for while the other is still being removed does not take what that one did for the user's."""
    make(host, "down")
    before = picture(host)

    def insist() -> None:
        while host.call("CreateNetwork", adopting(OTHER, 8))[0] != 200:
            pass

    for delay_ms in range(12):
        host.ok("CreateNetwork", adopting(dual=True))
        insisting = [threading.Thread(target=insist) for _ in range(2)]
        for one in insisting:
            one.start()
        time.sleep(delay_ms / 1000)
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        for one in insisting:
            one.join()
        host.ok("DeleteNetwork", {"NetworkID": OTHER})
        assert picture(host) == before
