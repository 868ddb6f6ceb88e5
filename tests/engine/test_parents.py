"""The link under a macvlan or ipvlan network: which one, refused why, asked before an address is used, kept inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.engine.lab import Lab
from tests.lab.lan import Site
from tests.lab.wait import eventually

from .test_macvlan import MACVLAN, ONE4, ONE6, V4, V6, every, links_on, none, reaches

ELSEWHERE = ("--subnet", "10.66.0.0/24")


@contextmanager
def ip(lab: Lab, add: str, undo: str) -> Iterator[None]:
    lab.host.run("ip", *add.split())
    try:
        yield
    finally:
        lab.host.run("ip", *undo.split(), check=False)


def refused(lab: Lab, *arguments: str) -> str:
    said = lab.refused("network", "create", "-d", "pynet", *arguments, "x1")
    assert "\n" not in said
    return said


@pytest.mark.once
def test_the_default_is_the_link_that_leads_out(lab: Lab) -> None:
    """Without `parent` it is that of the default route."""
    subnet = ("--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.128/25", "--gateway", lab.lan.NEIGHBOUR4)
    lab.network("lan", "-o", "macvlan_mode=bridge", *subnet)
    lab.web("one", "--network", "lan", "--ip", "192.0.2.130")
    assert lab.page(lab.neighbour, "http://192.0.2.130/hostname") == "one"
    assert not lab.pings("one", lab.lan.HOST4)


@pytest.mark.once
def test_parents_that_cannot_carry_a_network_are_refused(lab: Lab, site: Site) -> None:
    """Missing, down, a port of a bridge, pynet's own: one sentence each, with the way out."""
    macvlan = ("-o", "backend=macvlan", *ELSEWHERE, "-o")
    assert 'parent "nic7" is not on this host; choose one of' in refused(lab, *macvlan, "parent=nic7")
    assert site.PARENT in refused(lab, *macvlan, "parent=nic7")
    with ip(lab, "link add spare type veth peer name spare0", "link delete spare"):
        assert '"spare" under "spare.7" is down; bring it up first: ip link set spare up' in refused(
            lab, *macvlan, "parent=spare.7"
        )
        with ip(lab, "link add br7 up type bridge", "link delete br7"):
            lab.host.run("ip", "link", "set", "spare", "master", "br7", "up")
            assert 'is a port of "br7"' in refused(lab, *macvlan, "parent=spare")
    assert 'parent "lo" reaches no other machine' in refused(lab, *macvlan, "parent=lo")
    network = lab.network("bridge1", "--subnet", "10.67.0.0/24")
    assert "is a link of pynet's own" in refused(lab, *macvlan, f"parent=pn-{network[:12]}")
    said = refused(lab, *ELSEWHERE, "-o", f"parent={site.PARENT}")
    assert "macvlan" in said and "ipvlan" in said
    lab.network("lan", *MACVLAN, *V4)
    said = refused(lab, "-o", "backend=ipvlan", "-o", f"parent={site.PARENT}", *ELSEWHERE)
    assert "carries macvlan network" in said and "the kernel takes one kind on a link" in said
    assert "overlaps 198.51.100.0/24 of network" in refused(
        lab, *MACVLAN, "--subnet", "198.51.0.0/16", "--ipam-driver", "pynet"
    )


@pytest.mark.once
def test_what_a_parent_carries_of_others_is_told_apart(lab: Lab, site: Site) -> None:
    """Somebody else's macvlan links on the parent are left alone, and in passthru mode they are in the way."""
    with ip(lab, f"link add link {site.PARENT} name theirs type macvlan mode bridge", "link delete theirs"):
        lab.network("lan", *MACVLAN, *V4, "-o", "host_access=true")
        lab.run("one", "--network", "lan")
        assert lab.pings("one", site.PEER4)
        lab.clean()
        assert links_on(lab) == ["theirs"]
    with ip(lab, f"link add link {site.PARENT} name theirs type macvlan mode passthru", "link delete theirs"):
        said = refused(lab, *MACVLAN, *V4, "-o", "host_access=true")
        assert site.PARENT in said and "passthru" in said


