"""What nobody may do: reach what is not published, pass for somebody else, listen to another network."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.engine.lab import FORGE, LISTENER, Lab
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

SNIFF = str(Path(__file__).with_name("sniff.py"))
BRIDGE = "com.docker.network.bridge"
DUAL = ("--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
ALL = "ff:ff:ff:ff:ff:ff"
Start = Callable[..., "subprocess.Popen[bytes]"]


@contextmanager
def listening(start: Start, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run what says "up" and then what it got."""
    with start("python3", *command, stdout=-1, stderr=-3) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            process.kill()


def sniffed(start: Start, link: str, act: Callable[[], object], mark: str = "forged") -> str:
    """What arrives on a link with a mark in it while something is done, and in half a second after that."""
    with listening(start, SNIFF, link, mark) as process:
        act()
        return said_soon(process) or "nothing"


def said_soon(process: subprocess.Popen[bytes]) -> str:
    """What a process says within half a second; it may have been waiting for longer."""
    assert process.stdout is not None
    said, _, _ = select.select([process.stdout], [], [], 0.5)
    return process.stdout.readline().decode().strip() if said else ""


def inside(lab: Lab, container: str) -> Start:
    return lambda *command, **options: lab.sandbox(container, *command, **options)


def forge(lab: Lab, container: str, *arguments: str) -> None:
    assert lab.sandbox(container, "python3", FORGE, "eth0", *arguments).wait() == 0


def pings_locally(lab: Lab, container: str, other: str) -> bool:
    """Tell whether a container reaches another one's link-local address."""
    (local,) = [line.split()[1] for line in lab.inside(other, "ip", "addr").splitlines() if "inet6 fe80" in line]
    target = f"{local.partition('/')[0]}%eth0"
    return lab.sandbox(container, "ping", "-6", "-c1", "-W1", target, stdout=-3).wait() == 0


def bridge_mac(lab: Lab, network: str = "net") -> str:
    return lab.mac(f"pn-{lab.docker('network', 'inspect', '-f', '{{.Id}}', network)[:12]}")


def received(lab: Lab, container: str, port: str, send: Callable[[], object], address: str = "0.0.0.0") -> bool:
    with listening(inside(lab, container), "-c", LISTENER, address, port, "60") as server:
        send()
        return said_soon(server) == "forged"


@contextmanager
def switched(where: Namespace, name: str, value: str) -> Iterator[None]:
    before = where.sysctl(name)
    where.write_sysctl(name, value)
    try:
        yield
    finally:
        where.write_sysctl(name, before)


def test_a_port_on_the_hosts_loopback_is_for_the_host_alone(lab: Lab) -> None:
    """A neighbour that sends to 127.0.0.1 by way of us is not answered, also where the LAN link routes it."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("one", "--network", "net", "-p", "127.0.0.1:5353:53/udp", "-p", f"{lab.lan.HOST4}:5454:53/udp")
    mac = lab.mac("lan0")

    def sent(target: str, port: str) -> bool:
        arguments = ("python3", FORGE, "eth0", mac, lab.lan.NEIGHBOUR4, target, port)
        return received(lab, "one", "53", lambda: lab.neighbour.run(*arguments))

    assert sent(lab.lan.HOST4, "5454")
    with switched(lab.host, "net/ipv4/conf/lan0/route_localnet", "1"):
        assert not sent("127.0.0.1", "5353")
        assert not sent("10.6.0.2", "53")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_is_not_published_is_out_of_reach(lab: Lab, protocol: str) -> None:
    """Nobody on the LAN reaches a container's address, routed to us or forged into a frame for us; the host does."""
    lab.network("net", *DUAL)
    lab.run("one", "--network", "net", "-p", f"8080:80/{protocol}")
    kind = "SOCK_STREAM" if protocol == "tcp" else "SOCK_DGRAM"
    echo = (
        f"import socket;s=socket.socket(socket.AF_INET6,socket.{kind});s.bind(('::',80))\n"
        + ("s.listen()\n" if protocol == "tcp" else "")
        + "print('up',flush=True)\nwhile True: "
        + ("s.accept()[0].close()" if protocol == "tcp" else "s.sendto(*s.recvfrom(99))")
    )
    ask = (
        "import socket,sys;a,p=sys.argv[1:];f=socket.AF_INET6 if ':' in a else socket.AF_INET\n"
        f"s=socket.socket(f,socket.{kind});s.settimeout(0.7);s.connect((a,int(p)))\n"
        + ("" if protocol == "tcp" else "s.send(b'x');s.recv(9)")
    )

    def reaches(where: Namespace, address: str, port: int = 80) -> bool:
        return where.popen("python3", "-c", ask, address, str(port), stderr=-3).wait() == 0

    with listening(inside(lab, "one"), "-c", echo):
        for address, host in (("10.6.0.2", lab.lan.HOST4), ("fd00:6::2", lab.lan.HOST6)):
            subnet = "10.6.0.0/24" if "." in address else "fd00:6::/64"
            lab.neighbour.run("ip", "route", "replace", subnet, "via", host)
            assert reaches(lab.host, address)
            assert reaches(lab.neighbour, host, 8080)
            assert not reaches(lab.neighbour, address)
            lab.neighbour.run("ip", "route", "delete", subnet)


