"""Nothing is passed over in silence: kinds of objects and intents, the end of a loop, what a plan no longer names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.firewall import chains, ruleset
from pynetdriver.kernel import objects
from pynetdriver.kernel.compare import differences
from pynetdriver.kernel.health import Health
from pynetdriver.plan import (
    Address,
    Bridge,
    Hairpin,
    LinkSysctl,
    Owner,
    Parent,
    Plan,
    Route,
    Up,
    Upper,
    Veth,
)
from tests.lab.daemon import Daemon
from tests.lab.wait import eventually

from .host import NETWORK, OTHER, PROGRAM, REVOKE, Host, ids, network, port, program
from .inside import inside
from .parents import NEIGHBOUR4, POOL4, on_lan, on_parent

#: Has the monitor end before its loops begin.
ENDING = """
import sys
from pynetdriver.__main__ import main
from pynetdriver.kernel.watch import Watch
def look(self): raise OSError(105, "no room")
Watch.look = look
main()
"""


#: How addresses of one link each, and multicast ones, begin.
LOCAL6 = (0xFE80, 0xFF00)


@dataclass(frozen=True)
class Unknown:
    link: str = "x"


def hairpin(host: Host, link: str = "pnh000200020002") -> bool:
    (found,) = json.loads(host.netns.run("ip", "-d", "-j", "link", "show", "dev", link))
    return bool(found["linkinfo"].get("info_slave_data", {}).get("hairpin"))


@pytest.mark.parametrize("last", [REVOKE, "Leave"])
def test_a_port_is_as_before_when_nothing_is_published(host: Host, last: str) -> None:
    """What a plan no longer names is taken back, also where something failed to be changed meanwhile."""
    host.ok("CreateNetwork", network(dual=True))
    host.attach(2, dual=True)
    before = host.state()
    assert not hairpin(host)
    host.ok(PROGRAM, program(2, port(8080)))
    assert hairpin(host)
    host.ok(last, ids(2))
    assert not hairpin(host)
    if last == REVOKE:
        assert host.state() == before
        host.ok(PROGRAM, program(2, port(8080)))
        host.netns.run("ip", "link", "set", "pnh000200020002", "nomaster")
        eventually(lambda: hairpin(host), timeout_s=30)
        host.ok(REVOKE, ids(2))
        assert not hairpin(host)


def test_an_unknown_kind_is_an_error(host: Host) -> None:
    """An object or intent that some part knows nothing of is never just not made."""
    inside(host.netns, apply_unknown)


def apply_unknown() -> None:
    from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
    from pynetdriver.kernel import Kernel
    from pynetdriver.kernel.netlink import Netlink

    unknown: Any = Unknown()
    plan = Plan(Owner.network("1"), objects=(unknown,))

    async def run() -> None:
        kernel = Kernel(Netlink(), NftablesFirewall(Nftables()))
        for work in (kernel.apply(plan), kernel.remove(plan), kernel.apply(Plan(plan.owner), plan)):
            with pytest.raises(AssertionError, match="Unknown"):
                await work
        await kernel.netlink.close()

    asyncio.run(run())
    for take in (objects.expect, objects.forget):
        with pytest.raises(AssertionError, match="Unknown"):
            take(plan, Health())
    for content in (ruleset.content, chains.content):
        with pytest.raises(AssertionError, match="Unknown"):
            content([unknown])


def test_what_a_new_plan_lacks_is_removed(host: Host) -> None:
    """Each kind of object that can be taken back is, while its owner stays."""
    host.netns.run("ip", "link", "add", "lan9", "type", "veth", "peer", "name", "far9")
    for link in ("lan9", "far9"):
        host.netns.run("ip", "link", "set", link, "up")
    inside(host.netns, change_plans)


def change_plans() -> None:
    from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
    from pynetdriver.kernel import Kernel
    from pynetdriver.kernel.netlink import Netlink

    mac = "02:42:00:00:00:01"
    bridge = Bridge("pn-000000000000", mac, 1500)
    veth = Veth("pnh000000000000", "pnc000000000000", "02:42:00:00:00:02", 1500, bridge.name, isolated=False)
    shim = Upper("macvlan", "pns000000000000", "lan9", (("mode", 4),), shared=True)
    route = Route(bridge.name, IPAddress("10.9.1.1"), IPAddress("10.9.0.1"))
    every = (
        *(Parent("lan9"), shim, Up(shim.name), Bridge("pn-000000000001", mac, 1500), veth, Hairpin(veth.name)),
        *(Address(bridge.name, IPNetwork("10.9.0.1/24")), Address(bridge.name, IPNetwork("fd00:9::1/64")), route),
        LinkSysctl("ipv4", bridge.name, "arp_filter", "1"),
    )
    former = Plan(Owner.network("1"), objects=(bridge, *every))

    async def run() -> None:
        kernel = Kernel(Netlink(), NftablesFirewall(Nftables()))

        async def state() -> tuple[set[str], set[str]]:
            # Link-local addresses come and go with the links, when these are ready.
            prefixes = {str(one) for one in await kernel.netlink.networks_in_use() if one.ip.words[0] not in LOCAL6}
            return kernel.netlink.links(), prefixes

        first = Plan(former.owner, objects=(bridge,))
        await kernel.apply(first)
        before = await state()
        for gone in (every, *((one,) for one in every)):
            await kernel.apply(former, first)
            assert differences([former]) == [] and await state() != before
            left = tuple(one for one in former.objects if one not in gone)
            await kernel.apply(Plan(former.owner, objects=left), former)
            if gone == every:
                assert await state() == before
            else:
                assert kernel.netlink.is_missing(gone[0].links) == bool(gone[0].links), gone
                # Others stay as they are, or were not made; a port went with its sandbox.
                is_damage = not isinstance(gone[0], Parent | Up | LinkSysctl | Veth)
                assert bool(differences([former])) == is_damage, gone
        await kernel.remove(former)
        await kernel.netlink.close()

    asyncio.run(run())


def test_the_end_of_the_watch_is_the_end_of_pynet(host: Host) -> None:
    """A daemon that would mend nothing ends with a sentence, so that whoever started it starts it again."""
    host.daemon.kill()
    state = host.daemon.state_dir
    ending = Daemon(host.netns, host.daemon.socket, state, command=(sys.executable, "-c", ENDING))
    with contextlib.suppress(RuntimeError):  # if it ended before it answered
        ending.start()
    if ending._process is not None:
        assert ending._process.wait(20) == 1
    last = ending.log.splitlines()[-1]
    assert last.startswith("Error: pynet cannot watch links and rules: OSError(105, 'no room')"), ending.log


def test_one_subnet_on_two_lans_asks_each_its_own(host: Host) -> None:
    """Pools of two address spaces may have the same subnet: who has an address on one LAN has it not on the other."""
    host.netns.run("ip", "link", "add", "lan1", "type", "veth", "peer", "name", "far1")
    for link in ("lan1", "far1"):
        host.netns.run("ip", "link", "set", link, "up")
    with on_lan(host):
        pools = {}
        for id, space, parent in ((NETWORK, "pynet-local", "lan0"), (OTHER, "pynet-global", "lan1")):
            pools[parent] = host.ok("IpamDriver.RequestPool", {"AddressSpace": space, "Pool": POOL4})["PoolID"]
            host.ok("CreateNetwork", on_parent(id, space=space, parent=parent))
        # With both there: the one that was made last must not be asked for both.
        for parent, pool in pools.items():
            given = [host.ok("IpamDriver.RequestAddress", {"PoolID": pool})["Address"] for _ in range(5)]
            assert (f"{NEIGHBOUR4}/24" in given) == (parent == "lan1"), (parent, given)
