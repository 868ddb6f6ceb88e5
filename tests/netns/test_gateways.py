"""Who is a network's gateway: nobody where none is needed, and on a LAN only a machine that is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import GENERIC, INTERNAL, NETWORK, Host, ids
from .parents import (
    NEIGHBOUR4,
    NEIGHBOUR6,
    PARENT,
    POOL4,
    POOL6,
    container,
    endpoint_on,
    join_in,
    on_lan,
    on_parent,
    reaches,
)

#: What the engine's IPAM takes for a gateway if it is given none: here nobody has it.
FIRST4, FIRST6 = "198.51.100.1", "2001:db8:2::1"
POOLS = ("198.51.100.0/24", "2001:db8:2::/64")


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """The neighbour of a host with the link lan0, by which its default route leads."""
    with on_lan(host) as neighbour:
        yield neighbour


@pytest.mark.parametrize(
    ("options", "internal", "skipped"),
    [
        ({}, False, set()),
        ({}, True, set()),
        ({"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}, True, {4}),
        ({"com.docker.network.bridge.gateway_mode_ipv6": "isolated"}, True, {6}),
        ({"com.docker.network.bridge.inhibit_ipv4": "true"}, True, {4}),
        ({"backend": "macvlan"}, False, set()),
        ({"backend": "macvlan"}, True, {4, 6}),
        ({"backend": "ipvlan"}, False, set()),
        ({"ipvlan_mode": "l3"}, False, {4, 6}),
    ],
)
def test_engines_are_told_which_networks_need_no_gateway(
    host: Host, options: dict[str, Any], internal: bool, skipped: set[int]
) -> None:
    """They ask only whoever announced that they may."""
    assert host.raw("NetworkDriver.GetCapabilities", b"")[1]["GwAllocChecker"] is True
    answer = host.ok("GwAllocCheck", {"Options": {GENERIC: options, **({INTERNAL: True} if internal else {})}})
    assert {4 * bool(answer.get("SkipIPv4")), 6 * bool(answer.get("SkipIPv6"))} - {0} == skipped


def test_a_network_without_gateways_takes_all_its_addresses(host: Host) -> None:
    """Two containers in a /31, of an isolated network that the engine asked about: they reach each other."""
    isolated: dict[str, Any] = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    host.ok("CreateNetwork", on_parent(pool4="10.9.0.0/31", internal=True, backend="bridge", **isolated))
    with container(host, 2, "10.9.0.0/31"), container(host, 3, "10.9.0.1/31") as other:
        assert reaches(other, "10.9.0.0")


@pytest.mark.parametrize("backend", ["macvlan", "bridge"])
def test_no_gateway_of_a_pool_of_pynets_is_held_unless_asked_for(host: Host, lan: Namespace, backend: str) -> None:
    """The first address is a container's where the engine requests none."""
    asked = {"AddressSpace": "pynet-local", "Pool": "10.7.0.0/24", "SubPool": "", "Options": {}, "V6": False}
    pool = host.ok("IpamDriver.RequestPool", asked)["PoolID"]
    isolated: dict[str, Any] = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    options: dict[str, Any] = {"backend": backend, **(isolated if backend == "bridge" else {"parent": PARENT})}
    host.ok("CreateNetwork", on_parent(pool4="10.7.0.0/24", space="pynet-local", internal=True, **options))
    given = host.ok("IpamDriver.RequestAddress", {"PoolID": pool, "Address": "", "Options": None})["Address"]
    assert given == "10.7.0.1/24"
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, given))


