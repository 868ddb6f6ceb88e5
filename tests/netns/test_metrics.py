"""What is counted, with real packets: through published ports, of calls, of what was mended."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from netaddr import IPAddress

from pynetdriver.errors import HostError
from pynetdriver.firewall import Count, EngineBridges
from pynetdriver.firewall.counters import Counted, Counters
from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
from pynetdriver.firewall.ruleset import render
from pynetdriver.plan import Owner, PortForward
from tests.conftest import left_out
from tests.lab.netns import Namespace
from tests.lab.scrape import Scrape
from tests.lab.unix import get
from tests.lab.wait import eventually

from .host import NETWORK, PROGRAM, REVOKE, Host, both_firewalls, endpoint_id, ids, network, port, program
from .inside import inside
from .parents import NEIGHBOUR4, endpoint_on, on_lan, on_parent
from .parents import container as leased
from .test_dhcp import Server
from .test_relay import UDP, container

#: Sends datagrams and waits for the answer to each: python3 -c ASK ADDRESS PORT COUNT BYTES
ASK = """
import socket, sys
address, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(3)
one.connect((address, port))
for _ in range(count):
    one.send(b"x" * size)
    assert len(one.recv(65536)) == size
"""
#: Sends back what it gets: python3 -c ECHO ADDRESS PORT
ECHO = """
import socket, sys
one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
one.bind((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
while True:
    one.sendto(*one.recvfrom(65536))
"""
TIMES, SIZE = 7, 100
#: IP and UDP.
HEADERS = {4: 20 + 8, 6: 40 + 8}
ANY = {4: "0.0.0.0", 6: "::"}
#: Whether what is bridged passes the rules, too.
SWITCHES = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
HOST4, HOST6 = "192.0.2.1", "2001:db8:1::1"


@contextmanager
def echoing(where: Namespace, *addresses: str) -> Iterator[None]:
    """Have UDP servers on port 53 that send back what they get."""
    with ExitStack() as stack:
        for address in addresses:
            server = stack.enter_context(where.popen(sys.executable, "-c", ECHO, address, "53", stdout=subprocess.PIPE))
            stack.callback(server.kill)
            assert server.stdout is not None and server.stdout.readline() == b"up\n"
        yield


def ask(where: Namespace, address: str, number: int, times: int = TIMES) -> None:
    """Send datagrams to a published port, each of which is answered."""
    where.run(sys.executable, "-c", ASK, address, str(number), str(times), str(SIZE))


def carried(host: Host, **labels: str) -> dict[str, tuple[float, float]]:
    """Packets and bytes through a published port, by direction."""
    found = Scrape.of(host.daemon.socket)
    return {
        way: (
            found.value("pynet_port_packets_total", direction=way, **labels),
            found.value("pynet_port_bytes_total", direction=way, **labels),
        )
        for way in ("in", "out")
    }


def times(count: int, version: int) -> dict[str, tuple[float, float]]:
    """What so many datagrams and their answers come to."""
    return dict.fromkeys(("in", "out"), (count, count * (SIZE + HEADERS[version])))


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    with on_lan(host) as neighbour:
        yield neighbour


@pytest.mark.parametrize("filtered", ["0", "1"], ids=["routed alone", "br_netfilter"])
def test_each_packet_through_a_published_port_is_counted_once(host: Host, lan: Namespace, filtered: str) -> None:
    """From the LAN, the host, another container, and the container itself; both families, both directions."""
    if Path("/proc/sys/net/bridge").exists():
        for switch in SWITCHES:
            host.netns.write_sysctl(switch, filtered)
    elif filtered == "1":
        left_out("kernel br_netfilter", "this machine's kernel has not loaded it")
    host.ok("CreateNetwork", network(dual=True))
    with (
        container(host, 2, dual=True, listening="") as web,
        container(host, 3, dual=True, listening="") as other,
        echoing(web, "10.9.0.2", "fd00:9::2"),
    ):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        for version, address in ((4, HOST4), (6, HOST6)):
            expected = 0
            assert carried(host, host_port="5353", host_address=ANY[version]) == times(0, version)
            for source in (lan, host.netns, other, web):
                ask(source, address, 5353)
                expected += TIMES
                found = carried(host, host_port="5353", host_address=ANY[version])
                assert found == times(expected, version), (version, source)
        ask(host.netns, "127.0.0.1", 5353)
        assert carried(host, host_port="5353", host_address="0.0.0.0") == times(5 * TIMES, 4)
        ((labels, _),) = Scrape.of(host.daemon.socket).all("pynet_port_bytes_total", direction="in", host_address="::")
        assert labels == {
            "network": NETWORK[:12],
            "endpoint": endpoint_id(2)[:12],
            "protocol": "udp",
            "host_address": "::",
            "host_port": "5353",
            "container_port": "53",
            "direction": "in",
        }


def test_what_is_not_to_a_published_port_is_not_counted_there(host: Host, lan: Namespace) -> None:
    """Neither what a container asks others for at the same port, nor what goes to it directly."""
    host.ok("CreateNetwork", network(dual=True))
    with (
        container(host, 2, dual=True, listening="") as web,
        container(host, 3, dual=True, listening="") as other,
        echoing(web, "10.9.0.2"),
        echoing(lan, "192.0.2.2"),
    ):
        host.ok(PROGRAM, program(2, port(53, 53, UDP)))
        ask(web, "192.0.2.2", 53)
        ask(other, "10.9.0.2", 53)
        ask(host.netns, "10.9.0.2", 53)
        assert carried(host, host_port="53", host_address="0.0.0.0") == times(0, 4)


#: As a transparent proxy has it: what containers ask anybody's port 53 goes to this host.
PROXY = """
table ip proxy {
  chain asked {
    type nat hook prerouting priority -100;
    ip daddr 203.0.113.0/24 udp dport 53 redirect to :5300
  }
}
"""


def counters(host: Host) -> int:
    """How many there are in the kernel."""
    return host.netns.run("nft", "list", "table", "inet", "pynet").count("counter packets")


def test_clients_do_not_make_more_counters_than_there_are_ports(host: Host, lan: Namespace) -> None:
    """Sets that are full would count nothing for who comes next."""
    send = "import socket; one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    send += "for last in range(1, 20): one.sendto(b'x', (f'203.0.113.{last}', 53))"
    host.netns.run("nft", "-f", "-", input=PROXY)
    host.ok("CreateNetwork", network())
    with container(host, 2, listening="") as web, container(host, 3, listening="") as other, echoing(web, "10.9.0.2"):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP), port(5354, 53, UDP, HOST4)))
        other.run(sys.executable, "-c", send)
        assert counters(host) == 0
        for last in (1, 2, 3):
            ask(host.netns, f"127.0.0.{last}", 5353)
        ask(lan, HOST4, 5354)
        assert counters(host) == 4
        assert carried(host, host_port="5353", host_address="0.0.0.0") == times(3 * TIMES, 4)
        assert carried(host, host_port="5354", host_address=HOST4) == times(TIMES, 4)


def test_a_stream_is_counted_to_its_end(host: Host, lan: Namespace) -> None:
    """All of a connection, not only what began it."""
    host.ok("CreateNetwork", network())
    with container(host, 2):
        host.ok(PROGRAM, program(2, port(8080)))
        size = 5_000_000
        send = "import socket,sys; s=socket.create_connection(('192.0.2.1', 8080)); import threading;"
        send += f"threading.Thread(target=lambda: (s.sendall(bytes({size})), s.shutdown(1))).start();"
        send += "n=0\nwhile data := s.recv(1 << 20): n += len(data)\nprint(n)"
        assert int(lan.run(sys.executable, "-c", send)) == size + len("|192.0.2.2")
        found = carried(host, host_port="8080", host_address="0.0.0.0")
        for packets, octets in found.values():
            # Headers are counted as the kernel has them: one for many segments that it put together.
            assert size + 40 * packets <= octets <= size * 1.2
            assert packets > size / 65536


def test_ports_of_one_number_on_several_addresses_are_told_apart(host: Host, lan: Namespace) -> None:
    """Each leads to its container, and is counted for that."""
    host.netns.run("ip", "address", "add", "192.0.2.7/24", "dev", "lan0")
    host.ok("CreateNetwork", network())
    with (
        container(host, 2, listening="") as one,
        container(host, 3, listening="") as two,
        echoing(one, "10.9.0.2"),
        echoing(two, "10.9.0.3"),
    ):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP, HOST4), port(5353, 53, UDP, "127.0.0.1")))
        host.ok(PROGRAM, program(3, port(5353, 53, UDP, "192.0.2.7")))
        for address, count in ((HOST4, 1), ("127.0.0.1", 2), ("192.0.2.7", 3)):
            ask(host.netns, address, 5353, count)
        for address, count, number in ((HOST4, 1, 2), ("127.0.0.1", 2, 2), ("192.0.2.7", 3, 3)):
            labels = {"host_address": address, "endpoint": endpoint_id(number)[:12]}
            assert carried(host, host_port="5353", **labels) == times(count, 4)


def rewritten(host: Host) -> None:
    """Do to the table what has it written anew."""
    host.netns.run("nft", "flush", "chain", "inet", "pynet", "forward")
    eventually(lambda: Scrape.of(host.daemon.socket).all("pynet_repairs_total", kind="table"))


@pytest.mark.parametrize("event", [rewritten, Host.restart], ids=["table written anew", "daemon killed"])
def test_counters_outlast(host: Host, lan: Namespace, event: Callable[[Host], None]) -> None:
    """A counter that begins anew would be a gap for those who add it up."""
    host.ok("CreateNetwork", network())
    with container(host, 2, listening="") as web, echoing(web, "10.9.0.2"):
        host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
        ask(lan, HOST4, 5353)
        event(host)
        ask(lan, HOST4, 5353)
        assert carried(host, host_port="5353", host_address="0.0.0.0") == times(2 * TIMES, 4)


def test_a_new_publication_begins_with_nothing(host: Host, lan: Namespace) -> None:
    """Also for a container that has the address of the one before it, as restarted ones with --ip do."""
    host.ok("CreateNetwork", network())
    for _ in range(2):
        with container(host, 2, listening="") as web, echoing(web, "10.9.0.2"):
            host.ok(PROGRAM, program(2, port(5353, 53, UDP)))
            ask(lan, HOST4, 5353)
            assert carried(host, host_port="5353", host_address="0.0.0.0") == times(TIMES, 4)
            host.ok(REVOKE, ids(2))
            eventually(lambda: "5353" not in host.netns.run("nft", "list", "set", "inet", "pynet", "traffic4"))
            host.ok("Leave", ids(2))
            host.ok("DeleteEndpoint", ids(2))


def many_are_forgotten() -> None:
    async def scenario() -> None:
        firewall, counters = NftablesFirewall(Nftables()), Counters()
        port = PortForward("tcp", IPAddress("0.0.0.0"), 8080, IPAddress("10.9.0.2"), 80)
        await firewall.set(Owner.network("1"), [port])
        await firewall.set(Owner.endpoint("1"), [replace(port, host_port=8081)])
        stale = (f"original . tcp . {number} . 10.9.0.{last}" for number in range(2000) for last in range(3, 13))
        add_counters(f"{one} counter packets 1 bytes 1" for one in stale)

        def forgotten() -> None:
            while True:
                with suppress(HostError):  # a set that changes
                    if not counters.read():
                        return
                time.sleep(0.2)

        began = latest = time.monotonic()
        longest = 0.0
        await firewall.set(Owner.endpoint("1"), [])
        waiting = asyncio.create_task(asyncio.to_thread(forgotten))
        while not waiting.done():
            await asyncio.sleep(0.005)
            longest, latest = max(longest, time.monotonic() - latest), time.monotonic()
        assert longest < (latest - began) / 5

    asyncio.run(scenario())


def add_counters(elements: Iterable[str]) -> None:
    commands = f"add element inet pynet traffic4 {{ {', '.join(elements)} }}"
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


def elements_without_counters() -> None:
    Nftables().commit(render([], EngineBridges()))
    add_counters(["original . tcp . 8080 . 10.9.0.2", "reply . tcp . 8080 . 10.9.0.2 counter packets 1 bytes 2"])
    assert Counters().read() == {Counted("out", "0.0.0.0", "tcp", 8080, "10.9.0.2"): Count(1, 2)}


@pytest.mark.parametrize("what", [many_are_forgotten, elements_without_counters])
def test_what_others_put_among_the_counters(what: Callable[[], None]) -> None:
    """The daemon goes on meanwhile, and what has no counter is not read as one."""
    with Namespace() as netns:
        inside(netns, what)


@both_firewalls
def test_the_numbers_are_those_of_the_host(host: Host, firewall: str) -> None:
    """Networks, endpoints, ports, pools, calls; with legacy iptables all but what ports carry."""
    pool = {"AddressSpace": "pynet-local", "Pool": "10.9.0.0/24", "SubPool": "", "Options": {}, "V6": False}
    host.ok("IpamDriver.RequestPool", pool)
    request = {"PoolID": "pynet-local/10.9.0.0/24", "Address": "", "Options": {}}
    for _ in range(3):
        host.ok("IpamDriver.RequestAddress", request)
    host.ok("CreateNetwork", network())
    for number in (2, 3):
        host.attach(number)
    host.ok(PROGRAM, program(2, port(8080), port(8081), port(8082, address="127.0.0.1")))
    host.refused("CreateNetwork", network("77" * 32))
    assert host.call("NetworkDriver.Nonsense", {})[0] == 404
    found = Scrape.of(host.daemon.socket)
    assert found.value("pynet_networks", backend="bridge") == 1
    assert found.value("pynet_networks", backend="macvlan") == 0
    assert found.value("pynet_endpoints", backend="bridge") == 2
    # On all addresses: a port for each family.
    assert found.value("pynet_ports", backend="bridge") == 5
    assert found.value("pynet_pool_addresses", subnet="10.9.0.0/24", space="pynet-local") == 254
    assert found.value("pynet_pool_used", subnet="10.9.0.0/24", space="pynet-local") == 3
    assert found.value("pynet_calls_total", method="NetworkDriver.CreateEndpoint", outcome="ok") == 2
    assert found.value("pynet_calls_total", method="NetworkDriver.CreateNetwork", outcome="refused") == 1
    assert found.value("pynet_call_seconds_count", method="NetworkDriver.CreateNetwork") == 2
    assert not [labels for labels, _ in found.all("pynet_calls_total") if "Nonsense" in labels["method"]]
    assert time.time() - 60 < found.value("process_start_time_seconds") <= time.time()
    assert found.value("pynet_build_info") == 1
    assert ("pynet_port_bytes_total" in found.names) is (firewall == "nftables")
    assert len(found.all("pynet_endpoint_bytes_total")) == 4
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    found = Scrape.of(host.daemon.socket)
    assert found.value("pynet_networks", backend="bridge") == 0 and not found.all("pynet_endpoint_bytes_total")


def test_the_status_has_the_same_values(host: Host) -> None:
    """For programs that read JSON."""
    host.ok("CreateNetwork", network())
    status, body = get(host.daemon.socket.with_suffix("") / "admin.sock", "/status")
    assert status == 200
    assert b'{"name":"pynet_networks","labels":{"backend":"bridge"},"value":1.0}' in body.replace(b"1}", b"1.0}")


def test_addresses_of_others_on_the_lan_are_counted_once_each(host: Host, lan: Namespace) -> None:
    """However often they are asked for, until they are free again."""
    host.ok("CreateNetwork", on_parent())

    def conflicts() -> float:
        return Scrape.of(host.daemon.socket).value("pynet_conflicts_total")

    assert conflicts() == 0
    for _ in range(2):
        host.refused("CreateEndpoint", endpoint_on(2, NETWORK, f"{NEIGHBOUR4}/24"))
        assert conflicts() == 1
    lan.run("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
    host.refused("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.77/24"))
    assert conflicts() == 2
    lan.run("ip", "address", "del", "192.0.2.77/24", "dev", "eth0")
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.77/24"))
    assert conflicts() == 2


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="no dnsmasq here: make deps installs dnsmasq-base")
def test_leases_that_are_renewed_or_lost_are_counted(host: Host, lan: Namespace, folder: Path) -> None:
    """The server says after how many seconds to renew; then it refuses, since it serves other addresses."""
    server = Server(lan, folder / "server")
    often = ("--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100", "--dhcp-authoritative")

    def renewals(outcome: str) -> float:
        return Scrape.of(host.daemon.socket).value("pynet_lease_renewals_total", outcome=outcome)

    try:
        server.start(*often)
        host.ok("CreateNetwork", on_parent(NETWORK, "", dhcp="true"))
        with leased(host):
            eventually(lambda: renewals("renewed") >= 1)
            assert renewals("lost") == 0
            server.forget()
            server.start(*often, leases="192.0.2.200,192.0.2.220,255.255.255.0,120")
            eventually(lambda: renewals("lost") == 1)
    finally:
        server.stop()
