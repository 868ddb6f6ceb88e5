"""What cannot work on a parent: one sentence that names it and the way out, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import NETWORK, OTHER, Host, network
from .parents import (
    HOST4,
    HOST6,
    NEIGHBOUR4,
    PARENT,
    POOL6,
    SECOND4,
    SHIM,
    container,
    container_link,
    differences,
    endpoint_on,
    footprint,
    on_lan,
    on_parent,
)

THIRD = "7d" * 32


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """The neighbour of a host with the link lan0, by which its default route leads, and other links."""
    with on_lan(host) as neighbour:
        host.netns.write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        for command in (
            "link add br0 up type bridge",
            "link add port0 master br0 up type veth peer name peer0",
            "link set peer0 up",
            "link add down0 type bridge",
            "link add small0 mtu 1000 up type bridge",
        ):
            host.netns.run("ip", *command.split())
        host.netns.write_sysctl("net/ipv6/conf/default/disable_ipv6", "0")
        yield neighbour


def refused(host: Host, request: Any, *said: str, method: str = "CreateNetwork") -> None:
    before = footprint(host)
    sentence = host.refused(method, request)
    assert all(one in sentence for one in said), sentence
    assert not differences(footprint(host), before), sentence


def own(id: str = THIRD, **options: Any) -> Any:
    return on_parent(id, "10.7.0.0/24", **options)


REFUSED: dict[str, tuple[list[str], Any]] = {
    "missing": (['parent "gone0" is not on this host', "choose one of", PARENT], own(parent="gone0")),
    "missing under a VLAN": (['"gone0" under "gone0.50"', "choose one of"], own(parent="gone0.50")),
    "VLAN 4095": (["LINK.1 to LINK.4094"], own(parent=f"{PARENT}.4095")),
    "VLAN 0": (["LINK.1 to LINK.4094"], own(parent=f"{PARENT}.0")),
    "under a VLAN down": (['"down0" under "down0.5" is down', "ip link set down0 up"], own(parent="down0.5")),
    "port of a bridge": (['"port0" is a port of "br0"', "parent=br0"], own(parent="port0")),
    "lo": (['"lo"', "choose another"], own(parent="lo")),
    "pynet's own name": (['"pn-9f9f9f9f9f9f" is a link of pynet\'s own'], own(parent="pn-9f9f9f9f9f9f")),
    "a shim": (["link of pynet's own"], own(parent=SHIM)),
    "a bridge that pynet made": (['"web0" is a link of pynet\'s own', "choose another"], own(parent="web0")),
    "name too long": (["1 to 15"], own(parent="a" * 16)),
    "name with a slash": (["1 to 15"], own(parent="../lan0")),
    "larger than the parent": (['"lan0" has MTU 1500', "1501"], own(mtu="1501")),
    "too small for IPv6": (["1280 to 65535 with IPv6"], on_parent(THIRD, "", "fd00::/64", mtu="1279")),
    "parent too small for IPv6": (
        ['"small0" has MTU 1000', "IPv6 needs 1280"],
        on_parent(THIRD, "", "fd00::/64", parent="small0"),
    ),
    "mode": (['"bridged"', "bridge, private, vepa, passthru"], own(macvlan_mode="bridged")),
    "host access for nobody": (["true, false or an address"], own(host_access="perhaps")),
    "host access outside": (["host_access=10.8.0.5", "free address"], own(host_access="10.8.0.5")),
    "host access broadcast": (["host_access=10.7.0.255", "free address"], own(host_access="10.7.0.255")),
    "host access gateway": (["free address"], own(host_access="10.7.0.1", gateways=("10.7.0.1", ""))),
    "host access, private": (
        ["host_access contradicts macvlan_mode=private"],
        own(host_access="true", macvlan_mode="private"),
    ),
    "host access, passthru": (
        ["host_access contradicts macvlan_mode=passthru"],
        own(host_access="true", macvlan_mode="passthru"),
    ),
    "host access, internal": (["host_access contradicts --internal"], own(host_access="true", internal=True)),
    "overlap": (["overlaps 192.0.2.0/24", "another --subnet"], on_parent(THIRD, "192.0.2.128/25")),
    "itself": (["exists already"], on_parent(macvlan_mode="vepa")),
    "passthru where others are": (["macvlan_mode=passthru", "another parent"], own(macvlan_mode="passthru")),
    "the other kind": (
        ["carries macvlan network", "backend=macvlan", "parent=lan0.50"],
        own(backend="ipvlan"),
    ),
    "DHCP with addresses": (["dhcp=true", "--ipam-driver null"], own(dhcp="true")),
    "DHCP without a way": (["dhcp=true contradicts --internal"], on_parent(THIRD, "", dhcp="true", internal=True)),
    "DHCP in l3": (
        ["dhcp=true contradicts ipvlan_mode=l3", "l2"],
        on_parent(THIRD, "", backend="ipvlan", parent="br0", dhcp="true", ipvlan_mode="l3"),
    ),
    "option of the bridge": (
        ["belongs to backend bridge, not to macvlan"],
        own(**{"com.docker.network.bridge.enable_icc": "false"}),
    ),
    "option of ipvlan": (["backend=macvlan and ipvlan_mode (backend ipvlan) contradict"], own(ipvlan_mode="l2")),
    "ipvlan, which this kernel lacks": (
        ["cannot create ipvlan link", '"br0"', "this kernel lacks the module"],
        own(backend="ipvlan", parent="br0"),
    ),
}


def test_what_cannot_stand_on_a_parent_is_refused(host: Host, lan: Namespace) -> None:
    """Every sentence names what was asked and what to do; store, links, routes and switches stay as they are."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6, host_access="true", promiscuous="true"))
    named: Any = {"com.docker.network.bridge.name": "web0"}
    host.ok("CreateNetwork", network(OTHER, 8, **named))
    eventually(lambda: "NO-CARRIER" in host.netns.run("ip", "link", "show", "dev", "web0"))  # which is told late
    has_ipvlan = not host.netns.run("sh", "-c", "ip link add i0 link br0 type ipvlan 2>&1", check=False)
    host.netns.run("ip", "link", "delete", "i0", check=False)
    before, failures = footprint(host), []
    for case, (said, request) in REFUSED.items():
        if "lacks" in case and has_ipvlan:
            continue
        try:
            sentence = host.refused("CreateNetwork", request)
            missing = [one for one in said if one not in sentence]
        except AssertionError as failure:
            sentence, missing = str(failure), said
        if missing:
            failures.append(f"{case}: {sentence}")
        elif host.state() != before["state"]:
            failures.append(f"{case}: changed the state")
    assert not failures, "\n".join(failures)
    assert not differences(footprint(host), before)


