"""What counters come to, and that any text may be a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork
from prometheus_client import CollectorRegistry, generate_latest

from pynetdriver.admin.metrics import Snapshot
from pynetdriver.errors import outcome
from pynetdriver.firewall import Count, Flow
from pynetdriver.firewall.counters import Counted, attributed
from pynetdriver.firewall.ruleset import forget, removal
from pynetdriver.firewall.tables import Table
from pynetdriver.model import Endpoint, Network, PortMapping
from pynetdriver.plan import PortForward
from pynetdriver.pool import PoolUse
from tests.lab.scrape import Scrape

HERE, ANY, WEB = "192.0.2.1", "0.0.0.0", "10.9.0.2"


def published(host_address: str, address: str, protocol: str = "tcp") -> PortForward:
    return PortForward(protocol, IPAddress(host_address), 8080, IPAddress(address), 80)


def counted(asked: str, container: str = WEB, **changes: Any) -> Counted:
    return Counted("in", asked, "tcp", 8080, container)._replace(**changes)


def test_counters_are_those_of_published_ports() -> None:
    """A port on all addresses has one, a port on an address of its own another."""
    ports = [published(ANY, WEB), published(HERE, "10.9.0.3"), published("::", "fd00:9::2")]
    counters = {
        counted(ANY): Count(1, 100),
        counted(ANY, direction="out"): Count(3, 300),
        counted(HERE, "10.9.0.3"): Count(4, 400),
        counted("::", "fd00:9::2"): Count(5, 500),
    }
    found, stale = attributed(counters, ports)
    assert not stale
    assert found == {
        Flow("in", "tcp", ANY, 8080): Count(1, 100),
        Flow("out", "tcp", ANY, 8080): Count(3, 300),
        Flow("in", "tcp", HERE, 8080): Count(4, 400),
        Flow("in", "tcp", "::", 8080): Count(5, 500),
    }


@pytest.mark.parametrize(
    "one",
    [counted(ANY, "10.9.0.9"), counted(ANY, protocol="udp"), counted(ANY, host_port=8081), counted(HERE)],
)
def test_counters_of_what_is_not_published_are_stale(one: Counted) -> None:
    """Another container had the port, or it was another port."""
    assert attributed({one: Count(1, 1)}, [published(ANY, WEB)]) == ({}, [one])


def test_stale_counters_are_deleted_by_one_command_a_set() -> None:
    """As elements that read as the rules write them."""
    stale = [counted(ANY), counted(ANY, direction="out"), counted(HERE), counted("::", "fd00:9::2", protocol="sctp")]
    assert forget(stale).splitlines() == [
        "delete element inet pynet traffic4 { original . tcp . 8080 . 10.9.0.2, reply . tcp . 8080 . 10.9.0.2 }",
        "delete element inet pynet traffic4_at { original . 192.0.2.1 . tcp . 8080 . 10.9.0.2 }",
        "delete element inet pynet traffic6 { original . sctp . 8080 . fd00:9::2 }",
    ]
    assert forget([]) == ""


def test_counters_stay_when_the_table_is_written_anew() -> None:
    """Unless it goes for good, or somebody else made a set of that name."""
    ours = 27 << 18 | 12 << 12 | 13 << 6 | 7  # ct_dir . inet_proto . inet_service . ipv4_addr
    listed = Table({"user": 1}, {"traffic4": (ours, 0), "links": (41, 0)}, {"user": b"rule"})
    assert removal(listed, last=False) == "delete set inet pynet links\n"
    assert removal(listed, last=True) == "delete set inet pynet traffic4\ndelete set inet pynet links\n"
    theirs = replace(listed, sets={"traffic4": (7, 0)})
    assert removal(theirs, last=False) == "delete set inet pynet traffic4\n"


def test_outcomes() -> None:
    """A refusal is the user's to act on, a failure the host's or pynet's."""
    assert [outcome(status) for status in (200, 400, 409, 500, 503)] == ["ok", "refused", "refused", "failed", "failed"]


def scraped(**changes: Any) -> Scrape:
    """Write a picture of a daemon that has nothing but what is named, and read it."""
    settings: dict[str, Any] = {"networks": {}, "endpoints": [], "pools": [], "repairs": {}, "conflicts": 0}
    settings |= {"counted": CollectorRegistry(), "renewals": {}, "carried": None}
    return Scrape(generate_latest(Snapshot(**(settings | changes))).decode())


def test_any_text_may_be_a_label() -> None:
    """What an engine, or who speaks in its place, made up does not break the format."""
    space = 'a"} 1\nfaked{b="\\'
    network = Network(id='"\n\\' * 20, backend="bridge", options={}, subnets=())
    found = scraped(
        pools=[PoolUse(subnet=IPNetwork("10.9.0.0/24"), range=None, space=space, size=254, used=3)],
        networks={network.id: network},
        endpoints=[an_endpoint(id='}"\n' * 20, network_id=network.id)],
        carried={},
    )
    assert found.value("pynet_pool_used", space=space) == 3 and not found.all("faked")
    assert {labels["network"] for labels, _ in found.all("pynet_port_bytes_total")} == {network.id[:12]}


def an_endpoint(**changes: Any) -> Endpoint:
    settings: dict[str, Any] = {"id": "ab" * 32, "network_id": "9f" * 32, "mac": "02:42:0a:09:00:02"}
    settings |= {"mac_given": False, "address4": IPNetwork("10.9.0.2/24")}
    settings["ports"] = tuple(
        PortMapping("tcp", IPAddress(address), number, 80)
        for address, number in ((ANY, 8080), ("::", 8080), (HERE, 8081), (ANY, 0))
    )
    return Endpoint(**(settings | changes))


def test_ports_that_lead_nowhere_by_rules_have_no_counters() -> None:
    """Those that are relayed, since the container has no IPv6, and those that are reached at its own address."""
    network = Network(id="9f" * 32, backend="bridge", options={}, subnets=())
    flow = Flow("out", "tcp", HERE, 8081)
    found = scraped(networks={network.id: network}, endpoints=[an_endpoint()], carried={flow: Count(2, 3000)})
    octets = {
        (labels["host_address"], labels["host_port"], labels["direction"]): value
        for labels, value in found.all("pynet_port_bytes_total", container_port="80", protocol="tcp")
    }
    assert octets == {
        (ANY, "8080", "in"): 0,
        (ANY, "8080", "out"): 0,
        (HERE, "8081", "in"): 0,
        (HERE, "8081", "out"): 3000,
    }
    assert found.value("pynet_ports", backend="bridge") == 4


def test_without_counters_in_the_rules_there_are_no_metrics_of_ports() -> None:
    """Zeros would be lies."""
    assert not {name for name in scraped(endpoints=[an_endpoint()]).names if name.startswith("pynet_port_")}
