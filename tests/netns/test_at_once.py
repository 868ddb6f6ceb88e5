"""Much at once: what is asked of the kernel at the same time is answered to everybody."""

import asyncio
import contextlib
import errno
import json
from concurrent.futures import ThreadPoolExecutor

from netaddr import IPAddress, IPNetwork

from pynetdriver.kernel import objects
from pynetdriver.kernel import watch as watching
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.tables import of
from pynetdriver.kernel.watch import Watch
from pynetdriver.nlmsg import ERROR
from pynetdriver.plan import Address, Bridge, Hairpin, Owner, Plan, Route, Up, Veth

from .host import Host
from .inside import inside

#: As many as a host has that runs some hundred containers: a list of them does not fit into one message.
BATCH = "\n".join(
    line
    for number in range(400)
    for line in (
        f"link add other{number} type bridge",
        f"address add 198.18.{number // 250}.{number % 250 + 1}/32 dev other{number}",
        f"route add blackhole 198.19.{number // 250}.{number % 250 + 1}/32",
    )
)


def make_network(host: Host, number: int) -> None:
    """Make and remove a network as the engine does for `--ipam-driver pynet --ipv6`."""
    id, data = f"{number:04x}" * 16, {}
    for version in (4, 6):
        pool = host.ok("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "V6": version == 6})
        asked = {"PoolID": pool["PoolID"], "Options": {"RequestAddressType": "com.docker.network.gateway"}}
        gateway = host.ok("IpamDriver.RequestAddress", asked)["Address"]
        data[version] = [{"AddressSpace": "pynet-local", "Pool": pool["Pool"], "Gateway": gateway}]
    host.ok("CreateNetwork", {"NetworkID": id, "Options": {}, "IPv4Data": data[4], "IPv6Data": data[6]})


def test_networks_are_made_at_the_same_time(host: Host) -> None:
    """No network fails because the host's addresses and routes are listed for another one."""
    host.netns.run("ip", "-batch", "-", input=BATCH)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: make_network(host, number), range(1, 21)))
    there = json.loads(host.netns.run("ip", "-j", "link", "show", "type", "bridge"))
    assert sum(one["ifname"].startswith("pn-") for one in there) == 20
    assert "Traceback" not in host.daemon.log


def test_a_look_waits_for_the_one_before_it(host: Host) -> None:
    """Looks that overlap are no damage, and none is lost."""
    host.netns.run("ip", "-batch", "-", input=BATCH)
    inside(host.netns, look_over_and_over)


def test_nothing_is_kept_of_what_was_answered(host: Host) -> None:
    """Memory does not grow with the calls: no message is left in a queue of the netlink library, whatever was asked."""
    inside(host.netns, ask_over_and_over)


def ask_over_and_over() -> None:
    async def run() -> None:
        netlink, bridge = Netlink(), Bridge("pn-000000000000", "02:42:00:00:00:01", 1500)
        veth = Veth("pnh000000000000", "pnc000000000000", "02:42:00:00:00:02", 1500, bridge.name, isolated=True)
        made = (
            bridge,
            veth,
            Address(bridge.name, IPNetwork("10.9.0.1/24")),
            Route(bridge.name, IPAddress("10.9.1.1")),
            Hairpin(veth.name),
            Up(bridge.name),
        )
        for _ in range(50):
            for one in made:
                await of(one, objects.KINDS)(netlink).ensure(one)
            assert await netlink.is_local(IPAddress("10.9.0.1")) and not await netlink.is_local(IPAddress("192.0.2.1"))
            assert await netlink.is_in_use(bridge.name) and await netlink.describe(veth.name)
            with contextlib.suppress(TimeoutError):  # a call whose time is up
                async with asyncio.timeout(0):
                    await netlink.describe(veth.name)
        await netlink.remove_link(veth.name, veth.kind)
        await asyncio.sleep(0.2)
        queues = netlink.requests.msg_queue.queues
        assert {tag: queue.qsize() for tag, queue in queues.items() if tag or queue.qsize()} == {}
        await netlink.close()

    asyncio.run(run())


def look_over_and_over() -> None:
    async def run() -> None:
        watching._DATAGRAMS = 1
        health = Health()
        watch = Watch(health)
        refused, take = [], watch._route_message

        def noted(body: bytes, kind: int, flags: int, port: int) -> None:
            if kind == ERROR:
                refused.append(int.from_bytes(body[:4], "little", signed=True))
            take(body, kind, flags, port)

        watch._route_message = noted  # type: ignore[assignment,method-assign]
        for _ in range(200):
            watch.look()
            watch.read()
        while watch.read():
            pass
        assert -errno.EBUSY not in refused and not health.take()
        bridge = Bridge("pn-000000000000", "02:42:00:00:00:01", 1500)
        objects.expect(Plan(Owner.network("1"), objects=(bridge,)), health)
        watch.look()
        while watch.read():
            pass
        assert [one.what for one in health.take()] == ["bridge pn-000000000000 is gone"]

    asyncio.run(run())
