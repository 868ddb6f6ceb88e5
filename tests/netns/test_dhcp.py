"""Leases from a real server, dnsmasq; the client is this process, in a thread that has entered the host."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.errors import Conflict, HostError, PynetError
from pynetdriver.lan.dhcp import DhcpClient, LeaseManager
from pynetdriver.lan.dhcp.messages import Kind
from pynetdriver.model import DhcpLease
from tests.lab import command
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually
from tests.unit.test_dhcp import Sent, answer

from .test_probe import within

pytestmark = pytest.mark.skipif(
    shutil.which("dnsmasq") is None,
    reason="no dnsmasq here, the server of these tests: make deps installs dnsmasq-base",
)

SERVER, ALL_MACS = "192.0.2.1", "ff:ff:ff:ff:ff:ff"
RANGE = "192.0.2.100,192.0.2.120,255.255.255.0,120"
#: Nothing takes longer on a busy machine.
SOON_S = 10.0


def other_client(**changes: Any) -> DhcpClient:
    """Make a client that differs from the usual one."""
    usual = {"link": "lan0", "mac": "02:42:00:00:00:05", "client_id": b"\xff\0\0\0\1\0\2abc", "host_name": "web"}
    return DhcpClient(**{**usual, **changes})


CLIENT = other_client()
OTHER = other_client(client_id=b"\xff\0\0\0\1\0\2abd", host_name="db")


class Server:
    """dnsmasq on a link of a namespace; what it knows is in its files."""

    def __init__(self, where: Namespace, folder: Path, link: str = "eth0") -> None:
        self.where, self._link, self._folder = where, link, folder
        folder.mkdir()
        self._log, self._leases = folder / "log", folder / "leases"
        self._process: Popen[bytes] | None = None

    def start(self, *options: str, leases: str = RANGE) -> None:
        """Serve a range."""
        with self._log.open("ab") as log:
            self._process = self.where.popen(
                *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--port=0"),
                *("--log-facility=-", "--log-dhcp", f"--interface={self._link}", "--bind-interfaces", "--no-ping"),
                *(f"--dhcp-leasefile={self._leases}", f"--dhcp-range={leases}", *options),
                stderr=log,
                stdout=log,
            )
        eventually(lambda: "sockets bound" in self.log)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._log.write_bytes(b"")

    def forget(self) -> None:
        """Lose all leases."""
        self.stop()
        self._leases.unlink(missing_ok=True)

    @property
    def log(self) -> str:
        """What it said since it was started."""
        return self._log.read_text()

    @property
    def leases(self) -> dict[str, list[str]]:
        """Its leases by address: end, MAC, address, name, client identifier."""
        lines = self._leases.read_text().splitlines() if self._leases.exists() else []
        return {words[2]: words for words in (line.split() for line in lines) if len(words) == 5}


class Lan:
    """A host with the link lan0, and a machine with a DHCP server on eth0."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.host, self.machine = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        self.server = Server(self.machine, folder / "server")
        stack.callback(self.server.stop)
        self.plug()

    def plug(self) -> None:
        """Lay the cable."""
        connect(Plug(self.host, "lan0"), Plug(self.machine, "eth0", (f"{SERVER}/24",)))
        self._tap = self.tap()
        self._tap.setblocking(False)

    def tap(self, where: Namespace | None = None) -> socket.socket:
        """Open a socket for all that arrives at the machine, or at another; the lab closes it."""
        opened = within(
            where or self.machine, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        )
        self.stack.callback(opened.close)
        opened.bind(("eth0", 0x0800))
        return opened

    def requests(self) -> list[Sent]:
        """Take what the machine has seen of requests since the last time."""
        found = []
        with suppress(BlockingIOError):
            while True:
                frame, origin = self._tap.recvfrom(2048)
                if origin[2] != socket.PACKET_OUTGOING and frame[23] == 17 and frame[36:38] == b"\0\x43":
                    found.append(Sent(frame))
        return found

    def settle(self, lease: DhcpLease, mac: str = CLIENT.mac) -> Namespace:
        """Make a container on macvlan that uses the address: servers resolve it before they answer renewals."""
        container = self.stack.enter_context(Namespace())
        add = ("link", "add", "link", "lan0", "name", "mac0", "address", mac, "type", "macvlan", "mode", "bridge")
        command.run("ip", "-n", self.host.name, *add)
        self.host.run("ip", "link", "set", "mac0", "netns", container.name)
        container.run("ip", "address", "add", str(lease.address), "dev", "mac0")
        container.run("ip", "link", "set", "mac0", "up")
        return container

    def packet_sockets(self) -> int:
        """Count the sockets of the client that are open."""
        return len(self.host.run("cat", "/proc/net/packet").splitlines()) - 1