@pytest.mark.once
def test_an_address_that_a_machine_of_the_lan_has_is_refused(lab: Lab, site: Site) -> None:
    """`docker run --ip` fails and names its MAC, IPv4 or IPv6; with conflict_check=false nobody is asked."""
    lab.network("lan", *MACVLAN, *V4, *V6)
    lab.network("unasked", *MACVLAN, *ELSEWHERE, "-o", "conflict_check=false")
    (link,) = json.loads(site.peer.run("ip", "-j", "link", "show", "eth0"))
    for option, address in (("--ip", site.PEER4), ("--ip6", site.PEER6)):
        said = lab.refused("run", "--rm", "--network", "lan", option, address, "busybox", "true")
        assert f'address {address} is in use on the LAN of "{site.PARENT}" by {link["address"]}' in said
    lab.run("one", "--network", "lan", "--ip", ONE4, "--ip6", ONE6)
    site.peer.run("ip", "address", "add", "10.66.0.9/24", "dev", "eth0")
    try:
        lab.run("two", "--network", "unasked", "--ip", "10.66.0.9")
    finally:
        site.peer.run("ip", "address", "delete", "10.66.0.9/24", "dev", "eth0")
    assert lab.rows("endpoint") and len(lab.rows("endpoint")) == 2


@pytest.mark.once
def test_pynets_own_addresses_pass_over_what_the_lan_has(lab: Lab, site: Site) -> None:
    """With --ipam-driver pynet the next free address is given, and the log says who has the one before."""
    held = [f"198.51.100.{number}" for number in (193, 194, 195, 197)]
    for one in held:
        site.peer.run("ip", "address", "add", f"{one}/24", "dev", "eth0")
    try:
        lab.network("lan", *MACVLAN, *V4, "--ipam-driver", "pynet")
        found = []
        for name in ("one", "two", "three"):
            lab.run(name, "--network", "lan")
            found.append(lab.addresses(name, "lan")["IPAddress"])
        assert not set(found) & set(held) and len(set(found)) == 3, found
        assert reaches(lab, "one", site.PEER4, "two", *held[:1]) == every(site.PEER4, "two", *held[:1])
    finally:
        for one in held:
            site.peer.run("ip", "address", "delete", f"{one}/24", "dev", "eth0")
    (link,) = json.loads(site.peer.run("ip", "-j", "link", "show", "eth0"))
    assert f"mac={link['address']}" in lab.daemon.log or link["address"] in lab.daemon.log


@pytest.mark.once
def test_an_internal_network_with_a_parent_has_no_way_out(lab: Lab, site: Site) -> None:
    """As with the built-in driver: its containers have no default route, and host access is refused."""
    lab.network("lan", *MACVLAN, *V4, "--internal")
    lab.run("one", "--network", "lan")
    lab.run("two", "--network", "lan")
    assert "default" not in lab.inside("one", "ip", "route")
    assert reaches(lab, "one", "two", site.BEYOND4, site.HOST4) == {"two": True, **none(site.BEYOND4, site.HOST4)}
    assert "host_access contradicts --internal" in refused(
        lab, *MACVLAN, *ELSEWHERE, "--internal", "-o", "host_access=true"
    )


@pytest.mark.needs_kernel("dummy", "ipvlan")
def test_an_internal_network_without_a_parent_is_on_a_dummy(lab: Lab, site: Site) -> None:
    """Its containers reach each other and nobody else, and the dummy goes with the network."""
    before = {one["ifname"] for one in lab.links()}
    lab.network("inner", "-o", "backend=ipvlan", "--internal", *ELSEWHERE)
    lab.run("one", "--network", "inner")
    lab.run("two", "--network", "inner", "--cap-add", "NET_ADMIN")
    (dummy,) = {one["ifname"] for one in lab.links()} - before
    assert "dummy" in lab.host.run("ip", "-d", "link", "show", dummy)
    lab.inside("two", "ip", "route", "add", "default", "via", "10.66.0.1")
    targets = (site.PEER4, site.HOST4, lab.lan.NEIGHBOUR4, lab.lan.HOST4)
    assert reaches(lab, "two", "one", *targets) == {"one": True, **none(*targets)}
    lab.clean()
    assert eventually(lambda: {one["ifname"] for one in lab.links()} == before)
