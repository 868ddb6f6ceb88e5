"""macvlan networks on a LAN with a switch, a second machine and a router."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.lab import Lab
from tests.engine.test_healing import EVERY_S, pinging
from tests.lab.lan import Site
from tests.lab.wait import eventually

#: The containers' share of the LAN's addresses; the rest is the LAN's own.
V4 = ("--subnet", Site.SUBNET4, "--ip-range", "198.51.100.192/27", "--gateway", Site.ROUTER4)
V6 = ("--ipv6", "--subnet", Site.SUBNET6, "--ip-range", "2001:db8:2::c0/123", "--gateway", Site.ROUTER6)
MACVLAN = ("-o", "backend=macvlan", "-o", f"parent={Site.PARENT}")
SHIM4, SHIM6 = "198.51.100.223", "2001:db8:2::df"
ONE4, ONE6, ONE_MAC = "198.51.100.194", "2001:db8:2::c2", "02:00:5e:00:00:01"


def reaches(lab: Lab, container: str, *targets: str, wait_s: int = 1) -> dict[str, bool]:
    """Ask all at once which of the addresses and names a container reaches."""
    asks = "".join(f"(ping -c1 -W{wait_s} {target} >/dev/null 2>&1 && echo {target})& " for target in targets)
    answered = lab.inside(container, "sh", "-c", f"{asks} wait").split()
    return {target: target in answered for target in targets}


def none(*targets: str) -> dict[str, bool]:
    return dict.fromkeys(targets, False)


def every(*targets: str) -> dict[str, bool]:
    return dict.fromkeys(targets, True)


def parent_of(lab: Lab) -> dict[str, Any]:
    (link,) = [one for one in lab.links() if one["ifname"] == Site.PARENT]
    return link


def links_on(lab: Lab, parent: str = Site.PARENT) -> list[str]:
    return [str(one["ifname"]) for one in lab.links() if one.get("link") == parent]


@pytest.mark.protocol
def test_the_tutorials_session_is_two_commands(lab: Lab, site: Site) -> None:
    """Network and container: the LAN, the way out, host and container both ways, with both families, and by name."""
    lab.network(
        *("lan", *MACVLAN, *V4, *V6, "--aux-address", f"host={SHIM4}", "--aux-address", f"nas={ONE4[:-1]}3"),
        *("-o", "host_access=true"),
    )
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6, "--mac-address", ONE_MAC, "--network-alias", "uno")
    for where in (site.peer, lab.host):
        for address in (ONE4, f"[{ONE6}]"):
            assert lab.page(where, f"http://{address}/hostname") == "one", address
    (neighbour,) = json.loads(site.peer.run("ip", "-j", "neighbour", "show", ONE4))
    assert neighbour["lladdr"] == ONE_MAC
    targets = (
        *(site.PEER4, site.PEER6, site.BEYOND4, site.BEYOND6),
        *(site.HOST4, site.HOST6, SHIM4),
    )
    assert reaches(lab, "one", *targets) == every(*targets)
    lab.run("two", "--network", "lan")
    found = lab.addresses("two", "lan")
    assert found["IPAddress"] in {"198.51.100.192", "198.51.100.194", "198.51.100.195"}
    assert reaches(lab, "two", "one", "uno", ONE6) == every("one", "uno", ONE6)
    # The shim is there and has the address; the host keeps its own.
    (shim,) = links_on(lab)
    (link,) = [one for one in lab.links() if one["ifname"] == shim]
    assert SHIM4 in [one["local"] for one in link["addr_info"]]


def test_a_router_that_nobody_named_is_the_way_out_if_it_is_there(lab: Lab, site: Site) -> None:
    """Without --gateway the first address is it where a machine has that; else another network is the way out."""
    lab.network("lan", *MACVLAN, "--subnet", Site.SUBNET4)
    lab.network("own", *MACVLAN, "--subnet", "10.44.0.0/24")
    lab.network("inside", "--subnet", "10.6.0.0/24")
    lab.run("one", "--network", "lan", "--ip", ONE4)
    lab.run("two", "--network", "own")
    assert f"default via {site.ROUTER4} " in lab.inside("one", "ip", "route")
    assert reaches(lab, "one", site.BEYOND4) == every(site.BEYOND4)
    assert "default" not in lab.inside("two", "ip", "route")
    assert "eth1" not in lab.inside("two", "ip", "link")
    lab.docker("network", "connect", "inside", "two")
    assert "default via 10.6.0.1 " in lab.inside("two", "ip", "route")


FILE = """
services:
  front:
    image: busybox
    hostname: front
    command: httpd -f -p 80 -h /etc
    networks:
      lan: {{ipv4_address: {address}, aliases: [shop]}}
  client:
    image: busybox
    command: sleep 3600
    networks: [lan]