class Told:
    """A client, and what it tells."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[tuple[str, DhcpLease | None]] = asyncio.Queue()
        self.client = LeaseManager(self._changed)

    async def _changed(self, owner: str, lease: DhcpLease | None) -> None:
        self._told.put_nowait((owner, lease))

    async def next(self) -> DhcpLease | None:
        """Wait for the next call."""
        owner, lease = await asyncio.wait_for(self._told.get(), SOON_S)
        assert owner == "web"
        return lease

    async def renewed(self) -> DhcpLease:
        """Wait for a lease."""
        lease = await self.next()
        assert lease is not None
        return lease

    @property
    def quiet(self) -> bool:
        """Whether there was nothing more."""
        return self._told.empty()


@pytest.fixture
def lan(folder: Path) -> Iterator[Lan]:
    with ExitStack() as stack:
        yield Lan(stack, folder)


def on(lan: Lan, scenario: Callable[[Told], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with a client on the host, which leaves no socket behind."""

    async def run() -> None:
        told = Told()
        try:
            await scenario(told)
        finally:
            await told.client.close()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    within(lan.host, lambda: asyncio.run(run()))
    assert eventually(lambda: lan.packet_sockets() == 0)


async def later(condition: Callable[[], object]) -> bool:
    """Wait for it while the loop goes on."""
    return bool(await asyncio.to_thread(eventually, condition))


def soon(lease: DhcpLease, renew_s: float = 0.1, rebind_s: float = 60, lease_s: float = 120) -> DhcpLease:
    """Make the times of a lease short."""
    return msgspec.structs.replace(lease, renew_s=renew_s, rebind_s=rebind_s, lease_s=lease_s, obtained=time.time())


def ip(lease: DhcpLease | None) -> str:
    return "" if lease is None else str(lease.address.ip)


def test_a_lease_is_what_the_server_grants(lan: Lan) -> None:
    """For a MAC that is not the link's: broadcast, with name and identifier; socket closed and nothing else sent."""
    lan.server.start(
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=121,10.0.0.0/8,192.0.2.7,0.0.0.0/0,192.0.2.254",
        "--dhcp-option=option:router,192.0.2.9",
    )

    async def scenario(told: Told) -> None:
        before = time.time()
        lease = await told.client.acquire(CLIENT)
        assert lease.address.ip in IPNetwork("192.0.2.96/27") and lease.address.prefixlen == 24
        assert (str(lease.server), lease.mtu, str(lease.gateway)) == (SERVER, 1400, "192.0.2.254")
        assert lease.routes == ((IPNetwork("10.0.0.0/8"), IPAddress("192.0.2.7")),)
        assert lease.server_mac in lan.machine.run("ip", "link", "show", "eth0")
        assert lease.renew_s and lease.rebind_s and 0 < lease.renew_s < lease.rebind_s < (lease.lease_s or 0) == 120
        assert before <= lease.obtained <= time.time()
        end, mac, _, name, identifier = lan.server.leases[ip(lease)]
        assert (mac, name, identifier) == (CLIENT.mac, "web", CLIENT.client_id.hex(":")) and float(end) > before
        assert lan.server.log.count("broadcast response") == 2
        assert [one.kind for one in lan.requests()] == [Kind.DISCOVER, Kind.REQUEST]

    on(lan, scenario)


