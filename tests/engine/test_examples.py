"""Each of the compose files in `examples/`, with the traffic that it promises."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.lab import Lab
from tests.lab.lan import Site
from tests.lab.netns import Namespace
from tests.netns.test_dhcp import Server

from .test_bridge_options import seen_as

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parents[2] / "examples"
RANGE = "198.51.100.192/27"
FIRST, SECOND = "198.51.100.193", "198.51.100.194"
#: What a user writes into .env.
LAN = {"PARENT": Site.PARENT, "SUBNET": Site.SUBNET4, "GATEWAY": Site.ROUTER4, "RANGE": RANGE}


@contextmanager
def up(lab: Lab, example: Path, folder: Path, **settings: str) -> Iterator[str]:
    """Have an example run; gives what its containers' names begin with.

    Args:
        settings: what stands in its .env.
    """
    if not lab.engine.has_compose:
        pytest.skip(f"engine {lab.engine.version} has no compose v2")
    project = folder / example.name
    shutil.copytree(example, project)
    (project / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    lab.engine.compose(project, "up", "-d", "--quiet-pull")
    yield f"{example.name}-"
    lab.engine.compose(project, "down", "-t", "0")
    assert lab.docker("network", "ls", "-q", "--filter", "driver=pynet") == ""


@contextmanager
def routed(subnet: str, by: str, *machines: Namespace) -> Iterator[None]:
    """Give machines a route."""
    for one in machines:
        one.run("ip", "route", "add", subnet, "via", by)
    try:
        yield
    finally:
        for one in machines:
            one.run("ip", "route", "delete", subnet)


@contextmanager
def tagged(machine: Namespace, vid: int, address: str) -> Iterator[None]:
    """Put a machine into a VLAN too."""
    link = f"eth0.{vid}"
    machine.run("ip", "link", "add", "link", "eth0", "name", link, "up", "type", "vlan", "id", str(vid))
    machine.run("ip", "address", "add", address, "dev", link)
    try:
        yield
    finally:
        machine.run("ip", "link", "delete", link)


def test_web(lab: Lab, tmp_path: Path) -> None:
    """The application answers with what it asked of the database, which nobody else reaches."""
    with up(lab, EXAMPLES / "web", tmp_path) as project:
        for where, address in ((lab.neighbour, lab.lan.HOST4), (lab.host, "127.0.0.1")):
            assert "database: 42 rows" in (lab.page(where, f"http://{address}:8080/") or "")
        assert f":{lab.lan.NEIGHBOUR4}]" in (lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/") or "")
        app, database = f"{project}app-1", f"{project}database-1"
        assert lab.pings(app, lab.lan.NEIGHBOUR4) and not lab.pings(database, lab.lan.NEIGHBOUR4)
        address = lab.addresses(database, "web_inside")["IPAddress"]
        with routed(f"{address}/32", lab.lan.HOST4, lab.neighbour):
            assert lab.page(lab.neighbour, f"http://{address}/rows") is None
        lab.docker("network", "create", "-d", "pynet", "other")
        lab.run("stranger", "--network", "other")
        assert lab.fetches("stranger", f"http://{address}/rows") is None
        lab.docker("rm", "-f", "stranger")
        lab.docker("network", "rm", "other")


def test_dual_stack(lab: Lab, tmp_path: Path) -> None:
    """The published port and the container's own addresses answer by both families."""
    with up(lab, EXAMPLES / "dual-stack", tmp_path) as project:
        for address in (lab.lan.HOST4, f"[{lab.lan.HOST6}]"):
            assert lab.page(lab.neighbour, f"http://{address}:8080/hostname") == "server"
        for address in ("127.0.0.1", "[::1]"):
            assert lab.page(lab.host, f"http://{address}:8080/hostname") == "server"
        for address in ("10.60.0.80", "[fd00:60::80]", "server"):
            assert lab.fetches(f"{project}client-1", f"http://{address}/hostname") == "server"
        assert lab.pings(f"{project}client-1", lab.lan.NEIGHBOUR6)


def test_port_range(lab: Lab, tmp_path: Path) -> None:
    """Both ends answer at the one address and at no other, and no process stands behind a port."""
    with up(lab, EXAMPLES / "port-range", tmp_path, ADDRESS=lab.lan.HOST4):
        for port in (20000, 20999):
            assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{port}/hostname") == "server"
            assert lab.page(lab.neighbour, f"http://[{lab.lan.HOST6}]:{port}/hostname") is None
            assert lab.page(lab.host, f"http://127.0.0.1:{port}/hostname") is None
        assert "docker-proxy" not in lab.engine.machine.run("ps", "-e", "-o", "args")


