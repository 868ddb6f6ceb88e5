"""What containers with default capabilities, and machines of the LAN, cannot do to the host by way of pynet's links."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import ip_address
from itertools import product
from typing import Any

import pytest

from tests.lab.command import CommandFailed
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .frames import BROADCAST, RESERVED, checksum, ethernet, heard, icmp6, ip, mac_of, seen, send, udp
from .host import NETWORK, OTHER, Host, both_firewalls, endpoint, endpoint_id, ids, join, network
from .parents import (
    HOST4,
    HOST6,
    NEIGHBOUR4,
    NEIGHBOUR6,
    PARENT,
    POOL6,
    SECOND4,
    SHIM,
    container,
    on_lan,
    on_parent,
    reaches,
)

BRIDGE = "pn-9f9f9f9f9f9f"
MODE = "com.docker.network.bridge.gateway_mode_ipv"
LAN_HOST, LAN_PEER = ("192.0.2.1", "2001:db8:1::1"), ("192.0.2.2", "2001:db8:1::2")


@contextmanager
def moved(
    host: Host, number: int = 2, *addresses: str, network_id: str = NETWORK, dual: bool = True
) -> Iterator[Namespace]:
    """Have a container on the network, its link eth0 in a namespace of its own."""
    host.ok("CreateEndpoint", endpoint(number, network_id, dual=dual))
    with Namespace() as container:
        link = f"pnc{endpoint_id(number)[:12]}"
        host.netns.run("ip", "link", "set", link, "netns", container.name, "name", "eth0")
        given = (f"10.9.0.{number}/24", *([f"fd00:9::{number:x}/64"] if dual else []))
        for one in (*given, *addresses):
            container.run("ip", "address", "add", one, "dev", "eth0", *(("nodad",) if ":" in one else ()))
        container.run("ip", "link", "set", "eth0", "up")
        host.ok("Join", join(number, network_id))
        yield container


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """Another machine, on the host's link lan0."""
    with Namespace() as machine:
        connect(
            Plug(host.netns, "lan0", (f"{LAN_HOST[0]}/24", f"{LAN_HOST[1]}/64")),
            Plug(machine, "eth0", (f"{LAN_PEER[0]}/24", f"{LAN_PEER[1]}/64")),
        )
        yield machine


def loosened(host: Host) -> None:
    """Have the kernel itself check no source, as hosts with several ways out do."""
    host.netns.run("sh", "-c", "for one in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $one; done")


def led_astray(host: Host, where: Namespace, to: str) -> bool:
    """Say to the host, as if by its gateway, that another machine of the LAN is the better way to somebody."""
    somebody, better = "203.0.113.9", "192.0.2.66"
    host.netns.run("ip", "route", "replace", "default", "via", LAN_PEER[0])
    host.netns.run("ip", "neighbour", "replace", better, "lladdr", "02:00:00:00:00:66", "dev", "lan0")
    sent = ip(LAN_HOST[0], somebody, 1, bytes(8))
    said = b"\5\1\0\0" + ip_address(better).packed + sent
    said = said[:2] + checksum(said).to_bytes(2, "big") + said[4:]
    send(where, ethernet(mac_of(host.netns, to), mac_of(where), ip(LAN_PEER[0], "10.9.0.1", 1, said)))
    return better in host.netns.run("ip", "route", "get", somebody)