def test_clients_with_one_mac_get_an_address_each(lan: Lan) -> None:
    """As on ipvlan, told apart by their identifiers, and by their own again later.

    dnsmasq offers those that ask at the same time one address, and refuses it to all but one of them.
    """
    lan.server.start()
    clients = [other_client(client_id=bytes([255, number]), host_name=f"web{number}") for number in range(8)]

    async def scenario(told: Told) -> None:
        began = time.time()
        leases = [ip(one) for one in await asyncio.gather(*(told.client.acquire(one) for one in clients))]
        assert len(set(leases)) == 8 and time.time() - began < 3
        assert [lan.server.leases[one][3:] for one in leases] == [[f"web{n}", f"ff:{n:02x}"] for n in range(8)]
        assert ip(await told.client.acquire(clients[5])) == leases[5]

    on(lan, scenario)


def test_renewal_goes_to_the_server_at_t1(lan: Lan) -> None:
    """Unicast, with the address as source; the answer to a container's own MAC is heard on the parent."""
    lan.server.start("--dhcp-option=option:mtu,1400")

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.settle(lease)
        lan.requests()
        began = time.time()
        told.client.keep("web", CLIENT, soon(lease, 0.4))
        renewed = await told.renewed()
        assert 0.4 <= time.time() - began < 1.5
        assert ip(renewed) == ip(lease) and renewed.obtained >= began + 0.4 and renewed.lease_s == 120
        assert renewed.mtu == 1400
        (sent,) = lan.requests()
        assert (sent.kind, sent.to, sent.ciaddr) == (Kind.REQUEST, lease.server_mac, ip(lease))
        assert await later(lambda: lan.packet_sockets() == 0) and told.quiet

    on(lan, scenario)


def test_a_lease_is_renewed_at_once_if_it_was_time_meanwhile(lan: Lan) -> None:
    """As after a pause of the daemon: T1 is counted from when the lease was obtained."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.settle(lease)
        old = msgspec.structs.replace(lease, obtained=time.time() - 70, renew_s=60, rebind_s=105)
        began = time.time()
        told.client.keep("web", CLIENT, old)
        assert ip(await told.renewed()) == ip(lease) and time.time() - began < 1

    on(lan, scenario)


def test_rebinding_finds_a_server_with_another_mac(lan: Lan) -> None:
    """What goes to the old one is lost; after T2 everybody is asked, and the new one is remembered."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.settle(lease)
        lan.machine.run("ip", "link", "set", "eth0", "address", "02:42:00:00:00:99")
        lan.requests()
        told.client.keep("web", CLIENT, soon(lease, 0.1, 0.6, 30))
        renewed = await told.renewed()
        assert ip(renewed) == ip(lease) and renewed.server_mac == "02:42:00:00:00:99"
        sent = lan.requests()
        assert [one.to for one in sent[-2:]] == [lease.server_mac, ALL_MACS]
        assert (sent[-1].kind, sent[-1].ciaddr, sent[-1].options.get(54)) == (Kind.REQUEST, ip(lease), None)

    on(lan, scenario)


def test_a_server_that_lost_its_leases_confirms_them(lan: Lan) -> None:
    """dnsmasq says yes to an address of its range that is free, if it alone serves the LAN."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.settle(lease)
        lan.server.forget()
        told.client.keep("web", CLIENT, soon(lease, 0.1, 1, 30))
        await asyncio.sleep(0.3)
        lan.server.start("--dhcp-authoritative")
        assert ip(await told.renewed()) == ip(lease)
        assert ip(lease) in lan.server.leases

    on(lan, scenario)


def test_a_former_address_is_confirmed_by_one_pair_of_messages(lan: Lan) -> None:
    """INIT-REBOOT; and an expired one is asked for."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        for _ in range(3):  # so that it is not the one that the server would choose anyway
            lease = await told.client.acquire(other_client(client_id=random.randbytes(9)))
        former = msgspec.structs.replace(lease, address=IPNetwork("192.0.2.117/24"))
        told.client.give_back(CLIENT, lease)
        another = other_client(client_id=b"\0another")
        expired = msgspec.structs.replace(former, obtained=time.time() - 121)
        lan.requests()
        again = await told.client.acquire(another, expired)
        assert ip(again) == "192.0.2.117"
        discover, _ = lan.requests()
        assert (discover.kind, discover.options[50]) == (Kind.DISCOVER, former.address.ip.packed)
        assert ip(await told.client.acquire(another, again)) == "192.0.2.117"
        (sent,) = lan.requests()
        assert (sent.kind, sent.options[50], 54 in sent.options) == (Kind.REQUEST, former.address.ip.packed, False)

    on(lan, scenario)


