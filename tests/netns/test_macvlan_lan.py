"""Who else is on the LAN: addresses that are taken there, and its DHCP server."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import NETWORK, Host, endpoint_id
from .parents import (
    HOST4,
    NEIGHBOUR4,
    PARENT,
    POOL4,
    POOL6,
    SHIM,
    container,
    container_link,
    differences,
    endpoint_on,
    footprint,
    join_in,
    leave,
    move_in,
    on_lan,
    on_parent,
    reaches,
)
from .test_dhcp import Server
from .test_probe import Wire

SPACE = "pynet-local"
RANGE = "192.0.2.100,192.0.2.120,255.255.255.0,120"
FIRST = "02:42:00:00:00:05"


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """The neighbour of a host with the link lan0; it has a second address of each family."""
    with on_lan(host) as neighbour:
        for address in ("192.0.2.77/24", "2001:db8:1::77/64"):
            nodad = ("nodad",) if ":" in address else ()
            neighbour.run("ip", "address", "add", address, "dev", "eth0", *nodad)
        groups = ("ip", "-6", "route", "show", "table", "local", "type", "multicast", "dev", "eth0")
        eventually(lambda: neighbour.run(*groups))
        yield neighbour


def mac_of(where: Namespace, link: str = "eth0") -> str:
    (found,) = json.loads(where.run("ip", "-j", "link", "show", "dev", link))
    return str(found["address"])


def address_of(where: Namespace, link: str = "eth0") -> list[str]:
    return [line.split()[1] for line in where.run("ip", "-4", "address", "show", "dev", link).splitlines()[1::2]]


# Addresses that are taken


def test_an_address_that_a_neighbour_has_is_refused(host: Host, lan: Namespace) -> None:
    """Naming address and MAC, for both families, and nothing is left of the endpoint."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6))
    before = footprint(host)
    for addresses in (("192.0.2.77/24", "2001:db8:1::20/64"), ("192.0.2.20/24", "2001:db8:1::77/64")):
        sentence = host.refused("CreateEndpoint", endpoint_on(2, NETWORK, *addresses))
        taken = next(one for one in addresses if "77" in one).partition("/")[0]
        assert f"address {taken} is in use" in sentence and mac_of(lan) in sentence and PARENT in sentence, sentence
        assert not differences(footprint(host), before)
    lan.run("ip", "address", "delete", "192.0.2.77/24", "dev", "eth0")
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.77/24", "2001:db8:1::20/64"))


def test_the_hosts_own_link_takes_no_neighbours_address(host: Host, lan: Namespace) -> None:
    """One that was named is refused with the MAC; of those that pynet chooses the next is taken."""
    lan.run("ip", "address", "add", "192.0.2.254/24", "dev", "eth0")
    before = footprint(host)
    sentence = host.refused("CreateNetwork", on_parent(host_access="192.0.2.77"))
    assert "192.0.2.77" in sentence and mac_of(lan) in sentence, sentence
    assert "the host has" in host.refused("CreateNetwork", on_parent(host_access=HOST4))
    assert not differences(footprint(host), before)
    host.ok("CreateNetwork", on_parent(host_access="true"))
    assert address_of(host.netns, SHIM) == ["192.0.2.253/32"]