def test_lan(lab: Lab, site: Site, tmp_path: Path) -> None:
    """The address that was asked for answers to the LAN and to the host, and the container reaches both."""
    with up(lab, EXAMPLES / "lan", tmp_path, **LAN, ADDRESS=SECOND) as project:
        for where in (site.peer, lab.host):
            assert lab.page(where, f"http://{SECOND}/hostname") == "server"
        for address in (site.PEER4, site.HOST4, site.BEYOND4):
            assert lab.pings(f"{project}server-1", address)


def test_lan_dhcp(lab: Lab, site: Site, tmp_path: Path) -> None:
    """The address that the server reserves for the MAC, with the server's way out."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("no dnsmasq here: make deps installs dnsmasq-base")
    server = Server(site.router, tmp_path / "dhcp")
    server.start(
        *("--dhcp-host=02:00:5e:00:00:50,198.51.100.77", f"--dhcp-option=option:router,{site.ROUTER4}"),
        leases="198.51.100.100,198.51.100.120,255.255.255.0,120",
    )
    try:
        with up(lab, EXAMPLES / "lan-dhcp", tmp_path, PARENT=site.PARENT) as project:
            assert lab.page(site.peer, "http://198.51.100.77/hostname") == "server"
            assert lab.pings(f"{project}server-1", site.BEYOND4)
    finally:
        server.stop()


def test_lan_pool(lab: Lab, site: Site, tmp_path: Path) -> None:
    """What another machine has is passed over, and that machine goes on answering."""
    site.peer.run("ip", "address", "add", f"{FIRST}/24", "dev", "eth0")
    try:
        with up(lab, EXAMPLES / "lan-pool", tmp_path, **LAN) as project:
            server = f"{project}server-1"
            assert lab.addresses(server, "lan-pool_lan")["IPAddress"] not in ("", FIRST)
            address = lab.addresses(server, "lan-pool_lan")["IPAddress"]
            assert lab.page(site.peer, f"http://{address}/hostname") == "server"
            assert lab.pings(server, FIRST)
    finally:
        site.peer.run("ip", "address", "delete", f"{FIRST}/24", "dev", "eth0")


def test_routed(lab: Lab, tmp_path: Path) -> None:
    """With the route the published port answers at the container's address, another port does not; no NAT outwards."""
    with up(lab, EXAMPLES / "routed", tmp_path) as project, routed("10.40.0.0/24", lab.lan.HOST4, lab.neighbour):
        assert lab.page(lab.neighbour, "http://10.40.0.80/hostname") == "server"
        assert lab.page(lab.host, "http://10.40.0.80:81/hostname") == "server"
        assert lab.page(lab.neighbour, "http://10.40.0.80:81/hostname") is None
        assert seen_as(lab, f"{project}server-1", lab.lan.NEIGHBOUR4) == "10.40.0.80"


@pytest.mark.needs_kernel("ipvlan")
def test_ipvlan_l3(lab: Lab, site: Site, tmp_path: Path) -> None:
    """Machines with the route reach the container at its own address, and it them."""
    with (
        up(lab, EXAMPLES / "ipvlan-l3", tmp_path, PARENT=site.PARENT) as project,
        routed("10.30.0.0/24", site.HOST4, site.peer, site.router),
    ):
        assert lab.page(site.peer, "http://10.30.0.80/hostname") == "server"
        assert lab.pings(f"{project}server-1", site.PEER4)


@pytest.mark.needs_kernel("8021q")
def test_vlans(lab: Lab, site: Site, tmp_path: Path) -> None:
    """Each is reached from its own VLAN, and not from the other one; the links go with the networks."""
    with (
        tagged(site.peer, 10, "10.10.0.1/24"),
        tagged(site.router, 20, "10.20.0.1/24"),
        up(lab, EXAMPLES / "vlans", tmp_path, PARENT=site.PARENT) as project,
    ):
        assert lab.page(site.peer, "http://10.10.0.80/hostname") == "office"
        assert lab.page(site.router, "http://10.20.0.80/hostname") == "cameras"
        assert lab.fetches(f"{project}office-1", "http://10.20.0.80/hostname") is None
        with routed("10.20.0.0/24", "10.10.0.80", site.peer):
            assert lab.page(site.peer, "http://10.20.0.80/hostname") is None
        assert {f"{site.PARENT}.{vid}" for vid in (10, 20)} <= {one["ifname"] for one in lab.links()}