def test_a_former_address_that_no_server_knows_is_asked_for(lan: Lan) -> None:
    """A server that does not know the lease is silent; that costs a second and a half."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        former = msgspec.structs.replace(lease, address=IPNetwork("192.0.2.117/24"))
        another = other_client(client_id=b"\0another")
        began = time.time()
        assert ip(await told.client.acquire(another, former)) == "192.0.2.117"
        assert 1 < time.time() - began < 3

    on(lan, scenario)


def test_a_refused_former_address_is_replaced_at_once(lan: Lan) -> None:
    """It is of another subnet: the server says NAK."""
    lan.server.start("--dhcp-authoritative")

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        former = msgspec.structs.replace(lease, address=IPNetwork("198.51.100.7/24"))
        began = time.time()
        assert ip(await told.client.acquire(CLIENT, former)).startswith("192.0.2.") and time.time() - began < 0.6
        assert "DHCPNAK" in lan.server.log

    on(lan, scenario)


def test_a_refused_renewal_leads_to_another_lease(lan: Lan) -> None:
    """The address is lost at once, and there is a new one at once."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.settle(lease)
        lan.server.forget()
        lan.server.start("--dhcp-authoritative", leases="192.0.2.30,192.0.2.40,255.255.255.0,120")
        began = time.time()
        told.client.keep("web", CLIENT, soon(lease, 0.1, 0.2))
        assert await told.next() is None
        renewed = await told.renewed()
        assert renewed.address.ip in IPNetwork("192.0.2.0/26") and time.time() - began < 2
        assert told.quiet

    on(lan, scenario)


@pytest.mark.parametrize("outage", ["down", "gone"])
def test_the_end_of_a_lease_is_told_and_a_new_one_found(lan: Lan, outage: str) -> None:
    """The link is away for a while, too; the address is asked for again."""
    lan.server.start()

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        lan.server.stop()
        lan.host.run("ip", "link", *(("set", "lan0", "down") if outage == "down" else ("delete", "lan0")))
        began = time.time()
        told.client.keep("web", CLIENT, soon(lease, 0.1, 0.3, 0.8))
        assert await told.next() is None and 0.8 <= time.time() - began < 1.5
        if outage == "down":
            lan.host.run("ip", "link", "set", "lan0", "up")
        else:
            lan.plug()
        lan.requests()
        lan.server.start()
        assert ip(await told.renewed()) == ip(lease)
        assert all(one.options.get(50) == lease.address.ip.packed for one in lan.requests())

    on(lan, scenario)


def test_one_of_several_servers_is_taken(lan: Lan, folder: Path) -> None:
    """One alone has the lease afterwards, and the other does not hold the address for long."""

    def scene(second: Server) -> Callable[[Told], Coroutine[Any, Any, None]]:
        async def scenario(told: Told) -> None:
            lan.requests()
            for number in range(5):
                another = other_client(link="br0", client_id=b"\0%d" % number)
                lease = await told.client.acquire(another)
                chosen = lan.server if str(lease.server) == SERVER else second
                assert ip(lease) in chosen.leases
            assert len(lan.server.leases) + len(second.leases) == 5
            assert "DHCPOFFER" in lan.server.log and "DHCPOFFER" in second.log
            # Without a server's address in the request both would have granted something.
            assert all(54 in one.options for one in lan.requests() if one.kind is Kind.REQUEST)

        return scenario

    with Namespace() as machine:
        command.run("ip", "-n", lan.host.name, "link", "add", "br0", "type", "bridge")
        connect(Plug(lan.host, "lan1"), Plug(machine, "eth0", ("192.0.2.2/24",)))
        for link in ("lan0", "lan1"):
            lan.host.run("ip", "link", "set", link, "master", "br0")
        lan.host.run("ip", "link", "set", "br0", "up")
        second = Server(machine, folder / "second")
        lan.stack.callback(second.stop)
        lan.server.start()
        second.start(leases="192.0.2.30,192.0.2.40,255.255.255.0,120")
        on(lan, scene(second))


