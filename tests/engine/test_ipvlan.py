"""ipvlan networks on a LAN with a switch, a second machine and a router; in the virtual machine."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.lab import Lab
from tests.engine.test_healing import EVERY_S, pinging
from tests.engine.test_safety import switched
from tests.lab.lan import Site
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .test_macvlan import ONE4, ONE6, SHIM4, V4, V6, every, links_on, none, reaches

pytestmark = pytest.mark.needs_kernel("ipvlan")

IPVLAN = ("-o", "backend=ipvlan", "-o", f"parent={Site.PARENT}")
#: Subnets of their own, to which the LAN's router has routes by the host.
ROUTED4, ROUTED6 = "10.66.0.0/24", "fd00:66::/64"
ROUTED = ("--subnet", ROUTED4, "--ipv6", "--subnet", ROUTED6)
FAR4, FAR6 = "10.66.0.2", "fd00:66::2"
#: Prints the ARP packets and neighbour solicitations that a link sends: python3 -c ASKS LINK SECONDS
ASKS = (
    "import socket,sys,time\n"
    "s=socket.socket(17,3,socket.htons(3));s.bind((sys.argv[1],3));print('up',flush=True)\n"
    "end=time.monotonic()+float(sys.argv[2])\n"
    "while (left:=end-time.monotonic())>0:\n"
    "  s.settimeout(left)\n"
    "  try: frame,where=s.recvfrom(99)\n"
    "  except TimeoutError: break\n"
    "  if frame[12:14]==b'\\x08\\x06' or frame[12:14]==b'\\x86\\xdd' and frame[20]==58 and frame[54]==135:\n"
    "    print(frame[12:].hex(),flush=True)"
)


@contextmanager
def routes(site: Site) -> Iterator[None]:
    """Have router and second machine send packets for the containers to the host, which for its part asks the router.

    The host's routes are what containers leave by, as far as they lead out by the parent.
    """
    back = ((ROUTED4, site.HOST4), (ROUTED6, site.HOST6))
    out = ((site.BEYOND4, site.ROUTER4), (site.BEYOND6, site.ROUTER6))
    ways = [(where, *way) for where, some in ((site.router, back), (site.peer, back), (site.host, out)) for way in some]
    for where, to, by in ways:
        where.run("ip", "route", "add", to, "via", by)
    try:
        yield
    finally:
        for where, to, _ in ways:
            where.run("ip", "route", "delete", to)


@contextmanager
def strict(lab: Lab) -> Iterator[None]:
    """What comes in has to come by the link by which the host would answer (RFC 3704)."""
    with (
        switched(lab.host, "net/ipv4/conf/all/rp_filter", "1"),
        switched(lab.host, f"net/ipv4/conf/{Site.PARENT}/rp_filter", "1"),
    ):
        yield


def pages(where: Namespace, *addresses: str) -> list[str]:
    """Fetch the page of each address."""
    urls = [f"http://{f'[{one}]' if ':' in one else one}/hostname" for one in addresses]
    return [where.run("curl", "-gsm2", url, check=False).strip() for url in urls]


def test_containers_are_on_the_lan_with_the_parents_mac(lab: Lab, site: Site) -> None:
    """l2: LAN, way out, siblings, names, host both ways, both families; a MAC of one's own is refused."""
    lab.network("lan", *IPVLAN, *V4, *V6, "-o", "host_access=true")
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    lab.run("two", "--network", "lan")
    assert pages(site.peer, ONE4, ONE6) == pages(lab.host, ONE4, ONE6) == ["one", "one"]
    (neighbour,) = json.loads(site.peer.run("ip", "-j", "neighbour", "show", ONE4))
    assert neighbour["lladdr"] == lab.mac(site.PARENT)
    targets = (site.PEER4, site.PEER6, site.BEYOND4, site.BEYOND6, "one", ONE6, site.HOST4, site.HOST6)
    assert reaches(lab, "two", *targets) == every(*targets)
    said = lab.refused("run", "--rm", "--network", "lan", "--mac-address", "02:00:5e:00:00:01", "busybox", "true")
    assert "containers on ipvlan share their parent's MAC" in said
    said = lab.refused("run", "--rm", "--network", "lan", "--ip", site.PEER4, "busybox", "true")
    assert f"address {site.PEER4} is in use on the LAN" in said
    # A flood over a kill of the daemon; then new containers.
    flood = ("ping", "-n", "-i", str(EVERY_S))
    from_host = lab.host.popen(*flood, ONE4, stdout=subprocess.PIPE)
    with pinging(from_host, lab.sandbox("two", *flood, site.PEER4, stdout=subprocess.PIPE)) as pings:
        lab.daemon.kill()
        time.sleep(0.3)
        lab.daemon.start()
    assert [one.lost for one in pings] == [0, 0]
    lab.docker("restart", "-t0", "one")
    assert eventually(lambda: pages(lab.host, ONE4, ONE6) == ["one", "one"])


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_routed_modes_have_no_arp(lab: Lab, site: Site, mode: str) -> None:
    """A LAN router with a route, the second machine, siblings and the host reach containers; these ask for nobody.

    All that with strict reverse paths. In l3s mode the host's firewall sees what comes in for containers, in l3 mode
    it does not.
    """
    lab.network("far", *IPVLAN, *ROUTED, "-o", f"ipvlan_mode={mode}", "-o", "host_access=true")
    lab.web("one", "--network", "far", "--ip", FAR4, "--ip6", FAR6)
    lab.run("two", "--network", "far")
    targets = (site.PEER4, site.PEER6, site.BEYOND4, site.BEYOND6, "one", FAR6, site.HOST4, site.HOST6)
    with routes(site), strict(lab):
        asks = ("python3", "-c", ASKS, "eth0", "3")
        with lab.sandbox("two", *asks, stdout=subprocess.PIPE) as asking:
            assert asking.stdout is not None and asking.stdout.readline() == b"up\n"
            assert reaches(lab, "two", *targets, wait_s=2) == every(*targets)
            assert asking.stdout.read() == b""
        assert pages(lab.host, FAR4, FAR6) == pages(site.peer, FAR4, FAR6) == ["one", "one"]
        assert lab.inside("two", "ip", "route").splitlines()[0].startswith("default dev eth0")
        drop = ("filter", "input", "{ type filter hook input priority 0; }")
        lab.host.run("nft", "add", "table", "ip", "filter7")
        try:
            lab.host.run("nft", "add", "chain", "ip", "filter7", *drop[1:])
            lab.host.run("nft", "add", "rule", "ip", "filter7", "input", "ip", "daddr", FAR4, "drop")
            seen = pages(site.peer, FAR4) == [""]
        finally:
            lab.host.run("nft", "delete", "table", "ip", "filter7")
        assert seen is (mode == "l3s")