networks:
  lan:
    driver: pynet
    driver_opts: {{parent: {parent}, macvlan_mode: bridge, host_access: "true"}}
    ipam:
      config: [{{subnet: {subnet}, ip_range: 198.51.100.192/27, gateway: {gateway}}}]
"""


def test_a_compose_project_is_on_the_lan(lab: Lab, site: Site, tmp_path: Path) -> None:
    """As with the built-in driver, but for `driver: pynet` and host access; gone after down."""
    if not lab.engine.has_compose:
        pytest.skip(f"engine {lab.engine.version} has no compose v2")
    text = FILE.format(address=ONE4, parent=site.PARENT, subnet=site.SUBNET4, gateway=site.ROUTER4)
    (tmp_path / "compose.yaml").write_text(text)
    lab.engine.compose(tmp_path, "up", "-d")
    client = f"{tmp_path.name}-client-1"
    for name in ("front", "shop"):
        assert lab.fetches(client, f"http://{name}/hostname") == "front"
    for where in (site.peer, lab.host):
        assert lab.page(where, f"http://{ONE4}/hostname") == "front"
    lab.engine.compose(tmp_path, "down", "-t", "0")
    assert eventually(lambda: site.snapshot() == site.before)


@pytest.mark.once
def test_modes_differ_in_how_siblings_talk(lab: Lab, site: Site) -> None:
    """bridge: on the host; vepa: by a switch that sends frames back; private: not even then. All reach the LAN."""
    seen = {}
    for mode in ("bridge", "vepa", "private"):
        lab.network("lan", *MACVLAN, *V4, *V6, "-o", f"macvlan_mode={mode}")
        lab.run("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
        lab.run("two", "--network", "lan")
        direct = reaches(lab, "two", ONE4, ONE6)
        with site.reflecting():
            reflected = reaches(lab, "two", ONE4, ONE6, wait_s=2)
        seen[mode] = (direct, reflected)
        assert reaches(lab, "two", site.PEER4, site.BEYOND6) == every(site.PEER4, site.BEYOND6), mode
        lab.clean()
    yes, no = every(ONE4, ONE6), none(ONE4, ONE6)
    assert seen == {"bridge": (yes, yes), "vepa": (no, yes), "private": (no, no)}


@pytest.mark.once
def test_the_lan_is_told_whose_an_address_is_now(lab: Lab, site: Site) -> None:
    """A machine that remembers another MAC forgets it, which engines before 28 do not see to."""
    lab.network("lan", *MACVLAN, *V4, *V6)
    for address in (ONE4, ONE6):
        wrong = ("lladdr", "02:00:5e:00:00:77", "dev", "eth0", "nud", "stale")
        site.peer.run("ip", "neighbour", "replace", address, *wrong)
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6, "--mac-address", ONE_MAC)
    for address in (ONE4, ONE6):
        (known,) = json.loads(site.peer.run("ip", "-j", "neighbour", "show", address))
        assert known["lladdr"] == ONE_MAC, known


@pytest.mark.once
def test_host_access_in_vepa_mode_goes_by_the_switch(lab: Lab, site: Site) -> None:
    """Host and container reach each other only if the switch sends frames back."""
    lab.network("lan", *MACVLAN, *V4, "-o", "macvlan_mode=vepa", "-o", "host_access=true")
    lab.web("one", "--network", "lan", "--ip", ONE4)
    assert lab.page(lab.host, f"http://{ONE4}/hostname") is None
    with site.reflecting():
        assert lab.page(lab.host, f"http://{ONE4}/hostname") == "one"
        assert lab.pings("one", site.HOST4)


@pytest.mark.once
def test_passthru_is_for_one_container(lab: Lab, site: Site) -> None:
    """It has the parent's MAC and the LAN; a second one, and a second network, are refused and told why."""
    lab.network("lan", *MACVLAN, *V4, "-o", "macvlan_mode=passthru")
    lab.run("one", "--network", "lan")
    assert lab.inside("one", "cat", "/sys/class/net/eth0/address") == lab.mac(site.PARENT)
    assert lab.pings("one", site.PEER4)
    said = lab.refused("run", "--rm", "--network", "lan", "busybox", "true")
    assert "passthru" in said and site.PARENT in said, said
    other = ("--subnet", "10.66.0.0/24")
    said = lab.refused("network", "create", "-d", "pynet", *MACVLAN, *other, "second")
    assert "macvlan_mode=passthru shares it with no other" in said
    assert lab.pings("one", site.PEER4)
    lab.docker("rm", "-f", "one")
    lab.run("next", "--network", "lan")
    assert lab.pings("next", site.PEER4)