def test_a_container_sends_with_its_own_addresses_alone(lab: Lab) -> None:
    """The LAN sees no forged source, of either family; with anti_spoof=false it does."""
    for option, seen in (("true", False), ("false", True)):
        lab.network("net", *DUAL, "-o", f"anti_spoof={option}")
        lab.run("one", "--network", "net")
        mac = bridge_mac(lab)
        for source, target in (("198.51.100.7", lab.lan.NEIGHBOUR4), ("2001:db8:77::7", lab.lan.NEIGHBOUR6)):
            said = sniffed(lab.neighbour.popen, "eth0", partial(forge, lab, "one", mac, source, target, "4000"))
            assert (said != "nothing") is seen, (option, source)
        for own, target in (("10.6.0.2", lab.lan.NEIGHBOUR4), ("fd00:6::2", lab.lan.NEIGHBOUR6)):
            said = sniffed(lab.neighbour.popen, "eth0", partial(forge, lab, "one", mac, own, target, "4000"))
            assert said != "nothing", own
        lab.clean()


def test_other_addresses_may_be_used_inside_a_network(lab: Lab) -> None:
    """Within the network containers use what addresses they like, link-local ones for a start."""
    lab.network("net", *DUAL)
    lab.run("one", "--network", "net", "--cap-add", "NET_ADMIN")
    lab.run("two", "--network", "net", "--cap-add", "NET_ADMIN")
    for number, container in enumerate(("one", "two")):
        lab.inside(container, "ip", "addr", "add", f"169.254.7.{number + 1}/16", "dev", "eth0")
    assert lab.pings("one", "169.254.7.2")
    # Engines before 28 have the kernel look for the address on the link first.
    assert eventually(partial(pings_locally, lab, "one", "two"))