@both_firewalls
@pytest.mark.parametrize("options", [{}, {"internal": True}], ids=["plain", "internal"])
def test_a_forged_source_does_not_reach_the_hosts_own_services(host: Host, lan: Namespace, options: Any) -> None:
    """With anti_spoof the host hears containers by their own addresses only; without, by whatever they say."""
    for spoof in (False, True):
        checked: Any = {"anti_spoof": str(not spoof).lower()}
        host.ok("CreateNetwork", network(dual=True, **options, **checked))
        with moved(host) as container:
            loosened(host)
            own = ("10.9.0.2", "fd00:9::2")
            gateways = ("10.9.0.1", "fd00:9::1")
            to, source = mac_of(host.netns, BRIDGE), mac_of(container)
            with heard(host.netns) as found:
                for forged, mine, gateway in zip(LAN_PEER, own, gateways, strict=True):
                    send(container, ethernet(to, source, udp(forged, gateway, f"forged {gateway}")))
                    send(container, ethernet(to, source, udp(mine, gateway, f"own {gateway}")))
                send(container, ethernet(BROADCAST, source, udp(LAN_PEER[0], "255.255.255.255", "forged broadcast")))
                send(container, ethernet(BROADCAST, source, udp("0.0.0.0", "255.255.255.255", "no address")))
                send(container, ethernet(to, source, udp("fe80::1234", "fd00:9::1", "link-local")))
            wanted = {"own 10.9.0.1", "own fd00:9::1", "no address", "link-local"}
            assert found == wanted | ({"forged 10.9.0.1", "forged fd00:9::1", "forged broadcast"} if spoof else set())
            host.ok("DeleteEndpoint", {"NetworkID": NETWORK, "EndpointID": endpoint_id(2)})
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})


@both_firewalls
@pytest.mark.parametrize("isolated", [(4, 6), (4,), (6,)], ids=["both", "IPv4", "IPv6"])
def test_nothing_reaches_the_host_from_an_isolated_network(host: Host, isolated: tuple[int, ...]) -> None:
    """No address of the host, no broadcast and no group, of the versions whose gateway mode is isolated."""
    modes: Any = {f"{MODE}{version}": "isolated" for version in isolated}
    host.ok("CreateNetwork", network(dual=True, internal=True, **modes))
    host.netns.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    with moved(host) as container:
        loosened(host)
        to, source = mac_of(host.netns, BRIDGE), mac_of(container)
        with heard(host.netns) as found:
            for address in ("255.255.255.255", "10.9.0.255", "224.0.0.1"):
                send(container, ethernet(BROADCAST, source, udp("10.9.0.2", address, f"4 to {address}")))
            send(container, ethernet("33:33:00:00:00:01", source, udp("fd00:9::2", "ff02::1", "6 to ff02::1")))
            send(container, ethernet(to, source, udp("10.9.0.2", "192.0.2.1", "to another address")))
        assert {one[0] for one in found} == {str(one) for one in (4, 6) if one not in isolated}


@both_firewalls
@pytest.mark.parametrize("options", [{}, {"internal": True}], ids=["plain", "internal"])
def test_frames_to_a_bridges_own_protocols_bring_no_packets(host: Host, options: Any) -> None:
    """The host takes them in by the port, of which no rule about the bridge knows, and would heed them."""
    host.ok("CreateNetwork", network(dual=True, **options))
    with moved(host) as container:
        loosened(host)
        source = mac_of(container)
        packets = [udp("10.9.0.2", "10.9.0.1", "4"), udp("fd00:9::2", "fd00:9::1", "6"), udp("fe80::9", "ff02::1", "6")]
        with heard(host.netns) as found:
            send(container, *(ethernet(to, source, packet) for to, packet in product(RESERVED, packets)))
        assert not found


@both_firewalls
def test_a_redirect_out_of_a_container_counts_for_nothing(host: Host, lan: Namespace, firewall: str) -> None:
    """Where the host does not forward it heeds redirects, which need not come from where its gateway is."""
    host.ok("CreateNetwork", network(internal=True, anti_spoof="false"))
    with moved(host, dual=False) as container:
        loosened(host)
        assert not led_astray(host, container, BRIDGE)
        host.daemon.kill()
        host.flush_rules()
        assert led_astray(host, container, BRIDGE), "nothing that is shown here would be seen"