@pytest.mark.once
def test_networks_share_a_parent_and_its_shim(lab: Lab, site: Site) -> None:
    """Two networks, the second with two subnets: siblings and host reach all; the shim goes with the last."""
    lab.network("lan", *MACVLAN, *V4, "-o", "host_access=true")
    several = ("--subnet", "10.66.0.0/24", "--subnet", "10.67.0.0/24", "--ipv6", "--subnet", "fd00:66::/64")
    lab.network("more", *MACVLAN, *several, "-o", "host_access=10.66.0.9")
    lab.web("one", "--network", "lan", "--ip", ONE4)
    lab.web("two", "--network", "more", "--ip", "10.66.0.2", "--ip6", "fd00:66::2")
    lab.web("three", "--network", "more", "--ip", "10.67.0.3")
    (shim,) = [one for one in links_on(lab) if one.startswith("pns")]
    for name, address in (("one", ONE4), ("two", "10.66.0.2"), ("two", "[fd00:66::2]"), ("three", "10.67.0.3")):
        assert lab.page(lab.host, f"http://{address}/hostname") == name
    assert lab.pings("two", "10.66.0.9") and lab.pings("two", site.HOST4)
    assert lab.pings("three", "10.67.0.254")
    assert not lab.pings("three", "10.66.0.2")  # no router leads from subnet to subnet
    lab.docker("rm", "-f", "one")
    lab.docker("network", "rm", "lan")
    assert lab.page(lab.host, "http://10.66.0.2/hostname") == "two"
    assert lab.page(lab.host, f"http://{ONE4}/hostname") is None
    assert [one for one in links_on(lab) if one.startswith("pns")] == [shim]
    lab.docker("rm", "-f", "two", "three")
    lab.docker("network", "rm", "more")
    assert links_on(lab) == []


@pytest.mark.once
def test_the_host_gets_an_address_that_no_container_has(lab: Lab, site: Site) -> None:
    """The last of the pool, or of the range of pynet's own; it is refused to a container."""
    lab.network("lan", *MACVLAN, *V4, "-o", "host_access=true", "--ipam-driver", "pynet")
    (shim,) = links_on(lab)
    (link,) = [one for one in lab.links() if one["ifname"] == shim]
    (address,) = [one["local"] for one in link["addr_info"] if one["family"] == "inet"]
    assert address == SHIM4
    said = lab.refused("run", "--rm", "--network", "lan", "--ip", address, "busybox", "true")
    assert address in said, said
    said = lab.refused("run", "--rm", "--network", "lan", "--ip", site.HOST4, "busybox", "true")
    assert site.HOST4 in said, said
    lab.run("one", "--network", "lan")
    assert lab.pings("one", address)


