"""What others do to a parent, to the host's own link there and to its routes, a crash and a reboot, are survived."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import SOON_S, eventually

from .host import NETWORK, OTHER, Host, endpoint_id, stopped
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
    container_link,
    differences,
    footprint,
    leave,
    on_lan,
    on_parent,
    reaches,
)
from .test_healing import LONG_S, mended

#: What makes the parent again after it was deleted.
LAY = (
    "link add lan0 address 02:00:00:00:00:05 type veth peer name eth0 netns {peer}",
    "address add 192.0.2.1/24 dev lan0",
    "address add 2001:db8:1::1/64 dev lan0 nodad",
)


class Busy:
    """A host whose two networks on lan0 have host access, with a container in a sandbox on each."""

    def __init__(self, host: Host, neighbour: Namespace, stack: ExitStack) -> None:
        self.host, self.neighbour = host, neighbour
        self.empty = footprint(host)
        options: Any = {"host_access": "true", "promiscuous": "true"}
        host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=(NEIGHBOUR4, NEIGHBOUR6), **options))
        host.ok("CreateNetwork", on_parent(OTHER, SECOND4, host_access="true"))
        self.first = stack.enter_context(container(host, 2, "192.0.2.20/24", "2001:db8:1::20/64"))
        self.second = stack.enter_context(container(host, 3, "198.51.100.20/24", network_id=OTHER))
        self.whole = self.picture()

    def picture(self) -> dict[str, Any]:
        """What has to be there again, whatever its number and in whatever order."""
        found = footprint(self.host)
        del found["neighbours"]
        for link in found["links"]:
            for name in ("ifindex", "link_index"):
                link.pop(name, None)
            link["addr_info"].sort(key=str)
        found["routes"] = sorted("\n".join(found["routes"]).splitlines())
        found["groups"] = sorted(line.lstrip("0123456789:") for line in found["groups"].splitlines())
        return found

    def heals(self, timeout_s: float = 10) -> None:
        """Wait until all is as it was, and works."""

        def is_whole() -> bool:
            difference = differences(self.picture(), self.whole)
            assert not difference, difference
            return True

        eventually(is_whole, timeout_s=timeout_s, every_s=0.02)

    def works(self) -> None:
        """Host and containers reach each other and the LAN."""
        for address in ("192.0.2.20", "2001:db8:1::20", "198.51.100.20", NEIGHBOUR4):
            assert reaches(self.host.netns, address), address
        for address in (HOST4, HOST6, NEIGHBOUR4, NEIGHBOUR6):
            assert reaches(self.first, address), address

    def end(self) -> None:
        """Nothing is left after the networks are gone."""
        leave(self.host, 2, sandbox=self.first)
        leave(self.host, 3, OTHER, self.second)
        for id in (NETWORK, OTHER):
            self.host.ok("DeleteNetwork", {"NetworkID": id})


@pytest.fixture
def busy(host: Host) -> Iterator[Busy]:
    with on_lan(host) as neighbour, ExitStack() as stack:
        made = Busy(host, neighbour, stack)
        time.sleep(LONG_S)
        assert not mended(host)
        yield made


DAMAGE = {
    "shim deleted": (f"link {SHIM} is gone", f"link delete {SHIM}"),
    "shim down": (f"link {SHIM} is down", f"link set {SHIM} down"),
    "shim's MAC": (f"link {SHIM} has the MAC", f"link set {SHIM} address 02:00:00:00:00:99"),
    "shim's address": ("address 192.0.2.254/32", f"address delete 192.0.2.254/32 dev {SHIM}"),
    "shim's IPv6 address": ("address 2001:db8:1::fffe/128", f"address delete 2001:db8:1::fffe/128 dev {SHIM}"),
    "shim flushed": ("address 192.0.2.254/32", f"address flush dev {SHIM} scope global"),
    "route": ("route 192.0.2.20", "route delete 192.0.2.20/32"),
    "IPv6 route": ("route 2001:db8:1::20", f"-6 route delete 2001:db8:1::20/128 dev {SHIM}"),
    "routes flushed": ("route 198.51.100.20", f"route flush dev {SHIM} proto 112"),
    # With what others put back, too.
    "parent down and up": (
        f"parent {PARENT} is back",
        f"link set {PARENT} down; ip link set {PARENT} up; ip route replace default via {NEIGHBOUR4};"
        f"ip -6 address replace {HOST6}/64 dev {PARENT} nodad; ip address replace fe80::1/64 dev {PARENT} nodad;"
        f"ip -6 route replace default via {NEIGHBOUR6}",
    ),
}


def says(host: Host, since: int, what: str) -> bool:
    return any(what in line for line in mended(host)[since:])


def test_damage_is_mended_within_a_second(busy: Busy) -> None:
    """Everything is as it was and works, containers have noticed nothing, and one line says what was damaged."""
    for said, command in DAMAGE.values():
        is_said = partial(says, busy.host, len(mended(busy.host)), said)
        busy.host.netns.run("sh", "-ec", f"ip {command}")
        eventually(is_said, timeout_s=SOON_S, every_s=0.02)
        busy.heals()
        busy.works()
    lines = len(mended(busy.host))
    time.sleep(LONG_S)
    assert len(mended(busy.host)) == lines and "[error" not in busy.host.daemon.log


def test_damage_while_nobody_watched(busy: Busy) -> None:
    """A daemon that was stopped finds all of it once it goes on."""
    with stopped(busy.host):
        for command in (f"route flush dev {SHIM}", f"-6 route flush dev {SHIM}", f"link delete {SHIM}"):
            busy.host.netns.run("ip", *command.split())
    busy.heals()


def lay_parent(busy: Busy) -> None:
    for command in LAY:
        busy.host.netns.run("ip", *command.format(peer=busy.neighbour.name).split())
    for address in (f"{NEIGHBOUR4}/24", f"{NEIGHBOUR6}/64"):
        nodad = ("nodad",) if ":" in address else ()
        busy.neighbour.run("ip", "address", "add", address, "dev", "eth0", *nodad)
    busy.neighbour.run("ip", "link", "set", "eth0", "up")
    busy.host.netns.run("ip", "link", "set", PARENT, "up")


def test_a_parent_that_comes_back_under_its_name(busy: Busy) -> None:
    """Shim, routes and promiscuity are put back; that it is gone is said once."""
    host = busy.host
    host.netns.run("ip", "link", "delete", PARENT)
    eventually(lambda: "containers on it are cut off" in host.daemon.log, timeout_s=SOON_S)
    time.sleep(1)
    assert host.daemon.log.count("containers on it are cut off") == 1
    assert "[error" not in host.daemon.log and not mended(host)
    lay_parent(busy)
    host.ok("Plugin.Activate", {})  # whereupon dead endpoints are looked for, just before the parent's are mended

    def is_back() -> bool:
        shim, before = host.state().links.get(SHIM, {}), busy.whole["state"].links[SHIM]
        assert shim and (shim["up"], shim["addresses"]) == (True, before["addresses"])
        for address in ("192.0.2.20", "198.51.100.20"):
            assert f"dev {SHIM}" in host.netns.run("ip", "route", "get", address)
        assert "PROMISC" in host.netns.run("ip", "link", "show", "dev", PARENT)
        return True

    eventually(is_back, timeout_s=SOON_S, every_s=0.02)
    # The containers' own links had gone with it.
    eventually(lambda: reaches(busy.first, HOST4, 1) and reaches(busy.second, "198.51.100.254", 1), timeout_s=10)
    host.ok("Plugin.Activate", {})  # whereupon dead endpoints are looked for
    time.sleep(LONG_S)
    assert {key for key in host.state().rows if key[0] == "endpoint"} == {
        ("endpoint", endpoint_id(number)) for number in (2, 3)
    }


@pytest.mark.parametrize("meanwhile", ["nothing", "damage"])
def test_a_crash_is_survived(busy: Busy, meanwhile: str) -> None:
    """The containers live on in their sandboxes, nothing is made a second time, and what is missing is put back."""
    host = busy.host
    host.daemon.kill()
    if meanwhile == "damage":
        host.netns.run("sh", "-ec", f"ip link delete {SHIM}; ip link set {PARENT} promisc off")
    busy.works() if meanwhile == "nothing" else None
    host.daemon.start()
    busy.heals()
    busy.works()
    assert not {container_link(2), container_link(3)} & set(host.state().links)
    busy.end()
    assert not differences(footprint(host), busy.empty)


def test_a_sandbox_that_died_is_collected(busy: Busy) -> None:
    """Also while the daemon was away; the other container stays."""
    host = busy.host
    host.daemon.kill()
    busy.first.close()
    host.daemon.start()

    def is_gone() -> bool:
        state = host.state()
        assert ("endpoint", endpoint_id(2)) not in state.rows and ("endpoint", endpoint_id(3)) in state.rows
        assert "192.0.2.20" not in host.netns.run("ip", "route", "show", "dev", SHIM)
        return True

    eventually(is_gone, timeout_s=SOON_S)
    assert reaches(host.netns, "198.51.100.20")


def test_after_a_reboot_networks_are_made_again(host: Host) -> None:
    """The parent comes without anything, perhaps later than the daemon: containers can be started on it."""
    with on_lan(host) as neighbour, ExitStack() as stack:
        busy = Busy(host, neighbour, stack)
        host.daemon.kill()
        for one in (busy.first, busy.second):
            one.close()
        host.netns.run("ip", "link", "delete", PARENT)
        host.daemon.start()
        assert "is not on this host (any more)" in host.daemon.log
        lay_parent(busy)
        eventually(lambda: host.state().links.get(SHIM, {}).get("up"), timeout_s=SOON_S)
        with container(host, 4, "192.0.2.40/24") as sandbox:
            assert reaches(host.netns, "192.0.2.40") and reaches(sandbox, HOST4) and reaches(sandbox, NEIGHBOUR4)
        host.ok("Plugin.Activate", {})
        eventually(lambda: not {("endpoint", endpoint_id(number)) for number in (2, 3)} & set(host.state().rows))
