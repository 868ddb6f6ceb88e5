"""Macvlan networks: what is made on the parent and on the host, and that nothing of it stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import NETWORK, OTHER, PROGRAM, Host, ids, port, program
from .parents import (
    HOST4,
    HOST6,
    NEIGHBOUR4,
    NEIGHBOUR6,
    PARENT,
    POOL6,
    SECOND4,
    SECOND6,
    SHIM,
    container,
    container_link,
    differences,
    endpoint_on,
    footprint,
    join_in,
    leave,
    on_lan,
    on_parent,
    promiscuity,
    reaches,
)

ADDRESS4, ADDRESS6 = "192.0.2.20/24", "2001:db8:1::20/64"
GATEWAYS = (NEIGHBOUR4, NEIGHBOUR6)


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """The neighbour of a host with the link lan0, by which its default route leads."""
    with on_lan(host) as neighbour:
        yield neighbour


def delete(host: Host, *network_ids: str) -> None:
    for id in network_ids or (NETWORK,):
        host.ok("DeleteNetwork", {"NetworkID": id})


def routes(host: Host, link: str = SHIM) -> list[str]:
    """The host's own routes by a link."""
    found = [host.netns.run("ip", f"-{version}", "route", "show", "dev", link) for version in (4, 6)]
    return [" ".join(line.split()) for line in "".join(found).splitlines() if "proto 112" in line]


def addresses(host: Host, link: str = SHIM) -> list[str]:
    return list(host.state().links[link]["addresses"])


def test_networks_and_containers_come_and_go(host: Host, lan: Namespace) -> None:
    """Reached from the LAN and reaching it, both families; no rule, no switch, no bridge, and nothing stays."""
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=GATEWAYS, mtu="1400"))
    assert not differences({**footprint(host), "state": before["state"]}, before)
    with container(host, 2, ADDRESS4, ADDRESS6) as one, container(host, 3, "192.0.2.30/24", "2001:db8:1::30/64") as two:
        (link,) = json.loads(one.run("ip", "-d", "-j", "link", "show", "dev", "eth0"))
        assert (link["linkinfo"]["info_kind"], link["linkinfo"]["info_data"]["mode"]) == ("macvlan", "bridge")
        assert (link["mtu"], link["address"]) == (1400, "02:42:c0:00:02:14")
        for address in (NEIGHBOUR4, NEIGHBOUR6, "192.0.2.30", "2001:db8:1::30"):
            assert reaches(one, address), address
        assert reaches(lan, "192.0.2.20") and reaches(lan, "2001:db8:1::20") and reaches(two, "192.0.2.20")
        for address in (HOST4, HOST6):  # which is what host_access is for
            assert not reaches(one, address, 1), address
        assert not host.state().rules and host.netns.sysctl("net/ipv4/ip_forward") == "0"
        leave(host, 2, sandbox=one)
        leave(host, 3, sandbox=two)
    delete(host)
    assert not differences(footprint(host), before)


def test_calls_give_the_same_answer_twice(host: Host, lan: Namespace) -> None:
    """Every call may come twice, also with the link in the sandbox, and changes nothing the second time."""
    with Namespace() as sandbox:
        calls: list[tuple[str, Any]] = [
            ("CreateNetwork", on_parent(pool6=POOL6, gateways=GATEWAYS, host_access="true", promiscuous="true")),
            ("CreateEndpoint", endpoint_on(2, NETWORK, ADDRESS4, ADDRESS6)),
            ("Join", join_in(sandbox)),
            (PROGRAM, program(2, port(8080))),
            ("RevokeExternalConnectivity", ids()),
            ("Leave", ids()),
            ("DeleteEndpoint", ids()),
            ("DeleteNetwork", {"NetworkID": NETWORK}),
        ]
        for method, body in calls:
            first = host.ok(method, body)
            state = footprint(host)
            assert host.ok(method, body) == first, method
            assert not differences(footprint(host), state), method
            if method == "Join":
                host.netns.run("ip", "link", "set", container_link(2), "netns", sandbox.name)


def test_leave_makes_no_second_link(host: Host, lan: Namespace) -> None:
    """The link is inside still, and the engine brings it back under its first name, which must be free."""
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(host_access="true"))
    with container(host, 2, ADDRESS4) as sandbox:
        host.ok("Leave", ids())
        assert container_link(2) not in host.state().links
        leave(host, sandbox=sandbox)
    delete(host)
    assert not differences(footprint(host), before)


def test_leave_and_join_without_a_new_endpoint(host: Host, lan: Namespace) -> None:
    """The same endpoint again in another sandbox: its link is made again if it went with the first."""
    host.ok("CreateNetwork", on_parent(host_access="true"))
    with container(host, 2, ADDRESS4):
        host.ok("Leave", ids())
    eventually(lambda: host.ok("Join", {**ids(), "SandboxKey": "/x", "Options": {}}))
    assert host.state().links[container_link(2)]["kind"] == "macvlan"
    leave(host)
    delete(host)