def test_without_host_access_all_is_as_with_the_built_in_driver(lab: Lab, site: Site) -> None:
    """The same command with either driver: the same answers from LAN, siblings and host."""
    seen, both, fetch = [], (ONE4, f"[{ONE6}]"), ("curl", "-gsm0.7")
    for driver in ("macvlan", "pynet"):
        backend = ("-o", "backend=macvlan") if driver == "pynet" else ()
        lab.docker("network", "create", "-d", driver, *backend, "-o", f"parent={site.PARENT}", *V4, *V6, "lan")
        try:
            lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6, "-p", "8080:80")
            lab.run("two", "--network", "lan")
            there = [site.PEER4, site.PEER6, site.BEYOND4, site.BEYOND6, "one", ONE6, site.HOST4, site.HOST6]
            found: dict[str, object] = dict(reaches(lab, "two", *there))
            for name, where in (("peer", site.peer), ("host", lab.host)):
                found |= {f"{name} {one}": where.run(*fetch, f"http://{one}/hostname", check=False) for one in both}
            found["routes"] = [lab.inside("two", "ip", version, "route") for version in ("-4", "-6")]
            found["mtu"] = lab.inside("two", "cat", "/sys/class/net/eth0/mtu")
            seen.append(found)
        finally:
            lab.docker("rm", "-f", "one", "two")
            lab.docker("network", "rm", "lan")
    assert seen[0] == seen[1]
    assert seen[0]["peer " + ONE4] == "one\n" and seen[0]["host " + ONE4] == ""


@pytest.mark.once
def test_an_mtu_may_be_less_than_the_parents(lab: Lab, site: Site) -> None:
    """The container has it, and packets of that size pass; more than the parent has is refused."""
    lab.network("lan", *MACVLAN, *V4, "-o", "mtu=1400")
    lab.run("one", "--network", "lan")
    assert lab.inside("one", "cat", "/sys/class/net/eth0/mtu") == "1400"
    assert lab.pings("one", site.PEER4)
    said = lab.refused("network", "create", "-d", "pynet", *MACVLAN, "--subnet", "10.66.0.0/24", "-o", "mtu=9000", "x1")
    assert 'parent "lan1" has MTU 1500, so mtu cannot be 9000' in said


@pytest.mark.once
def test_promiscuity_is_counted_and_put_back(lab: Lab, site: Site) -> None:
    """On with the first network that wants it, off with the last; a parent that was promiscuous stays so."""

    def promiscuous() -> bool:
        return "PROMISC" in parent_of(lab)["flags"]

    wants = (*MACVLAN, "-o", "promiscuous=true")
    assert not promiscuous()
    lab.network("lan", *wants, *V4)
    lab.network("more", *wants, "--subnet", "10.66.0.0/24")
    assert promiscuous()
    lab.docker("network", "rm", "lan")
    assert promiscuous()
    lab.daemon.kill()
    lab.daemon.start()
    lab.docker("network", "rm", "more")
    assert not promiscuous()
    lab.host.run("ip", "link", "set", site.PARENT, "promisc", "on")
    try:
        lab.network("lan", *wants, *V4)
        lab.docker("network", "rm", "lan")
        assert promiscuous()
    finally:
        lab.host.run("ip", "link", "set", site.PARENT, "promisc", "off")


@pytest.mark.once
def test_killing_the_daemon_loses_no_packet(lab: Lab, site: Site) -> None:
    """kill -9 under running containers: LAN, siblings and host go on, new containers start after the next start."""
    lab.network("lan", *MACVLAN, *V4, *V6, "-o", "host_access=true", "--ipam-driver", "pynet")
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    lab.run("two", "--network", "lan")
    flood = ("ping", "-n", "-i", str(EVERY_S))

    def from_host(target: str) -> subprocess.Popen[bytes]:
        return lab.host.popen(*flood, target, stdout=subprocess.PIPE)

    def from_two(target: str) -> subprocess.Popen[bytes]:
        return lab.sandbox("two", *flood, target, stdout=subprocess.PIPE)

    with pinging(from_host(ONE4), from_host(ONE6), from_two(ONE4), from_two(site.PEER4)) as pings:
        lab.daemon.kill()
        time.sleep(0.5)
        assert lab.page(lab.host, f"http://{ONE4}/hostname") == "one"
        lab.daemon.start()
    assert [one.lost for one in pings] == [0, 0, 0, 0]
    lab.web("three", "--network", "lan", "--ip", "198.51.100.200")
    for where in (lab.host, site.peer):
        assert lab.page(where, "http://198.51.100.200/hostname") == "three"