def test_a_host_without_a_default_route_is_told_of_parents(host: Host) -> None:
    """Nothing is guessed."""
    refused(host, on_parent(), "no default route", "-o parent=LINK")


def test_a_parent_in_passthru_is_refused(host: Host, lan: Namespace) -> None:
    """Whoever made it so: the kernel's refusal is translated when the network is made."""
    host.netns.run("ip", "link", "add", "theirs", "link", PARENT, "type", "macvlan", "mode", "passthru")
    # Without an address of its own, which would come while the host is compared with what it was.
    for change in (("addrgenmode", "none"), ("up",)):  # in one message the kernel would bring it up first
        host.netns.run("ip", "link", "set", "theirs", *change)
    every: list[dict[str, Any]] = [{}, {"host_access": "true"}, {"promiscuous": "true"}]
    for options in every:
        refused(host, on_parent(**options), f'"{PARENT}"', "passthru", "another parent")


def test_passthru_is_refused_beside_links_of_others(host: Host, lan: Namespace) -> None:
    """The kernel gives a parent to one link alone."""
    host.netns.run("ip", "link", "add", "theirs", "link", PARENT, "type", "macvlan", "mode", "bridge")
    refused(host, on_parent(macvlan_mode="passthru"), f'"{PARENT}"', "passthru", "another parent")
    host.netns.run("ip", "link", "delete", "theirs")
    host.ok("CreateNetwork", on_parent(macvlan_mode="passthru"))
    refused(host, on_parent(OTHER, SECOND4), "macvlan_mode=passthru shares it with no other", "another parent")


@pytest.mark.parametrize("how", ["link delete", "link set name wan0 dev"])
def test_endpoints_on_a_parent_that_went_are_refused(host: Host, lan: Namespace, how: str) -> None:
    """Vanished or renamed after the network was made: one sentence, and once it is back all works."""
    host.ok("CreateNetwork", on_parent(host_access="true"))
    command = ["ip", *how.split(), PARENT]
    host.netns.run(*command)
    for _ in range(2):
        sentence = host.refused("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24"))
        assert f'parent "{PARENT}" is not on this host' in sentence and "bring it back" in sentence, sentence
    assert ("endpoint", "0002" * 16) not in host.state().rows and container_link(2) not in host.state().links
    if "name" in how:
        host.netns.run("ip", "link", "set", "wan0", "name", PARENT)
        host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24"))
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert SHIM not in host.state().links and not host.state().rows


ENDPOINTS = {
    "the host's address": (HOST4, ["this host's own", "--aux-address"]),
    "the host's IPv6 address": (HOST6, ["this host's own", "--aux-address"]),
    "the shim's address": ("192.0.2.254", ["this host's own"]),
    "the shim's IPv6 address": ("2001:db8:1::fffe", ["this host's own"]),
    "the gateway": (NEIGHBOUR4, ["is the gateway"]),
}


def test_addresses_of_the_host_are_no_containers(host: Host, lan: Namespace) -> None:
    """Neither those on the parent nor those of the host's own link there."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=(NEIGHBOUR4, ""), host_access="true"))
    for address, said in ENDPOINTS.values():
        request = endpoint_on(2, NETWORK, *(("", f"{address}/64") if ":" in address else (f"{address}/24", "")))
        refused(host, request, address, *said, method="CreateEndpoint")


def test_a_route_of_the_hosts_own_is_not_replaced(host: Host, lan: Namespace) -> None:
    """Somebody led the container's address elsewhere: the endpoint is refused with the route's link."""
    host.ok("CreateNetwork", on_parent(host_access="true"))
    host.netns.run("ip", "route", "add", "192.0.2.20/32", "dev", "br0", "scope", "link")
    refused(host, endpoint_on(2, NETWORK, "192.0.2.20/24"), "192.0.2.20", '"br0"', "remove it", method="CreateEndpoint")


def test_one_address_twice_is_refused(host: Host, lan: Namespace) -> None:
    """Naming who has it."""
    host.ok("CreateNetwork", on_parent())
    with container(host, 2, "192.0.2.20/24"):
        refused(
            host,
            endpoint_on(3, NETWORK, "192.0.2.20/24"),
            "192.0.2.20",
            "in use by endpoint 000200020002",
            method="CreateEndpoint",
        )
