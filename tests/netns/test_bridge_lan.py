"""Addresses on an adopted bridge that leads to a LAN: none is given that the host or another machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .host import NETWORK, OTHER, Host, endpoint, ids, network
from .parents import HOST4, HOST6, POOL4, POOL6, container, endpoint_on, on_parent
from .test_macvlan_lan import SPACE, mac_of
from .test_probe import Wire

NAME = "com.docker.network.bridge.name"
#: What the neighbour has besides its own.
TAKEN4, TAKEN6 = "192.0.2.77", "2001:db8:1::77"
#: What the host gets after the network was made.
LATER4, LATER6 = "192.0.2.88", "2001:db8:1::88"


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    """The neighbour of a host whose bridge br0 has the link to it as a port."""
    with Namespace() as neighbour:
        connect(Plug(host.netns, "lan0"), Plug(neighbour, "eth0"))
        host.netns.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        host.netns.run("ip", "link", "set", "lan0", "master", "br0", "up")
        host.netns.run("ip", "link", "set", "br0", "up")
        give(host.netns, "br0", HOST4, HOST6)
        give(neighbour, "eth0", "192.0.2.2", "2001:db8:1::2", TAKEN4, TAKEN6)
        groups = ("ip", "-6", "route", "show", "table", "local", "type", "multicast", "dev", "eth0")
        eventually(lambda: neighbour.run(*groups))
        yield neighbour


def give(where: Namespace, link: str, *addresses: str) -> None:
    """Give a link addresses that can be used at once."""
    for address in addresses:
        length, nodad = ("64", ("nodad",)) if ":" in address else ("24", ())
        where.run("ip", "address", "add", f"{address}/{length}", "dev", link, *nodad)


def on_bridge(space: str = "LocalDefault", gateways: tuple[str, str] = (HOST4, HOST6), **options: Any) -> Any:
    """Write a request for a network on the bridge, with the LAN's subnets."""
    options = {"backend": "bridge", NAME: "br0", **options}
    return on_parent(pool4=POOL4, pool6=POOL6, gateways=gateways, space=space, **options)


@pytest.mark.parametrize("check", ["true", "false"])
def test_an_address_that_somebody_has_is_refused(host: Host, lan: Namespace, check: str) -> None:
    """The neighbour's with its MAC unless conflict_check is off, the host's present ones in any case."""
    host.ok("CreateNetwork", on_bridge(conflict_check=check))
    before = host.state()
    for mine, free in ((TAKEN4, "2001:db8:1::20"), (TAKEN6, "192.0.2.20")):
        four, six = sorted((mine, free), key=lambda one: ":" in one)
        request = endpoint_on(2, NETWORK, f"{four}/24", f"{six}/64")
        if check == "true":
            sentence = host.refused("CreateEndpoint", request)
            assert f"address {mine} is in use" in sentence and mac_of(lan) in sentence and "br0" in sentence, sentence
        else:
            host.ok("CreateEndpoint", request)
            host.ok("DeleteEndpoint", ids())
    give(host.netns, "br0", LATER4, LATER6)
    for addresses in ((f"{LATER4}/24", "2001:db8:1::20/64"), ("192.0.2.20/24", f"{LATER6}/64")):
        assert "this host's own" in host.refused("CreateEndpoint", endpoint_on(2, NETWORK, *addresses))
    for address in (f"{LATER4}/24", f"{LATER6}/64"):
        host.netns.run("ip", "address", "delete", address, "dev", "br0")
    assert host.state() == before
    host.restart()
    assert check == "false" or "in use" in host.refused("CreateEndpoint", endpoint_on(2, NETWORK, f"{TAKEN4}/24"))
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, "192.0.2.20/24", "2001:db8:1::20/64"))


def test_an_address_that_a_container_gave_itself_is_somebodys(host: Host, lan: Namespace) -> None:
    """Containers of the network answer as machines of the LAN do."""
    host.ok("CreateNetwork", on_bridge())
    with container(host, 2, "192.0.2.20/24") as other:
        give(other, "eth0", "192.0.2.30")
        assert "in use" in host.refused("CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.30/24"))
        host.ok("CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.31/24"))


def test_pynets_pool_passes_over_what_somebody_has(host: Host, lan: Namespace) -> None:
    """The neighbour's and the host's, as it is now."""
    asked = {"AddressSpace": SPACE, "Pool": POOL4, "SubPool": "192.0.2.76/30", "Options": None, "V6": False}
    pool_id = host.ok("IpamDriver.RequestPool", asked)["PoolID"]
    host.ok("CreateNetwork", on_bridge(SPACE))
    give(host.netns, "br0", "192.0.2.78")
    request = {"PoolID": pool_id, "Address": "", "Options": None}
    given = [host.ok("IpamDriver.RequestAddress", request)["Address"] for _ in range(2)]
    assert given == ["192.0.2.76/24", "192.0.2.79/24"]
    assert "other machines on the LAN use" in host.refused("IpamDriver.RequestAddress", request)
    host.netns.run("ip", "address", "delete", "192.0.2.78/24", "dev", "br0")
    assert host.ok("IpamDriver.RequestAddress", request)["Address"] == "192.0.2.78/24"


def test_the_host_takes_no_gateway_of_another_machine(host: Host, lan: Namespace) -> None:
    """It would have the router's address; nothing is left of such a network, and a free one may be given."""
    before = host.state()
    for gateways, taken in (((TAKEN4, HOST6), TAKEN4), ((HOST4, TAKEN6), TAKEN6)):
        sentence = host.refused("CreateNetwork", on_bridge(gateways=gateways))
        assert taken in sentence and mac_of(lan) in sentence and "DefaultGatewayIPv" in sentence, sentence
        assert host.state() == before
    host.ok("CreateNetwork", on_bridge(gateways=("192.0.2.9", "2001:db8:1::9")))
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    host.ok("CreateNetwork", on_bridge(gateways=(TAKEN4, HOST6), conflict_check="false"))


def test_the_lan_learns_whose_an_address_is(host: Host, lan: Namespace) -> None:
    """Who remembers another MAC for it goes on with the container's."""
    host.ok("CreateNetwork", on_bridge())
    lan.run("ip", "neighbour", "replace", "192.0.2.20", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
    with container(host, 2, "192.0.2.20/24") as other:

        def known() -> bool:
            (found,) = json.loads(lan.run("ip", "-j", "neighbour", "show", "192.0.2.20"))
            return bool(found["lladdr"] == mac_of(other))

        eventually(known)


async def test_on_a_bridge_of_its_own_nobody_is_asked(host: Host) -> None:
    """There is no LAN, so a container's start does not wait for one; on an adopted bridge there is."""
    host.netns.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    adopted: dict[str, Any] = {NAME: "br0"}
    for id, number, asked in ((NETWORK, 9, False), (OTHER, 8, True)):
        host.ok("CreateNetwork", network(id, number, dual=True, **(adopted if asked else {})))
        with container(host, number, f"10.{number}.0.2/24", f"fd00:{number}::2/64", network_id=id) as other:
            wire = Wire(other)
            await wire.probes()
            host.ok("CreateEndpoint", endpoint(number + 100, id, number, dual=True))
            assert bool(await wire.probes()) is asked
            wire.socket.close()