def test_networks_do_not_hear_each_other(lab: Lab) -> None:
    """Broadcasts, multicasts and ARP of one network are heard on it, by the host, and on no other."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.network("other", "--subnet", "10.7.0.0/24")
    for name, network in (("one", "net"), ("sibling", "net"), ("stranger", "other")):
        lab.run(name, "--network", network)
    groups = {ALL: "10.6.0.255", "01:00:5e:00:00:fb": "224.0.0.251"}
    for listener, heard in (("sibling", True), ("stranger", False)):
        for mac, target in groups.items():
            said = sniffed(inside(lab, listener), "eth0", partial(forge, lab, "one", mac, "10.6.0.2", target, "5353"))
            assert (said != "nothing") is heard, (listener, target)
        # An ARP question for an address that nobody has.
        with listening(inside(lab, listener), "-c", _HEARS_ARP, "10.6.0.99") as process:
            lab.pings("one", "10.6.0.99")
            assert process.stdout is not None
            assert (process.stdout.readline() == b"heard\n") is heard, listener


_HEARS_ARP = (
    "import socket,sys;s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x0806));s.bind(('eth0',0x0806));"
    "s.settimeout(1.5);print('up',flush=True)\n"
    "while socket.inet_aton(sys.argv[1]) not in s.recv(99): pass\n"
    "print('heard',flush=True)"
)


def test_icc_off_lets_nothing_across(lab: Lab) -> None:
    """enable_icc=false: neither IPv4, IPv6, link-local nor ARP between containers; the host and the LAN are reached."""
    lab.network("net", *DUAL, "-o", f"{BRIDGE}.enable_icc=false")
    lab.web("one", "--network", "net")
    lab.run("two", "--network", "net")
    for target in ("10.6.0.2", "fd00:6::2"):
        assert not lab.pings("two", target), target
    assert not pings_locally(lab, "two", "one")
    assert (
        sniffed(inside(lab, "one"), "eth0", lambda: forge(lab, "two", ALL, "10.6.0.3", "10.6.0.2", "80")) == "nothing"
    )
    with listening(inside(lab, "one"), "-c", _HEARS_ARP, "10.6.0.99") as process:
        lab.pings("two", "10.6.0.99")
        assert process.stdout is not None and process.stdout.readline() == b""
    # By way of the host: a frame for it with the sibling's address.
    mac = bridge_mac(lab)
    for target, source in (("10.6.0.2", "10.6.0.3"), ("fd00:6::2", "fd00:6::3")):
        sent = partial(forge, lab, "two", mac, source, target, "80")
        assert sniffed(inside(lab, "one"), "eth0", sent) == "nothing", target
    for target in ("10.6.0.1", "fd00:6::1", lab.lan.NEIGHBOUR4, lab.lan.NEIGHBOUR6):
        assert lab.pings("two", target), target


def test_a_container_is_not_reached_through_another_link(lab: Lab) -> None:
    """A frame for us with a container's address that arrives on any link but its bridge's goes nowhere."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.network("other", "--subnet", "10.7.0.0/24")
    lab.run("one", "--network", "net")
    lab.run("stranger", "--network", "other")
    assert received(lab, "one", "9000", lambda: lab.host.run("python3", "-c", _SENDS, "10.6.0.2", "9000"))
    lan, other = lab.mac("lan0"), bridge_mac(lab, "other")
    from_lan = ("python3", FORGE, "eth0", lan)
    for source in (lab.lan.NEIGHBOUR4, "10.6.0.77", "10.6.0.1"):
        assert not received(lab, "one", "9000", partial(lab.neighbour.run, *from_lan, source, "10.6.0.2", "9000"))
    for source in ("10.7.0.2", "10.6.0.77"):
        sent = partial(forge, lab, "stranger", other, source, "10.6.0.2", "9000")
        assert not received(lab, "one", "9000", sent)


_SENDS = (
    "import socket,sys;socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'forged',(sys.argv[1],int(sys.argv[2])))"
)


@pytest.mark.parametrize("netfilter", ["0", "1"])
def test_no_foreign_mac_leaves_by_an_adopted_bridge(lab: Lab, netfilter: str) -> None:
    """The uplink sees containers by their own MAC alone; with anti_spoof=false by any, whatever br_netfilter does."""
    with Namespace() as machine, switched(lab.host, "net/bridge/bridge-nf-call-iptables", netfilter):
        lab.host.run("ip", "link", "add", "br0", "up", "type", "bridge")
        try:
            connect(Plug(lab.host, "up0"), Plug(machine, "eth0", ("10.6.0.9/24",)))
            lab.host.run("ip", "link", "set", "up0", "master", "br0")
            (link,) = json.loads(machine.run("ip", "-j", "link", "show", "eth0"))
            for option, foreign in (("true", False), ("false", True)):
                lab.network("net", "--subnet", "10.6.0.0/24", "-o", f"{BRIDGE}.name=br0", "-o", f"anti_spoof={option}")
                lab.run("one", "--network", "net", "--cap-add", "NET_ADMIN")
                assert lab.pings("one", "10.6.0.9")
                # forge.py sends as 02:00:00:00:00:01.
                send = partial(forge, lab, "one", link["address"], "10.6.0.2", "10.6.0.9", "9000")
                assert (sniffed(machine.popen, "eth0", send) != "nothing") is foreign, option
                lab.clean()
        finally:
            lab.host.run("ip", "link", "delete", "br0")


def test_a_forged_mac_is_the_containers_own_on_a_bridge_of_pynets(lab: Lab) -> None:
    """Beyond the host a container's MAC does not matter: the LAN sees the host's, whatever it sends with."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.run("one", "--network", "net")
    send = partial(forge, lab, "one", bridge_mac(lab), "10.6.0.2", lab.lan.NEIGHBOUR4, "9000")
    assert sniffed(lab.neighbour.popen, "eth0", send) == f"seen {lab.mac('lan0')}"