@pytest.mark.parametrize("flag", ["private", "vepa"])
def test_flags_keep_siblings_apart(lab: Lab, site: Site, flag: str) -> None:
    """private: they never meet; vepa: by way of a switch that sends frames back."""
    lab.network("lan", *IPVLAN, *V4, *V6, "-o", f"ipvlan_flag={flag}")
    lab.run("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    lab.run("two", "--network", "lan")
    assert reaches(lab, "two", site.PEER4, ONE4, ONE6) == {site.PEER4: True, **none(ONE4, ONE6)}
    with site.reflecting():
        reflected = reaches(lab, "two", ONE4, ONE6, wait_s=3)
    assert reflected == (every if flag == "vepa" else none)(ONE4, ONE6)


def test_networks_share_a_parent_in_one_mode(lab: Lab, site: Site) -> None:
    """The built-in driver refuses a second network; here it has the shim in common, and another mode is refused."""
    lab.network("lan", *IPVLAN, *V4, "-o", "host_access=true")
    lab.network("more", *IPVLAN, "--subnet", ROUTED4, "-o", "host_access=true")
    lab.web("one", "--network", "lan", "--ip", ONE4)
    lab.web("two", "--network", "more", "--ip", FAR4)
    assert pages(lab.host, ONE4, FAR4) == ["one", "two"]
    (shim,) = [one for one in links_on(lab) if one.startswith("pns")]
    for options, word in (("ipvlan_mode=l3", "ipvlan_mode=l2"), ("ipvlan_flag=private", "ipvlan_flag=bridge")):
        said = lab.refused("network", "create", "-d", "pynet", *IPVLAN, "-o", options, "--subnet", "10.68.0.0/24", "x1")
        assert word in said and "the kernel has one of each for a parent" in said
    lab.docker("rm", "-f", "one")
    lab.docker("network", "rm", "lan")
    assert pages(lab.host, FAR4) == ["two"]
    assert [one for one in links_on(lab) if one.startswith("pns")] == [shim]


def test_host_access_with_strict_reverse_paths(lab: Lab, site: Site) -> None:
    """rp_filter=1 is loosened on an l2 network's parent, and put back.

    The kernel takes what containers send to the parent's addresses for arrived there, and the way back is another.
    """
    with strict(lab):
        lab.network("lan", *IPVLAN, *V4, "-o", f"host_access={SHIM4}")
        lab.web("one", "--network", "lan", "--ip", ONE4)
        assert pages(lab.host, ONE4) == ["one"]
        assert reaches(lab, "one", SHIM4, site.HOST4) == every(SHIM4, site.HOST4)
        lab.clean()
        assert lab.host.sysctl(f"net/ipv4/conf/{Site.PARENT}/rp_filter") == "1"