@pytest.mark.parametrize("link", ["up", "down", "gone"])
def test_no_server_is_said_in_time(lan: Lan, link: str) -> None:
    """In one sentence that says what to look at."""

    async def scenario(told: Told) -> None:
        began = time.time()
        with pytest.raises(HostError) as caught:
            await told.client.acquire(CLIENT, timeout_s=1.5)
        took = time.time() - began
        if link == "up":
            expected = 'no DHCP server answered on link "lan0" within 1.5 seconds; check that the link is on the LAN'
            assert [one.kind for one in lan.requests()] == [Kind.DISCOVER] * 2
        elif link == "down":
            expected = 'no DHCP server could be asked on link "lan0" within 1.5 seconds: cannot send a frame'
        else:
            expected = 'cannot listen on link "lan0": No such device'
        assert str(caught.value).startswith(expected)
        assert took < 0.5 if link == "gone" else 1.5 <= took < 2

    if link != "up":
        lan.host.run("ip", "link", *(("set", "lan0", "down") if link == "down" else ("delete", "lan0")))
    on(lan, scenario)


def test_an_address_that_somebody_uses_is_declined(lan: Lan) -> None:
    """The server is told, and gives another one; after three it is said who has the last one."""
    lan.server.start()
    asked: list[IPAddress] = []

    def holders(number: int) -> Callable[[IPAddress], Awaitable[str | None]]:
        async def taken(address: IPAddress) -> str | None:
            asked.append(address)
            return "02:42:00:00:00:77" if len(asked) <= number else None

        return taken

    async def scenario(told: Told) -> None:
        former = await told.client.acquire(CLIENT)
        lan.requests()
        lease = await told.client.acquire(CLIENT, former, holders(1))
        first, second = asked
        assert first == former.address.ip != second == lease.address.ip
        sent = [(one.kind, one.options.get(50)) for one in lan.requests()]
        assert sent == [
            (Kind.REQUEST, first.packed),
            (Kind.DECLINE, first.packed),
            (Kind.DISCOVER, None),
            (Kind.REQUEST, second.packed),
        ]
        assert f"DHCPDECLINE(eth0) {first} {CLIENT.mac}" in lan.server.log
        assert list(lan.server.leases) == [ip(lease)]
        asked.clear()
        with pytest.raises(Conflict, match=r"192\.0\.2\.1 .*192\.0\.2\.\d+, which 02:42:00:00:00:77 has$"):
            await told.client.acquire(OTHER, taken=holders(99))
        assert len(asked) == 3

    on(lan, scenario)


def test_release_frees_the_address(lan: Lan) -> None:
    """Also that of a container that could not be started; what is forgotten stays the container's."""
    lan.server.start()

    async def failing(address: IPAddress) -> str | None:
        raise PynetError(f"no idea about {address}")

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT)
        told.client.keep("web", CLIENT, lease)
        assert ip(lease) in lan.server.leases
        told.client.release("web")
        told.client.release("web")
        assert await later(lambda: not lan.server.leases)
        with pytest.raises(PynetError, match="no idea"):
            await told.client.acquire(OTHER, taken=failing)
        assert lan.server.log.count("DHCPACK") == 2 and await later(lambda: not lan.server.leases)
        lease = await told.client.acquire(CLIENT)
        told.client.keep("web", CLIENT, soon(lease, 0.2))
        told.client.forget("web")
        lan.requests()
        await asyncio.sleep(0.4)
        assert lan.requests() == [] and ip(lease) in lan.server.leases and told.quiet

    on(lan, scenario)


def test_whoever_waits_may_give_up(lan: Lan) -> None:
    """A cancelled call leaves no socket, and nothing is sent any more."""

    async def scenario(told: Told) -> None:
        waiting = asyncio.create_task(told.client.acquire(CLIENT))
        assert await later(lan.packet_sockets)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await later(lambda: lan.packet_sockets() == 0)
        lan.requests()
        await asyncio.sleep(1.3)
        assert lan.requests() == []

    on(lan, scenario)