@pytest.fixture
def guarded_host(host: Host) -> Iterator[Namespace]:
    """A host whose administrator lets nothing in from the LAN, and a network with host access there."""
    with on_lan(host) as neighbour:
        for command in ("iptables-nft", "ip6tables-nft"):
            host.netns.run(command, "-A", "INPUT", "-i", PARENT, "-j", "DROP")
            host.netns.run(command, "-A", "FORWARD", "-i", PARENT, "-j", "DROP")
        host.ok("CreateNetwork", on_parent(pool6=POOL6, host_access="true", conflict_check="false"))
        yield neighbour


@both_firewalls
@pytest.mark.parametrize("rp_filter", ["0", "2"])
def test_the_lan_does_not_come_in_by_the_hosts_own_link(
    host: Host, guarded_host: Namespace, rp_filter: str, firewall: str
) -> None:
    """What the host's firewall keeps out at the parent stays out; containers come in, also after a restart."""
    host.netns.run("sh", "-c", f"for one in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {rp_filter} > $one; done")
    given = ("192.0.2.20", "2001:db8:1::20")
    lan = guarded_host
    with container(host, 2, f"{given[0]}/24", f"{given[1]}/64") as inside:
        shim, wire, own = mac_of(host.netns, SHIM), mac_of(lan), mac_of(inside)
        forged = []
        for source, address in ((NEIGHBOUR4, HOST4), (NEIGHBOUR6, HOST6)):
            forged += [ethernet(shim, one, udp(source, address, "from the LAN")) for one in (wire, own)]
        for source, address in zip(given, (HOST4, HOST6), strict=True):
            forged += [ethernet(shim, wire, udp(source, address, "with a container's address"))]
        for group, address in (
            (BROADCAST, "255.255.255.255"),
            (BROADCAST, "192.0.2.255"),
            ("01:00:5e:00:00:01", "224.0.0.1"),
        ):
            forged += [ethernet(group, wire, udp(NEIGHBOUR4, address, f"to {address}"))]
        forged += [ethernet(BROADCAST, own, udp(given[0], "255.255.255.255", "to all with a container's addresses"))]
        forged += [ethernet("33:33:00:00:00:01", wire, udp(NEIGHBOUR6, "ff02::1", "to ff02::1"))]
        for restarted in (False, True):
            if restarted:
                host.restart()
            with heard(host.netns) as found:
                send(lan, *forged)
                for source, address in zip(given, (HOST4, HOST6), strict=True):
                    send(inside, ethernet(shim, own, udp(source, address, "from the container")))
            assert found == {"from the container"}
            for address in (HOST4, HOST6):
                assert reaches(inside, address) and not connects(lan, address, shim, host, 2)
                assert connects(inside, address, "", host, 30)


@pytest.mark.needs_kernel("ipvlan")
def test_the_lan_does_not_come_in_by_the_hosts_own_link_of_ipvlan(host: Host) -> None:
    """Which takes in what is for its own address, whoever sends it."""
    with on_lan(host) as lan:
        host.netns.run("iptables-nft", "-A", "INPUT", "-i", PARENT, "-j", "DROP")
        host.ok("CreateNetwork", on_parent(backend="ipvlan", host_access="192.0.2.254", conflict_check="false"))
        loosened(host)
        with container(host, 2, "192.0.2.20/24") as inside, heard(host.netns) as found:
            to = mac_of(host.netns, PARENT)
            send(lan, ethernet(to, mac_of(lan), udp(NEIGHBOUR4, "192.0.2.254", "from the LAN")))
            send(lan, ethernet(BROADCAST, mac_of(lan), udp(NEIGHBOUR4, "192.0.2.255", "to all")))
            assert reaches(inside, "192.0.2.254")
            send(inside, ethernet(to, to, udp("192.0.2.20", "192.0.2.254", "from the container")))
        assert found == {"from the container"}


