"""Addresses from the LAN's DHCP server, which is Debian's dnsmasq on the router."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.lab import Lab
from tests.lab.lan import Site
from tests.lab.netns import Plug, connect
from tests.lab.wait import eventually
from tests.netns.test_dhcp import Server

from .test_macvlan import every, links_on, reaches

pytestmark = [
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="no dnsmasq here: make deps installs dnsmasq-base"),
]

RANGE = "198.51.100.100,198.51.100.120,255.255.255.0,120"
OPTIONS = ("--dhcp-option=option:mtu,1400", f"--dhcp-option=121,10.8.0.0/16,{Site.PEER4},0.0.0.0/0,{Site.ROUTER4}")
LEASED = ("--ipam-driver", "null", "-o", "dhcp=true")
PARENT = ("-o", f"parent={Site.PARENT}")
MACVLAN = ("-o", "backend=macvlan", *PARENT, *LEASED)
MAC = "02:00:5e:00:00:09"


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[Server]:
    """A server that serves nobody yet."""
    made = Server(site.router, tmp_path / "dhcp")
    yield made
    made.stop()


def address(lab: Lab, container: str) -> str:
    """What the container itself says that it has."""
    lines = lab.inside(container, "ip", "-4", "addr", "show", "eth0").splitlines()
    found = [line.split()[1] for line in lines if "inet " in line]
    assert len(found) == 1 and found[0].endswith("/24"), found
    return found[0].partition("/")[0]


@contextmanager
def uplinked_bridge(lab: Lab, site: Site) -> Iterator[str]:
    """A bridge of the administrator's with a port on the LAN."""
    connect(Plug(site.switch, "second"), Plug(lab.host, "up0"))
    try:
        site.switch.run("ip", "link", "set", "second", "master", "br0")
        lab.host.run("ip", "link", "add", "brlan", "up", "type", "bridge")
        lab.host.run("ip", "link", "set", "up0", "master", "brlan")
        yield "brlan"
    finally:
        lab.host.run("ip", "link", "delete", "brlan", check=False)
        lab.host.run("ip", "link", "delete", "up0", check=False)


def life(lab: Lab, site: Site, server: Server, *network: str, mtu: str = "1400") -> None:
    """Go through the life of a network whose containers get what the server grants."""
    server.start(*OPTIONS, leases=RANGE)
    lab.network("lan", *network)
    lab.web("one", "--network", "lan")
    lab.web("two", "--network", "lan")
    one, two = address(lab, "one"), address(lab, "two")
    assert one != two and {one, two} == set(server.leases)
    assert lab.addresses("one", "lan")["IPAddress"] == one
    routes = lab.inside("one", "ip", "route").splitlines()
    assert any(line.startswith(f"default via {site.ROUTER4} ") for line in routes), routes
    assert any(line.startswith(f"10.8.0.0/16 via {site.PEER4} ") for line in routes), routes
    assert lab.inside("one", "cat", "/sys/class/net/eth0/mtu") == mtu
    assert lab.page(site.peer, f"http://{one}/hostname") == "one"
    targets = (site.PEER4, site.BEYOND4, two)
    assert reaches(lab, "one", *targets) == every(*targets)
    assert lab.fetches("one", "http://two/hostname") == "two"
    _, _, _, name, client_id = server.leases[one]
    assert name.startswith("pynet-") and client_id != "*"
    # A container that starts again is the same machine to the server.
    lab.docker("restart", "-t0", "one")
    assert address(lab, "one") == one
    assert lab.page(site.peer, f"http://{one}/hostname") == "one"
    lab.docker("rm", "-f", "one", "two")
    assert eventually(lambda: not server.leases)
    lab.docker("network", "rm", "lan")


def test_macvlan_containers_have_leases(lab: Lab, site: Site, server: Server) -> None:
    """Address, gateway, routes (121), MTU (26), name and client id; kept over a restart, released with it."""
    life(lab, site, server, *MACVLAN)


def test_containers_on_an_adopted_bridge_have_leases(lab: Lab, site: Site, server: Server) -> None:
    """The same where the bridge has an uplink to the server."""
    with uplinked_bridge(lab, site) as bridge:
        life(lab, site, server, *LEASED, "-o", f"com.docker.network.bridge.name={bridge}")


@pytest.mark.needs_kernel("ipvlan")
def test_ipvlan_containers_have_leases(lab: Lab, site: Site, server: Server) -> None:
    """The same with the parent's MAC, told apart by client id."""
    life(lab, site, server, "-o", "backend=ipvlan", *PARENT, *LEASED)
    assert links_on(lab) == []