def test_answers_to_the_container_are_heard_behind_a_bridge(lan: Lan) -> None:
    """On the host's end of its pair: the bridge itself never sees what goes on to one of its ports."""
    lan.server.start()
    container = lan.stack.enter_context(Namespace())
    command.run("ip", "-n", lan.host.name, "link", "add", "br0", "type", "bridge")
    connect(Plug(lan.host, "pair0"), Plug(container, "eth0"))
    for link in ("lan0", "pair0"):
        lan.host.run("ip", "link", "set", link, "master", "br0")
    lan.host.run("ip", "link", "set", "br0", "up")
    container.run("ip", "link", "set", "eth0", "address", CLIENT.mac)

    async def scenario(told: Told) -> None:
        another = other_client(link="br0")
        lease = await told.client.acquire(another)
        container.run("ip", "address", "add", str(lease.address), "dev", "eth0")
        told.client.keep("web", another, soon(lease, 0.1, 0.2, 0.5))
        assert await told.next() is None
        # One that is not there any more does no harm.
        listening = other_client(link="br0", listen=("gone0", "pair0"))
        told.client.keep("web", listening, soon(lease, 0.1, 30, 60))
        assert ip(await told.renewed()) == ip(lease)

    on(lan, scenario)


@contextmanager
def rogue(lan: Lan, frames: Callable[[Sent], list[bytes]], where: Namespace | None = None) -> Iterator[list[Sent]]:
    """Have the machine, or another, answer each request with frames of its own."""
    seen: list[Sent] = []
    end = Event()
    tap = lan.tap(where)
    tap.settimeout(0.1)

    def work() -> None:
        while not end.is_set():
            with suppress(TimeoutError):
                frame, origin = tap.recvfrom(2048)
                if origin[2] != socket.PACKET_OUTGOING and frame[23] == 17 and frame[36:38] == b"\0\x43":
                    seen.append(Sent(frame))
                    for one in frames(seen[-1]):
                        tap.send(one)

    thread = Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


USUAL = {1: b"\xff\xff\xff\0", 51: bytes([0, 0, 0, 120]), 54: IPAddress("192.0.2.66").packed}


def test_what_a_container_answers_to_its_own_request_is_not_heard(lan: Lan) -> None:
    """On the host's end of its pair only what goes to it counts, not what comes from it."""
    container = lan.stack.enter_context(Namespace())
    command.run("ip", "-n", lan.host.name, "link", "add", "br0", "type", "bridge")
    connect(Plug(lan.host, "pair0"), Plug(container, "eth0"))
    lan.host.run("ip", "link", "set", "pair0", "master", "br0")
    lan.host.run("ip", "link", "set", "br0", "up")
    container.run("ip", "link", "set", "eth0", "address", CLIENT.mac)
    own = bytes.fromhex(CLIENT.mac.replace(":", ""))

    def to_itself(sent: Sent) -> list[bytes]:
        kind = Kind.OFFER if sent.kind is Kind.DISCOVER else Kind.ACK
        return [own * 2 + answer(kind, USUAL, xid=sent.xid, mac=sent.chaddr, address="192.0.2.66")[12:]]

    async def scenario(told: Told) -> None:
        with pytest.raises(HostError, match="no DHCP server answered"):
            await told.client.acquire(other_client(link="br0", listen=("pair0",)), timeout_s=3)

    with rogue(lan, to_itself, container) as seen:
        on(lan, scenario)
    assert seen, "it was asked"


def wrong(sent: Sent) -> list[bytes]:
    """Write answers that are wrong in one way each, and chaff; any one that is taken leads to 192.0.2.66 or nowhere."""
    found = []
    for kind in (Kind.OFFER, Kind.ACK):
        right = {"xid": sent.xid, "mac": sent.chaddr, "address": "192.0.2.66"}
        faults: list[dict[str, Any]] = [
            {"xid": sent.xid ^ 1},
            {"mac": "02:42:00:00:00:06"},
            {"op": 1},
            {"cookie": bytes(4)},
            {"port": 69},
            {"address": "0.0.0.0"},
            {"options": {**USUAL, 61: b"\xffother"}},
            {"options": {**USUAL, 51: bytes(4)}},
            {"options": {51: USUAL[51]}},
            {"options": b"\x0c\xff"},
        ]
        found += [answer(kind, **{"options": USUAL, **right, **fault}) for fault in faults]
        good = answer(kind, USUAL, **right)
        fragment = bytearray(good)
        fragment[20:22] = b"\x20\0"
        tagged = good[:12] + b"\x81\0\0\7" + good[12:]
        found += [bytes(fragment), tagged, *(good[:size] for size in range(14, len(good), 9))]
    found.append(answer(Kind.NAK, {54: USUAL[54]}, xid=sent.xid, mac=sent.chaddr))
    head = good[:42]
    return found + [head + random.randbytes(random.randrange(500)) for _ in range(100)]