def test_nobody_is_no_default_route(host: Host, lan: Namespace) -> None:
    """A gateway that the IPAM driver chose is asked for; once a router has it, it is the way out and stays so."""
    host.ok("CreateNetwork", on_parent(NETWORK, *POOLS, gateways=(FIRST4, FIRST6), space="LocalDefault"))
    request = endpoint_on(2, NETWORK, "198.51.100.20/24", "2001:db8:2::20/64")
    host.ok("CreateEndpoint", request)
    host.ok("CreateEndpoint", request)
    with Namespace() as sandbox:
        answer = host.ok("Join", join_in(sandbox))
        assert not {"Gateway", "GatewayIPv6"} & set(answer) and answer["DisableGatewayService"]
        assert host.ok("Join", join_in(sandbox)) == answer
        assert "nobody on the LAN has the gateway" in host.daemon.log
    host.ok("DeleteEndpoint", ids(2))
    lan.run("ip", "address", "add", f"{FIRST4}/24", "dev", "eth0")
    host.restart()  # nobody who did not answer a moment ago is asked again at once
    with container(host, 2, "198.51.100.20/24", "2001:db8:2::20/64") as sandbox:
        assert sandbox.run("ip", "route", "show", "default").split()[2] == FIRST4
        assert not sandbox.run("ip", "-6", "route", "show", "default").strip()
    lan.run("ip", "address", "delete", f"{FIRST4}/24", "dev", "eth0")
    host.restart()
    host.ok("CreateEndpoint", endpoint_on(3, NETWORK, "198.51.100.30/24"))
    with Namespace() as sandbox:
        assert host.ok("Join", join_in(sandbox, 3))["Gateway"] == FIRST4


@pytest.mark.parametrize(
    ("gateways", "options"),
    [
        (("192.0.2.253", "2001:db8:1::fd"), {}),  # of the user: no IPAM driver chooses such a one
        ((NEIGHBOUR4, NEIGHBOUR6), {}),
        (("192.0.2.1", "2001:db8:1::1"), {}),  # the host's own
        (("192.0.2.4", "2001:db8:1::4"), {"conflict_check": "false"}),
        (("192.0.2.5", "2001:db8:1::5"), {}),
    ],
)
def test_other_gateways_are_taken_as_they_are(
    host: Host, lan: Namespace, gateways: tuple[str, str], options: dict[str, Any]
) -> None:
    """Whatever the user names, as far as that can be told, and whoever nobody may be asked about."""
    host.ok("CreateNetwork", on_parent(NETWORK, POOL4, POOL6, gateways=gateways, **options))
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24", "2001:db8:1::20/64"))
    with Namespace() as sandbox:
        answer = host.ok("Join", join_in(sandbox))
        assert (answer["Gateway"], answer["GatewayIPv6"]) == gateways


def test_a_lan_that_cannot_be_asked_is_believed(host: Host, lan: Namespace) -> None:
    """On a parent that is down, the router is taken to be where the network says."""
    host.netns.run("ip", "link", "set", PARENT, "down")
    host.ok("CreateNetwork", on_parent(NETWORK, POOLS[0], gateways=(FIRST4, ""), parent=PARENT))
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "198.51.100.20/24"))
    with Namespace() as sandbox:
        assert host.ok("Join", join_in(sandbox))["Gateway"] == FIRST4


@pytest.mark.parametrize("options", [{}, {"host_access": "true"}, {"promiscuous": "true"}])
def test_a_parent_that_is_down_carries_a_network(host: Host, lan: Namespace, options: dict[str, Any]) -> None:
    """As with the built-in driver; it is said, and what stands on it works as soon as the parent is up."""
    host.netns.write_sysctl(f"net/ipv6/conf/{PARENT}/keep_addr_on_down", "1")
    host.netns.run("ip", "link", "set", PARENT, "down")
    host.ok("CreateNetwork", on_parent(gateways=(NEIGHBOUR4, ""), parent=PARENT, **options))
    eventually(lambda: f"ip link set {PARENT} up" in host.daemon.log)
    with container(host, 2, "192.0.2.20/24") as sandbox:
        assert not reaches(sandbox, NEIGHBOUR4, 1)
        host.netns.run("ip", "link", "set", PARENT, "up")
        # A ping ends early if it is told of a question that nobody answered while the parent was down.
        eventually(lambda: reaches(sandbox, NEIGHBOUR4))
        if "host_access" in options:
            eventually(lambda: reaches(host.netns, "192.0.2.20"))