@pytest.mark.once
def test_a_given_mac_is_what_the_server_knows(lab: Lab, site: Site, server: Server) -> None:
    """So reservations hold: by MAC, after the container was made anew, too."""
    server.start(*OPTIONS, f"--dhcp-host={MAC},198.51.100.77,reserved", leases=RANGE)
    lab.network("lan", *MACVLAN)
    for _ in range(2):
        lab.run("one", "--network", "lan", "--mac-address", MAC)
        assert address(lab, "one") == "198.51.100.77"
        assert server.leases["198.51.100.77"][1] == MAC
        said = lab.refused("run", "--rm", "--network", "lan", "--mac-address", MAC, "busybox", "true")
        assert f"another container of the network has MAC {MAC}" in said
        lab.docker("rm", "-f", "one")


@pytest.mark.once
def test_leases_are_renewed_also_by_the_next_daemon(lab: Lab, site: Site, server: Server) -> None:
    """At T1, which the server sets to some seconds; a daemon that was killed goes on where it was."""
    server.start("--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100", leases=RANGE)
    lab.network("lan", *MACVLAN)
    lab.web("one", "--network", "lan")
    mine = address(lab, "one")

    def acknowledged() -> int:
        return server.log.count(f"DHCPACK(eth0) {mine}")

    assert acknowledged() == 1
    assert eventually(lambda: acknowledged() >= 2)
    lab.daemon.kill()
    before = acknowledged()
    lab.daemon.start()
    assert eventually(lambda: acknowledged() > before)
    assert address(lab, "one") == mine and lab.page(site.peer, f"http://{mine}/hostname") == "one"


@pytest.mark.once
def test_a_lease_that_the_server_refuses_is_replaced(lab: Lab, site: Site, server: Server) -> None:
    """NAK at the renewal: the container loses the address at once and gets one that the server gives."""
    hurry = ("--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100")
    server.start(*hurry, leases=RANGE)
    lab.network("lan", *MACVLAN)
    lab.web("one", "--network", "lan")
    mine = address(lab, "one")
    server.forget()
    server.start(*hurry, "--dhcp-authoritative", leases="198.51.100.150,198.51.100.160,255.255.255.0,120")
    assert eventually(lambda: address(lab, "one") != mine, timeout_s=15)
    new = address(lab, "one")
    assert new in server.leases and lab.page(site.peer, f"http://{new}/hostname") == "one"
    assert lab.pings("one", site.BEYOND4)


@pytest.mark.once
def test_without_a_server_no_container_starts(lab: Lab, site: Site) -> None:
    """`docker run` says so after a bounded wait, and nothing is left of it."""
    lab.network("lan", *MACVLAN)
    begin = time.monotonic()
    said = lab.refused("run", "--rm", "--network", "lan", "busybox", "true")
    assert time.monotonic() - begin < 20
    assert f'no DHCP server answered on link "{site.PARENT}" within 10 seconds' in said, said
    assert lab.rows("endpoint", "tenant") == []
    assert links_on(lab) == []


@pytest.mark.once
def test_dhcp_contradicts_other_addresses(lab: Lab, site: Site) -> None:
    """With another IPAM it is refused with what to do instead."""
    create = ("network", "create", "-d", "pynet", "-o", "backend=macvlan", *PARENT, "-o", "dhcp=true")
    for ipam in ((), ("--ipam-driver", "pynet"), ("--subnet", "10.66.0.0/24")):
        said = lab.refused(*create, *ipam, "x1")
        assert "--ipam-driver null" in said and "\n" not in said


@pytest.mark.once
def test_host_and_containers_with_leases_reach_each_other(lab: Lab, site: Site, server: Server) -> None:
    """By the host's own LAN address, since its link there has no other."""
    server.start(*OPTIONS, leases=RANGE)
    lab.network("lan", *MACVLAN, "-o", "host_access=true")
    lab.web("one", "--network", "lan")
    mine = address(lab, "one")
    assert lab.page(lab.host, f"http://{mine}/hostname") == "one"
    assert lab.pings("one", site.HOST4)
    assert lab.page(site.peer, f"http://{mine}/hostname") == "one"


@pytest.mark.parametrize("containers", ["die", "live"])
def test_containers_have_their_leases_after_the_engine_was_killed(
    lab: Lab, site: Site, server: Server, containers: str
) -> None:
    """Those that start by themselves, in any order, while the former ones may still be dying: each has its own."""
    server.start(*OPTIONS, leases=RANGE)
    lab.network("lan", *MACVLAN)
    names = ("one", "two", "three")
    for number, name in enumerate(names):
        lab.run(name, "--network", "lan", "--restart", "always", "-p", f"808{number}:80")
    before = {name: address(lab, name) for name in names}
    (lab.engine.crash if containers == "die" else lab.engine.kill)()
    lab.engine.start()

    def after() -> dict[str, str]:
        return {name: address(lab, name) for name in names}

    assert eventually(after, timeout_s=60) == before