def test_wrong_answers_change_nothing(lan: Lan) -> None:
    """They come before the server's own, which waits a second; the flood goes on while a lease is renewed."""
    lan.server.start("--dhcp-reply-delay=1")

    async def scenario(told: Told) -> None:
        lease = await told.client.acquire(CLIENT, timeout_s=5)
        assert str(lease.server) == SERVER and ip(lease) in lan.server.leases
        lan.settle(lease)
        told.client.keep("web", CLIENT, soon(lease))
        assert ip(await told.renewed()) == ip(lease)

    with rogue(lan, wrong) as seen:
        on(lan, scenario)
    assert seen[0].kind is Kind.DISCOVER and seen[-1].ciaddr != "0.0.0.0"


def test_the_server_that_offered_decides(lan: Lan) -> None:
    """Others may say what they like; its own answer may have a tag that only says a priority."""

    def frames(sent: Sent) -> list[bytes]:
        right: dict[str, Any] = {"xid": sent.xid, "mac": sent.chaddr, "address": "192.0.2.66"}
        kind = Kind.OFFER if sent.kind is Kind.DISCOVER else Kind.ACK
        one = answer(kind, USUAL, **right)
        other = {**USUAL, 54: IPAddress("192.0.2.67").packed}
        others = [answer(no, other, **{**right, "address": "192.0.2.99"}) for no in (Kind.NAK, Kind.ACK)]
        return [*others, one[:12] + b"\x81\0\xe0\0" + one[12:]]

    async def scenario(told: Told) -> None:
        assert ip(await told.client.acquire(CLIENT)) == "192.0.2.66"

    with rogue(lan, frames) as seen:
        on(lan, scenario)
    assert len(seen) == 2


def test_what_follows_from_a_lease_may_fail(lan: Lan) -> None:
    """It is renewed all the same; and whoever is told of it may forget it."""

    def frames(sent: Sent) -> list[bytes]:
        kind = Kind.OFFER if sent.kind is Kind.DISCOVER else Kind.ACK
        options = {**USUAL, 58: bytes([0, 0, 0, 1])}
        return [answer(kind, options, xid=sent.xid, mac=sent.chaddr, address="192.0.2.66")]

    async def scenario(told: Told) -> None:
        calls: list[str] = []

        async def changed(owner: str, lease: DhcpLease | None) -> None:
            calls.append(ip(lease))
            if len(calls) == 1:
                raise RuntimeError("of no interest here")
            client.forget(owner)
            await asyncio.sleep(0)
            calls.append("end")

        client = LeaseManager(changed)
        client.keep("web", CLIENT, soon(await client.acquire(CLIENT)))
        assert await later(lambda: len(calls) == 3)
        assert calls == ["192.0.2.66", "192.0.2.66", "end"]

    with rogue(lan, frames):
        on(lan, scenario)


def test_a_server_that_does_not_confirm_is_not_asked_in_a_loop(lan: Lan) -> None:
    """It refuses what it offers: asked again after pauses that grow, and the end says so."""

    def frames(sent: Sent) -> list[bytes]:
        kind, more = (Kind.OFFER, {}) if sent.kind is Kind.DISCOVER else (Kind.NAK, {56: b"go\naway"})
        return [answer(kind, {**USUAL, **more}, xid=sent.xid, mac=sent.chaddr, address="192.0.2.66")]

    async def scenario(told: Told) -> None:
        with pytest.raises(HostError) as caught:
            await told.client.acquire(CLIENT, timeout_s=2)
        assert str(caught.value) == (
            'no DHCP server gave an address on link "lan0" within 2 seconds: 192.0.2.66 refused 192.0.2.66: go?away'
        )

    with rogue(lan, frames) as seen:
        on(lan, scenario)
    assert 2 <= len([one for one in seen if one.kind is Kind.DISCOVER]) <= 6