def test_an_engine_that_restarts_or_dies_starts_its_containers_again(lab: Lab, site: Site) -> None:
    """Restart, kill -9, and a crash with all containers: host access is back with each container."""
    lab.network("lan", *MACVLAN, *V4, "-o", "host_access=true")
    lab.web("one", "--network", "lan", "--ip", ONE4, "--stop-timeout", "1")
    lab.web("always", "--stop-timeout", "1", "--network", "lan", "--ip", "198.51.100.200", "--restart", "always")

    def reached(name: str, address: str) -> None:
        for where in (lab.host, site.peer):
            assert eventually(lambda: lab.page(where, f"http://{address}/hostname") == name, timeout_s=20)  # noqa: B023

    lab.engine.restart()
    reached("always", "198.51.100.200")
    lab.docker("start", "one")
    reached("one", ONE4)
    lab.engine.kill()
    lab.engine.start()
    lab.docker("start", "one")
    reached("one", ONE4)
    lab.daemon.kill()
    lab.engine.crash()
    lab.daemon.start()
    lab.engine.start()
    lab.docker("start", "one")
    reached("one", ONE4)
    reached("always", "198.51.100.200")


@pytest.mark.once
def test_containers_outlive_a_parent_that_flaps(lab: Lab, site: Site) -> None:
    """Down and up again: LAN, siblings, names and host access are as before, without a restart of anything."""
    lab.network("lan", *MACVLAN, *V4, *V6, "-o", "host_access=true")
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    lab.run("two", "--network", "lan")
    lab.host.run("ip", "link", "set", site.PARENT, "down")
    assert not lab.pings("two", site.PEER4)
    lab.host.run("ip", "link", "set", site.PARENT, "up")

    def whole() -> bool:
        targets = (site.PEER4, site.PEER6, "one", site.HOST4, site.HOST6)
        assert reaches(lab, "two", *targets) == every(*targets)
        for address in (ONE4, f"[{ONE6}]"):
            for where in (lab.host, site.peer):
                assert lab.page(where, f"http://{address}/hostname") == "one", address
        return True

    assert eventually(whole)
    eventually(lambda: not lab.host.run("ip", "address", "show", "dev", site.PARENT, "tentative"))


@pytest.mark.once
def test_a_parent_that_vanished_is_followed_when_it_is_back(lab: Lab, site: Site) -> None:
    """The kernel takes all that stood on it, also out of containers; all is back without a restart of anything."""
    lab.network("lan", *MACVLAN, *V4, *V6, "-o", "host_access=true", "-o", "promiscuous=true")
    lab.web("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    lab.run("two", "--network", "lan")
    lab.host.run("ip", "link", "delete", site.PARENT)
    said = lab.refused("run", "--rm", "--network", "lan", "busybox", "true")
    assert f'"{site.PARENT}" is not on this host' in said
    site.plug_host()

    def whole() -> bool:
        for address in (ONE4, f"[{ONE6}]"):
            for where in (lab.host, site.peer):
                assert lab.page(where, f"http://{address}/hostname") == "one", address
        targets = ("one", ONE6, site.BEYOND4, site.BEYOND6, site.HOST4, site.HOST6)
        assert reaches(lab, "two", *targets) == every(*targets)
        return True

    assert eventually(whole)
    assert "PROMISC" in parent_of(lab)["flags"]
    lab.run("three", "--network", "lan")
    assert reaches(lab, "three", "one", site.HOST4) == every("one", site.HOST4)
    lab.clean()
    assert links_on(lab) == []
    assert parent_of(lab)["promiscuity"] == 0
    site.before = site.snapshot()