@pytest.mark.needs_kernel("8021q")
@pytest.mark.parametrize("backend", ["macvlan", pytest.param("ipvlan", marks=pytest.mark.needs_kernel("ipvlan"))])
def test_a_vlan_does_not_come_in_by_the_link_that_pynet_made(host: Host, backend: str) -> None:
    """The host has no business there, until somebody gives that link an address."""
    with on_lan(host) as lan:
        parent = f"{PARENT}.50"
        host.netns.run("iptables-nft", "-A", "INPUT", "-i", PARENT, "-j", "DROP")
        host.ok("CreateNetwork", on_parent(OTHER, SECOND4, backend=backend, parent=parent, conflict_check="false"))
        lan.run("ip", "link", "add", "link", "eth0", "name", "eth0.50", "up", "type", "vlan", "id", "50")
        loosened(host)
        frames = [
            ethernet(mac_of(host.netns, PARENT), mac_of(lan), udp("198.51.100.2", HOST4, "to an address")),
            ethernet(BROADCAST, mac_of(lan), udp("198.51.100.2", "255.255.255.255", "to all")),
        ]
        with heard(host.netns) as found:
            send(lan, *frames, link="eth0.50")
        assert not found
        host.netns.run("ip", "address", "add", "198.51.100.9/24", "dev", parent)
        with heard(host.netns) as found:
            send(lan, *frames, link="eth0.50")
        assert found == {"to an address", "to all"}