def test_the_check_waits_a_tenth_of_a_second_at_most(host: Host, lan: Namespace) -> None:
    """For both families together; with the parent down, or without a neighbour, nothing blocks."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6))
    began = time.monotonic()
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24", "2001:db8:1::20/64"))
    assert 0.05 <= time.monotonic() - began < 0.4
    host.netns.run("ip", "link", "set", PARENT, "down")
    began = time.monotonic()
    host.ok("CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.77/24", "2001:db8:1::30/64"))
    assert time.monotonic() - began < 0.4


async def test_nobody_is_asked_against_the_users_will(host: Host, lan: Namespace) -> None:
    """No frame leaves for an address of a container with conflict_check=false."""
    wire = Wire(lan)
    for value, asked in (("false", False), ("true", True)):
        host.ok("CreateNetwork", on_parent(pool6=POOL6, conflict_check=value))
        await wire.probes()
        host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24", "2001:db8:1::20/64"))
        assert bool(await wire.probes()) is asked
        leave(host)
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    wire.socket.close()


def test_pynets_pools_pass_over_what_neighbours_have(host: Host, lan: Namespace) -> None:
    """Each is logged with its MAC; the last resort is a refusal that says so."""
    asked = {"AddressSpace": SPACE, "Pool": POOL4, "SubPool": "192.0.2.76/30", "Options": None, "V6": False}
    pool_id = host.ok("IpamDriver.RequestPool", asked)["PoolID"]
    host.ok("CreateNetwork", on_parent(space=SPACE))
    request = {"PoolID": pool_id, "Address": "", "Options": None}
    given = [host.ok("IpamDriver.RequestAddress", request)["Address"] for _ in range(3)]
    assert given == ["192.0.2.76/24", "192.0.2.78/24", "192.0.2.79/24"]
    assert "passing it over" in host.daemon.log and f"mac={mac_of(lan)}" in host.daemon.log
    assert "other machines on the LAN use" in host.refused("IpamDriver.RequestAddress", request)
    lan.run("ip", "address", "delete", "192.0.2.77/24", "dev", "eth0")
    assert host.ok("IpamDriver.RequestAddress", request)["Address"] == "192.0.2.77/24"


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_who_comes_in_the_place_of_one_that_is_dying_has_its_mac(host: Host, lan: Namespace, after_s: float) -> None:
    """A start failed in the sandbox, so the link was not brought back; the kernel lets no two with one MAC be up."""
    host.ok("CreateNetwork", on_parent(conflict_check="false"))
    with Namespace() as former:
        host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24", mac=FIRST))
        move_in(host, former, 2, host.ok("Join", join_in(former)), "192.0.2.20/24")
        leave(host)
        dying = Timer(after_s, former.close)
        dying.start()
        with container(host, 3, "192.0.2.20/24", mac=FIRST) as sandbox:  # brings the link up
            assert mac_of(sandbox) == FIRST and reaches(sandbox, NEIGHBOUR4)
        dying.join()


# Addresses from the LAN


@pytest.fixture
def server(lan: Namespace, folder: Path) -> Iterator[Server]:
    """dnsmasq, which a test starts."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("no dnsmasq here, the server of these tests: make deps installs dnsmasq-base")
    made = Server(lan, folder / "server")
    yield made
    made.stop()


def with_dhcp(**options: Any) -> Any:
    return on_parent(NETWORK, "", dhcp="true", **options)


def records(host: Host, kind: str) -> list[Any]:
    return [json.loads(row) for (one, _), row in host.state().rows.items() if one == kind]


def lease_of(host: Host) -> Any:
    (endpoint,) = records(host, "endpoint")
    return endpoint["lease"]


def test_a_container_lives_on_a_lease(host: Host, server: Server) -> None:
    """Address in CreateEndpoint's answer, gateway and classless routes in Join's, host access; released at the end."""
    before = footprint(host)
    server.start(
        "--dhcp-option=121,10.0.0.0/8,192.0.2.77,0.0.0.0/0,192.0.2.2", "--dhcp-option=option:mtu,1400", leases=RANGE
    )
    host.ok("CreateNetwork", with_dhcp(host_access="true"))
    request = endpoint_on(2, NETWORK)
    made = host.ok("CreateEndpoint", request)["Interface"]
    address = made["Address"].partition("/")[0]
    assert made["Address"].endswith("/24") and address in server.leases and made["MacAddress"]
    assert host.ok("CreateEndpoint", request)["Interface"] == made
    with Namespace() as sandbox:
        joined = host.ok("Join", join_in(sandbox))
        assert joined["Gateway"] == NEIGHBOUR4
        assert [(one["Destination"], one["NextHop"]) for one in joined["StaticRoutes"]] == [
            ("10.0.0.0/8", "192.0.2.77")
        ]
        leave(host)
    eventually(lambda: f"DHCPRELEASE(eth0) {address}" in server.log)
    with container(host, 3) as sandbox:
        assert address_of(sandbox) == [made["Address"]]  # the same identity
        assert reaches(sandbox, NEIGHBOUR4) and reaches(sandbox, HOST4) and reaches(host.netns, address)
        assert json.loads(sandbox.run("ip", "-j", "link", "show", "dev", "eth0"))[0]["mtu"] == 1400
        leave(host, 3, sandbox=sandbox)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    server.stop()
    assert not differences(footprint(host), before)