def test_host_and_containers_reach_each_other(host: Host, lan: Namespace) -> None:
    """By the host's own LAN address too, both families and both directions; two networks have one link for it."""
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=GATEWAYS, host_access="true"))
    host.ok("CreateNetwork", on_parent(OTHER, SECOND4, SECOND6, aux={"host": "198.51.100.7"}, host_access="true"))
    assert addresses(host) == ["192.0.2.254/32", "198.51.100.7/32", "2001:db8:1::fffe/128", "2001:db8:2::fffe/128"]
    shim = host.state().links[SHIM]
    assert shim["kind"] == "macvlan" and shim["up"]
    with (
        container(host, 2, ADDRESS4, ADDRESS6) as one,
        container(host, 3, "198.51.100.20/24", "2001:db8:2::20/64", network_id=OTHER) as two,
    ):
        assert routes(host) == [
            "192.0.2.20 proto 112 scope link src 192.0.2.254",
            "198.51.100.20 proto 112 scope link src 198.51.100.7",
            "2001:db8:1::20 proto 112 src 2001:db8:1::fffe metric 1024 pref medium",
            "2001:db8:2::20 proto 112 src 2001:db8:2::fffe metric 1024 pref medium",
        ]
        for inside in ("192.0.2.20", "198.51.100.20", "2001:db8:1::20", "2001:db8:2::20"):
            assert reaches(host.netns, inside), inside
        for address in (HOST4, HOST6, "192.0.2.254", "2001:db8:1::fffe", NEIGHBOUR4):
            assert reaches(one, address), address
        for address in (HOST4, HOST6, "198.51.100.7", "2001:db8:2::fffe"):
            assert reaches(two, address), address
        assert reaches(host.netns, NEIGHBOUR4) and reaches(host.netns, NEIGHBOUR6)
        leave(host, 2, sandbox=one)
        assert [line.split()[0] for line in routes(host)] == ["198.51.100.20", "2001:db8:2::20"]
        delete(host)
        assert addresses(host) == ["198.51.100.7/32", "2001:db8:2::fffe/128"]
        assert reaches(two, HOST4) and reaches(host.netns, "2001:db8:2::20")
        leave(host, 3, OTHER, two)
    delete(host, OTHER)
    assert not differences(footprint(host), before)


def test_the_address_of_the_host_is_the_users_choice(host: Host, lan: Namespace) -> None:
    """Given with the option, or as the auxiliary address `host`, for each family."""
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"host_access": "192.0.2.77"}, ["192.0.2.77/32", "2001:db8:1::fffe/128"]),
        ({"host_access": "2001:db8:1::77"}, ["192.0.2.254/32", "2001:db8:1::77/128"]),
        (
            {"host_access": "true", "aux": {"host": "192.0.2.5"}, "gateways": ("192.0.2.254", "")},
            ["192.0.2.5/32", "2001:db8:1::fffe/128"],
        ),
        (
            {"host_access": "true", "aux": {"a": "192.0.2.254", "b": "2001:db8:1::fffe"}},
            ["192.0.2.253/32", "2001:db8:1::fffd/128"],
        ),
    ]
    for options, wanted in cases:
        host.ok("CreateNetwork", on_parent(pool6=POOL6, **options))
        assert addresses(host) == wanted
        delete(host)


def test_pynets_own_pool_keeps_the_address_of_the_host(host: Host, lan: Namespace) -> None:
    """No container gets it, named or not; it is the last of the range, and goes with the pool."""
    space = "pynet-local"
    for pool, within, host_address in (("192.0.2.0/24", "192.0.2.128/29", "192.0.2.135"), (POOL6, "", "")):
        asked = {"AddressSpace": space, "Pool": pool, "SubPool": within, "Options": None, "V6": ":" in pool}
        pool_id = host.ok("IpamDriver.RequestPool", asked)["PoolID"]
        pools = ("", pool) if ":" in pool else (pool, "")
        host.ok("CreateNetwork", on_parent(NETWORK, *pools, space=space, host_access="true", conflict_check="false"))
        (taken,) = addresses(host)
        assert not host_address or taken == f"{host_address}/32"
        named = {"PoolID": pool_id, "Address": taken.partition("/")[0], "Options": None}
        assert "in use" in host.refused("IpamDriver.RequestAddress", named)
        if within:
            given = [host.ok("IpamDriver.RequestAddress", {**named, "Address": ""})["Address"] for _ in range(7)]
            assert [one.partition("/")[0] for one in given] == [f"192.0.2.{number}" for number in range(128, 135)]
            assert "no free address" in host.refused("IpamDriver.RequestAddress", {**named, "Address": ""})
        host.restart()
        assert "in use" in host.refused("IpamDriver.RequestAddress", named)
        delete(host)
        host.ok("IpamDriver.ReleasePool", {"PoolID": pool_id})
        assert not host.state().rows


def test_promiscuity_is_counted_and_put_back(host: Host, lan: Namespace) -> None:
    """It stays until the last network that asked for it is gone, over a restart too."""
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(promiscuous="true"))
    host.ok("CreateNetwork", on_parent(OTHER, SECOND4, promiscuous="true"))
    assert promiscuity(host) == 1
    host.restart()
    delete(host)
    assert promiscuity(host) == 1
    delete(host, OTHER)
    assert not differences(footprint(host), before)


@pytest.mark.parametrize("restart", [False, True])
def test_what_was_promiscuous_before_stays_so(host: Host, lan: Namespace, restart: bool) -> None:
    """Somebody else's wish is none of pynet's."""
    host.netns.run("ip", "link", "set", PARENT, "promisc", "on")
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(promiscuous="true"))
    if restart:
        host.restart()
    delete(host)
    assert promiscuity(host) == 1 and not differences(footprint(host), before)


def test_passthru_takes_the_parents_mac(host: Host, lan: Namespace) -> None:
    """One container has the parent for itself, under the MAC that the parent has."""
    before = footprint(host)
    host.ok("CreateNetwork", on_parent(macvlan_mode="passthru"))
    (parent,) = json.loads(host.netns.run("ip", "-j", "link", "show", "dev", PARENT))
    with container(host, 2, ADDRESS4) as one:
        (link,) = json.loads(one.run("ip", "-j", "link", "show", "dev", "eth0"))
        assert link["address"] == parent["address"] and reaches(one, NEIGHBOUR4)
        sentence = host.refused("CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.30/24"))
        assert "passthru" in sentence and f'"{PARENT}"' in sentence
        leave(host, sandbox=one)
    delete(host)
    assert not differences(footprint(host), before)
