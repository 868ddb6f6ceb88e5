"""Links of others that bear a name of pynet's: neither changed nor removed, whatever is called."""

import json
from typing import Any

import pytest

from pynetdriver.names import LINK_GROUP
from tests.lab.wait import eventually

from .host import GENERIC, NETWORK, Host, endpoint, network

BRIDGE = "pn-9f9f9f9f9f9f"
HOST_END = "pnh000200020002"
GROUP = ("group", str(LINK_GROUP))


def named(name: str) -> Any:
    return {**network(), "Options": {GENERIC: {"com.docker.network.bridge.name": name}}}


def as_it_is(host: Host, name: str) -> Any:
    """Read everything about a link but its counters and what follows from its ports."""
    (link,) = json.loads(host.netns.run("ip", "-d", "-j", "address", "show", name))
    return {key: link.get(key) for key in ("ifindex", "address", "mtu", "group", "flags", "linkinfo", "addr_info")}


def test_start_leaves_links_of_others_with_names_of_ours(host: Host) -> None:
    """A bridge, a pair, a tap and a tun of somebody else outlive a start, whatever their names and groups."""
    host.daemon.kill()
    host.netns.run("ip", "link", "add", "pn-customernet1", "type", "bridge")
    host.netns.run("ip", "link", "add", "pnhcustomer0001", "type", "veth", "peer", "name", "pnccustomer0001")
    host.netns.run("ip", "tuntap", "add", "pnhypervisor001", "mode", "tap")
    host.netns.run("ip", "tuntap", "add", "pncloudtunnel01", "mode", "tun")
    host.netns.run("ip", "link", "set", "pnhypervisor001", *GROUP)
    before = host.state()
    host.daemon.start()
    assert host.state() == before


def test_the_host_end_alone_has_the_group(host: Host) -> None:
    """What the sandbox gets is as plain as any link."""
    host.ok("CreateNetwork", network())
    host.ok("CreateEndpoint", endpoint())
    links = host.state().links
    assert links[HOST_END]["group"] == links[BRIDGE]["group"] != "default"
    assert links["pnc000200020002"]["group"] == "default"


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_a_bridge_of_others_is_neither_adopted_nor_removed(host: Host, kind: str) -> None:
    """A link that took the name of a network's bridge while pynet was down stays through restart and removal."""
    host.ok("CreateNetwork", named("vpn0"))
    host.daemon.kill()
    host.netns.run("ip", "link", "delete", "vpn0")
    host.netns.run("ip", "link", "add", "vpn0", *(GROUP if kind == "veth" else ()), "type", kind)
    before = as_it_is(host, "vpn0")
    host.daemon.start()
    assert f'{kind} "vpn0" exists on this host' in host.daemon.log
    assert as_it_is(host, "vpn0") == before
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert as_it_is(host, "vpn0") == before and not host.state().rows
    assert "left alone" in host.daemon.log


def test_a_bridge_of_others_gets_no_ports_of_ours(host: Host) -> None:
    """Neither at a start nor for a new endpoint; once it is gone, the network is back with all its ports."""
    host.ok("CreateNetwork", named("vpn0"))
    host.attach()
    host.daemon.kill()
    host.netns.run("ip", "link", "delete", "vpn0")
    host.netns.run("ip", "link", "add", "vpn0", "type", "bridge")
    before = as_it_is(host, "vpn0")
    host.daemon.start()
    assert 'bridge "vpn0" exists on this host' in host.refused("CreateEndpoint", endpoint(3))
    assert as_it_is(host, "vpn0") == before
    assert host.state().links[HOST_END]["master"] is None
    host.netns.run("ip", "link", "delete", "vpn0")
    host.ok("CreateEndpoint", endpoint(3))
    eventually(lambda: host.state().links[HOST_END]["master"] == "vpn0")


def test_an_endpoint_is_refused_whose_link_is_of_others(host: Host) -> None:
    """A link that has the name of an endpoint's is a conflict, and undoing does not remove it."""
    host.ok("CreateNetwork", network())
    host.netns.run("ip", "link", "add", HOST_END, "type", "veth", "peer", "name", "theirs")
    before, link = host.state(), as_it_is(host, HOST_END)
    assert f'veth "{HOST_END}" exists on this host' in host.refused("CreateEndpoint", endpoint())
    assert host.state() == before and as_it_is(host, HOST_END) == link