def test_routes_that_cannot_be_keep_no_container_from_its_lease(host: Host, server: Server) -> None:
    """The subnet itself, a route twice, a next hop elsewhere: the rest of the lease is the container's."""
    routes = "192.0.2.0/24,0.0.0.0,10.0.0.0/8,192.0.2.77,10.0.0.0/8,192.0.2.77,10.1.0.0/16,198.51.100.1"
    server.start(f"--dhcp-option=121,{routes},0.0.0.0/0,192.0.2.2", "--dhcp-option=option:mtu,68", leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    with container(host, 2) as sandbox:  # adds each route as the engine does, so that one that is there is an error
        found = sandbox.run("ip", "route")
        assert "default via 192.0.2.2" in found and "10.0.0.0/8 via 192.0.2.77" in found and "10.1" not in found
        assert json.loads(sandbox.run("ip", "-j", "link", "show", "dev", "eth0"))[0]["mtu"] == 1500
        assert reaches(sandbox, NEIGHBOUR4)
    assert "10.1.0.0/16 via 198.51.100.1" in host.daemon.log


def test_no_server_is_said_soon(host: Host, lan: Namespace) -> None:
    """One clear sentence within the bound, and nothing left; a second call says the same."""
    host.ok("CreateNetwork", with_dhcp())
    before = footprint(host)
    began = time.monotonic()
    sentence = host.refused("CreateEndpoint", endpoint_on(2, NETWORK))
    assert time.monotonic() - began < 12
    assert f'no DHCP server answered on link "{PARENT}" within 10 seconds' in sentence
    assert not differences(footprint(host), before)


def test_a_mac_is_one_containers_at_a_time(host: Host, server: Server) -> None:
    """A user's MAC twice at once is refused; after the first is gone it gets the same address."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    with container(host, 2, mac=FIRST) as sandbox:
        address = address_of(sandbox)
        before = footprint(host)
        sentence = host.refused("CreateEndpoint", endpoint_on(3, NETWORK, mac=FIRST))
        assert FIRST in sentence and "--mac-address" in sentence
        assert not differences(footprint(host), before)
        leave(host, sandbox=sandbox)
    with container(host, 4, mac=FIRST) as sandbox:
        assert address_of(sandbox) == address


def test_a_container_of_before_a_crash_has_the_same_identity(host: Host, server: Server) -> None:
    """Daemon and sandbox died without a word: same MAC and address, confirmed by one pair of messages."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    with container(host, 2) as sandbox:
        address, mac = address_of(sandbox), mac_of(sandbox)
        host.daemon.kill()
    seen = len(server.log)
    host.daemon.start()
    eventually(lambda: not records(host, "endpoint"))
    with container(host, 3) as sandbox:
        assert (address_of(sandbox), mac_of(sandbox)) == (address, mac)
        assert "DHCPREQUEST" in server.log[seen:] and "DHCPDISCOVER" not in server.log[seen:]


def exposing(number: int, *ports: int) -> Any:
    """Write a request for an endpoint of a container that exposes ports, in no certain order."""
    exposed = [{"Proto": 6, "Port": one} for one in ports]
    return {**endpoint_on(number, NETWORK), "Options": {"com.docker.network.endpoint.exposedports": exposed}}


@pytest.mark.parametrize("dying", [False, True], ids=["dead", "dying"])
def test_containers_that_died_with_the_engine_come_back_with_their_leases(
    host: Host, server: Server, dying: bool
) -> None:
    """Each with that of its like, though others are first, and the kernel has not cleared away their sandboxes yet."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    before: dict[int, str] = {}
    with ExitStack() as stack:
        sandboxes = [stack.enter_context(Namespace()) for _ in range(3)]
        for number, sandbox in enumerate(sandboxes, 2):
            made = host.ok("CreateEndpoint", exposing(number, number, 80))["Interface"]
            before[number] = made["Address"]
            move_in(host, sandbox, number, host.ok("Join", join_in(sandbox, number)), made["Address"])
        # The next engine introduces itself and starts containers at once, in another order.
        host.ok("Plugin.Activate", {})
        ending = Timer(1.0 if dying else 0.0, ExitStack.close, [stack])
        ending.start()
        if not dying:
            ending.join()
        after = {}
        for number in (3, 4, 2):
            after[number] = host.ok("CreateEndpoint", exposing(number + 100, 80, number))["Interface"]["Address"]
        ending.join()
    assert after == before and len(server.leases) == 3


def hasten(host: Host, **seconds: int) -> None:
    """Make the times of a lease short, as the store has it; between two runs of the daemon."""
    connection = sqlite3.connect(host.daemon.state_dir / "pynet.db")
    for name, value in seconds.items():
        path = f"$.lease.{name}"
        connection.execute(
            "UPDATE record SET data = CAST(json_set(CAST(data AS TEXT), ?, ?) AS BLOB) WHERE kind = 'endpoint'",
            (path, value),
        )
    connection.commit()
    connection.close()


def test_a_restarted_daemon_goes_on_renewing(host: Host, server: Server) -> None:
    """What was due while nobody was there is renewed at once; the container notices nothing."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    with container(host, 2) as sandbox:
        address, obtained = address_of(sandbox), lease_of(host)["obtained"]
        host.daemon.kill()
        hasten(host, renew_s=1)
        host.daemon.start()
        eventually(lambda: lease_of(host)["obtained"] > obtained and lease_of(host)["renew_s"] > 1, timeout_s=5)
        assert address_of(sandbox) == address


def test_another_address_reaches_the_container_while_it_lives(host: Host, server: Server) -> None:
    """The server refuses the old one: address, routes and the host's way to it change; nothing stale stays."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp(host_access="true"))
    with container(host, 2) as sandbox:
        (former,) = address_of(sandbox)
        host.daemon.kill()
        hasten(host, renew_s=1)
        server.forget()
        server.start("--dhcp-authoritative", leases="192.0.2.200,192.0.2.210,255.255.255.0,120")
        host.daemon.start()
        eventually(lambda: address_of(sandbox) not in ([former], []), timeout_s=10)
        (address,) = address_of(sandbox)
        assert address.startswith("192.0.2.20") and former.partition("/")[0] not in server.leases
        eventually(lambda: reaches(sandbox, NEIGHBOUR4, 1) and reaches(sandbox, HOST4, 1))
        assert "default via 192.0.2.2 " in sandbox.run("ip", "route")
        routes = host.netns.run("ip", "route", "show", "dev", SHIM).split()
        assert address.partition("/")[0] in routes and former.partition("/")[0] not in routes
        leave(host, sandbox=sandbox)


def test_a_lost_lease_takes_the_address_and_brings_it_back(host: Host, server: Server) -> None:
    """With the server away to the end of the lease: an error is logged; its return is enough."""
    server.start(leases=RANGE)
    host.ok("CreateNetwork", with_dhcp())
    with container(host, 2) as sandbox:
        address = address_of(sandbox)
        host.daemon.kill()
        server.stop()
        hasten(host, renew_s=1, rebind_s=2, lease_s=3)
        host.daemon.start()
        eventually(lambda: not address_of(sandbox), timeout_s=10)
        assert "DHCP lease is lost" in host.daemon.log and endpoint_id(2)[:12] in host.daemon.log
        host.restart()
        assert not address_of(sandbox)
        server.start(leases=RANGE)
        eventually(lambda: address_of(sandbox) == address, timeout_s=20)
        eventually(lambda: reaches(sandbox, NEIGHBOUR4, 1))
        assert container_link(2) not in host.state().links


def test_a_gateway_that_nobody_answers_for_is_named(host: Host, lan: Namespace) -> None:
    """With the router that the host itself has there; one that answers, or that nobody is told of, is not."""
    host.ok("CreateNetwork", on_parent(gateways=("192.0.2.254", "2001:db8:1::77"), pool6=POOL6))
    eventually(lambda: "gateway=192.0.2.254" in host.daemon.log)
    (line,) = [one for one in host.daemon.log.splitlines() if "answers for this network's gateway" in one]
    assert f"router_of_this_host={NEIGHBOUR4}" in line and "--gateway" in line
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    for gateway, internal in ((NEIGHBOUR4, False), (HOST4, False), ("192.0.2.254", True)):
        host.ok("CreateNetwork", on_parent(gateways=(gateway, ""), internal=internal, parent=PARENT))
        time.sleep(1)
        host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    host.ok("CreateNetwork", on_parent(gateways=("192.0.2.253", ""), conflict_check="false"))
    host.ok("CreateNetwork", on_parent("7d" * 32, "198.51.100.0/24", gateways=("198.51.100.1", "")))
    eventually(lambda: "gateway=198.51.100.1 " in host.daemon.log)
    assert host.daemon.log.count("answers for this network's gateway") == 2