def connects(where: Namespace, address: str, mac: str, host: Host, within_s: int) -> bool:
    """Tell whether TCP connects to the host's own service, by way of a MAC if one is given."""
    if mac:
        where.run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", "eth0")
    family = "AF_INET6" if ":" in address else "AF_INET"
    serve = f"import socket; one = socket.create_server(('{address}', 80), family=socket.{family})"
    serve += "; print(flush=True); one.accept()"
    ask = f"import socket; socket.create_connection(('{address}', 80), {within_s})"
    with host.netns.popen(sys.executable, "-c", serve, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"\n"
        try:
            where.run(sys.executable, "-c", ask)
        except CommandFailed:
            return False
        finally:
            server.kill()
    return True


def test_the_hosts_own_link_is_never_without_its_guard(host: Host) -> None:
    """Rules come before the link, so that it is not made if they cannot be, and stay until the last network goes."""
    with on_lan(host):
        with host.netns.popen("ip", "monitor", "link", stdout=subprocess.PIPE) as links:
            try:
                with host.netns.popen("nft", "-i", stdin=-1, stdout=-3, stderr=-3) as owner:
                    assert owner.stdin is not None
                    owner.stdin.write(b"add table inet pynet { flags owner; }\n")
                    owner.stdin.flush()
                    eventually(lambda: "pynet" in host.netns.run("nft", "list", "tables"))
                    status, answer = host.call("CreateNetwork", on_parent(host_access="true"))
                    owner.kill()
                host.netns.run("ip", "link", "add", "after", "type", "veth", "peer", "name", "that")
                before = list[bytes]()
                while links.stdout is not None and b"after" not in (line := links.stdout.readline()):
                    before.append(line)
            finally:
                links.kill()
        assert status != 200 and "nftables refused" in answer["Err"]
        assert SHIM.encode() not in b"".join(before)
        eventually(lambda: "pynet" not in host.netns.run("nft", "list", "tables"))
        host.ok("CreateNetwork", on_parent(host_access="true"))
        host.ok("CreateNetwork", on_parent(OTHER, SECOND4, host_access="true"))
        for id in (NETWORK, OTHER):
            assert "entrance" in host.state().rules and SHIM in host.state().links
            host.ok("DeleteNetwork", {"NetworkID": id})
        assert not host.state().rules and SHIM not in host.state().links


ALL6, LINK_LOCAL = "ff02::1", "fe80::bad"
ADVERTISEMENT = icmp6(LINK_LOCAL, ALL6, b"\x86\0\0\0\x40\0\x07\x08" + bytes(8))


def behind(*headers: bytes, upper: int = 58, payload: bytes = ADVERTISEMENT) -> bytes:
    """Write an IPv6 packet with extension headers, each with its kind first and without the byte that says the next."""
    kinds = [*(one[0] for one in headers), upper]
    chain = b"".join(bytes([following]) + one[1:] for one, following in zip(headers, kinds[1:], strict=True))
    return ip(LINK_LOCAL, ALL6, kinds[0], chain + payload)


HOP_BY_HOP, DESTINATION = b"\x00\x00\x01\x04\0\0\0\0", b"\x3c\x00\x01\x04\0\0\0\0"
DHCP6 = udp(LINK_LOCAL, ALL6, "dhcp", 546, 547)[40:]


def fragment(offset: int, *, more: bool) -> bytes:
    return b"\x2c\0" + (offset | more).to_bytes(2, "big") + b"\0\0\0\7"


#: Packets that no container may send to others, by what would keep them from being known.
SHUT = {
    "advertisement": behind(),
    "behind options": behind(HOP_BY_HOP, DESTINATION, DESTINATION),
    "behind twenty": behind(*[DESTINATION] * 20),
    "atomic fragment": behind(fragment(0, more=False)),
    "options in a fragment": behind(fragment(0, more=True), DESTINATION),
    "first fragment that shows options only": behind(fragment(0, more=True), DESTINATION, payload=b""),
    "first fragment that shows half the options": behind(
        fragment(0, more=True), DESTINATION[:1] + b"\x05" + bytes(6), payload=b""
    ),
    "redirect": ip(LINK_LOCAL, ALL6, 58, icmp6(LINK_LOCAL, ALL6, b"\x89" + bytes(39))),
    "redirect of IPv4": ip("10.9.0.254", "10.9.0.8", 1, b"\5\1\xfa\xfe" + bytes(32)),
    "advertisement of IPv4": ip("10.9.0.2", "224.0.0.1", 1, b"\x09\0\xf6\xff" + bytes(12)),
    "DHCP": udp("10.9.0.2", "255.255.255.255", "dhcp", 68, 67),
    "DHCP from another port": udp("10.9.0.2", "255.255.255.255", "dhcp", 68, 1067),
    "DHCP in a first fragment": ip(
        "10.9.0.2", "255.255.255.255", 17, udp("10.9.0.2", "255.255.255.255", "d", 68)[20:36], fragment=0x2000
    ),
    "DHCPv6": behind(HOP_BY_HOP, upper=17, payload=DHCP6),
    "DHCPv6 in a fragment": behind(fragment(0, more=True), upper=17, payload=DHCP6),
}
#: Packets that are everybody's.
OPEN = {
    "request": udp("10.9.0.2", "255.255.255.255", "dhcp", 67, 68),
    "first fragment of an echo": behind(fragment(0, more=True), payload=b"\x80\0\0\0" + bytes(36)),
    "last fragment of an echo": behind(fragment(1448, more=False), payload=b"\x86\0" + bytes(38)),
    "solicitation": ip("fe80::1", ALL6, 58, icmp6("fe80::1", ALL6, b"\x87" + bytes(23))),
    "something": udp("10.9.0.2", "255.255.255.255", "something", 5353),
}


@contextmanager
def on_bridge(host: Host, number: int = 8) -> Iterator[Namespace]:
    """Have a machine of the LAN on the bridge br0, on the port lan0."""
    with Namespace() as machine:
        connect(Plug(host.netns, "lan0"), Plug(machine, "eth0", (f"10.9.0.{number}/24", f"fd00:9::{number}/64")))
        host.netns.run("ip", "link", "set", "lan0", "master", "br0")
        yield machine


def sees(lines: list[str], packet: bytes) -> bool:
    return any(packet.hex() in line for line in lines)


def adopting(**options: Any) -> Any:
    return network(dual=True, **{"com.docker.network.bridge.name": "br0", **options})


@both_firewalls
def test_containers_are_no_routers_or_dhcp_servers_on_an_adopted_bridge(host: Host) -> None:
    """Neither the host nor anybody else gets what only those say, however it is wrapped; the LAN's own is got."""
    host.netns.run("ip", "link", "add", "br0", "up", "type", "bridge")
    # With br_netfilter the bridge would keep fragments until it has them all.
    host.netns.run("sh", "-c", "for one in /proc/sys/net/bridge/bridge-nf-call-*tables; do echo 0 > $one; done")
    host.ok("CreateNetwork", adopting())
    with on_bridge(host) as lan, moved(host) as inside, moved(host, 3) as sibling, ExitStack() as stack:
        looking = [stack.enter_context(seen(*one)) for one in ((host.netns, "br0"), (lan, "eth0"), (sibling, "eth0"))]

        def passed(*packets: bytes, tags: tuple[int, ...] = ()) -> list[set[bytes]]:
            """Tell which of a container's packets everybody sees before what is sent after them, which all see."""
            end = udp("10.9.0.2", "255.255.255.255", secrets.token_hex(8))
            for one in looking:
                one.clear()
            frames = [ethernet(BROADCAST, mac_of(inside), one, *tags) for one in packets]
            send(inside, *frames, ethernet(BROADCAST, mac_of(inside), end))
            eventually(lambda: all(sees(lines, end) for lines in looking))
            return [{one for one in packets if sees(lines, one)} for lines in looking]

        for restarted in (False, True):
            if restarted:
                host.restart()
                host.netns.run("nft", "delete", "table", "bridge", "pynet")
                eventually(lambda: "jump router" in host.netns.run("nft", "list", "ruleset"))
            for tags in ((), (0,), (5,), (5, 0), (5, 6)):
                assert passed(*SHUT.values(), tags=tags) == [set()] * 3, tags
            assert passed(*OPEN.values()) == [set(OPEN.values())] * 3
            assert passed(OPEN["something"], tags=(5,)) == [{OPEN["something"]}] * 3
        # The host takes advertisements of the LAN's router, for which forwarding alone would have it deaf.
        everybody, ours = "33:33:00:00:00:01", "fe80::aaaa"
        send(inside, ethernet(everybody, mac_of(inside), SHUT["advertisement"]))
        theirs = ip(ours, ALL6, 58, icmp6(ours, ALL6, ADVERTISEMENT[:2] + b"\0\0" + ADVERTISEMENT[4:]))
        send(lan, ethernet(everybody, mac_of(lan), theirs))
        eventually(lambda: ours in host.netns.run("ip", "-6", "route", "show", "default"))
        assert LINK_LOCAL not in host.netns.run("ip", "-6", "route", "show", "default")
        for number in (2, 3):
            host.ok("DeleteEndpoint", ids(number))
    assert "bridge pynet" not in host.netns.run("nft", "list", "tables")


@both_firewalls
def test_guards_are_off_where_the_administrator_says_so(host: Host) -> None:
    """A network whose containers serve the LAN says which of the two they are."""
    host.netns.run("ip", "link", "add", "br0", "up", "type", "bridge")
    for ra, dhcp in ((False, True), (True, False), (False, False)):
        host.ok("CreateNetwork", adopting(ra_guard=str(ra).lower(), dhcp_guard=str(dhcp).lower()))
        with moved(host) as inside, seen(host.netns, "br0") as found:
            send(inside, *(ethernet(BROADCAST, mac_of(inside), one) for one in (*SHUT.values(), OPEN["something"])))
            eventually(partial(sees, found, OPEN["something"]))
            for name in ("advertisement", "redirect of IPv4", "DHCP", "DHCPv6"):
                shut = dhcp if "DHCP" in name else ra
                assert sees(found, SHUT[name]) is not shut, name
            host.ok("DeleteEndpoint", ids(2))
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
