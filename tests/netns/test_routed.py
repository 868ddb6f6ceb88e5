"""Ports of networks in routed mode: open at the container's own address for as long as it is there."""

from __future__ import annotations

from typing import Any

import pytest

from .host import OTHER, PORTMAP, PROGRAM, REVOKE, Host, both_firewalls, endpoint, ids, join, network, port, program
from .test_life import can_bind

pytestmark = both_firewalls
MODES: dict[str, Any] = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "routed" for version in (4, 6)}


def opened(host: Host) -> list[str]:
    """Whatever the rules say of container port 80 or 81."""
    return sorted(line for line in host.state().rules.splitlines() if "10.9.0.2" in line or "fd00:9::2" in line)


def joining(*ports: Any) -> Any:
    return {**join(), "Options": {PORTMAP: list(ports)}}


def test_ports_are_open_from_join_to_leave_whoever_is_the_gateway(host: Host) -> None:
    """The engine calls Program for the network of the default route alone, and Revoke when that is another one."""
    host.ok("CreateNetwork", network(dual=True, **MODES))
    host.ok("CreateEndpoint", endpoint(dual=True))
    closed = opened(host)
    call = joining(port(8080), port(8081, 81))
    for _ in range(2):
        host.ok("Join", call)
        found = opened(host)
        assert found != closed and any("fd00:9::2" in line for line in found)
    for _ in range(2):
        host.ok(PROGRAM, program(2, port(8080), port(8081, 81)))
        assert opened(host) == found
        host.ok("Join", call)
        host.ok(REVOKE, ids())
        assert opened(host) == found
    assert can_bind(host, 8080)
    host.restart()
    assert opened(host) == found
    for _ in range(2):
        host.ok("Leave", ids())
        assert opened(host) == closed
    host.ok("Join", call)
    host.ok("DeleteEndpoint", ids())
    assert opened(host) == closed


def test_one_family_may_be_routed_alone(host: Host) -> None:
    """Join opens what is routed; what is published waits for Program, and goes with Revoke."""
    (six,) = [key for key in MODES if key.endswith("6")]
    host.ok("CreateNetwork", network(dual=True, **{six: MODES[six]}))
    host.ok("CreateEndpoint", endpoint(dual=True))
    host.ok("Join", joining(port(8080)))
    at_join = opened(host)
    assert can_bind(host, 8080) and any("fd00:9::2" in line for line in at_join)
    host.ok(PROGRAM, program(2, port(8080)))
    assert not can_bind(host, 8080) and opened(host) != at_join
    host.ok("Join", joining(port(8080)))
    assert not can_bind(host, 8080)
    host.ok(REVOKE, ids())
    assert can_bind(host, 8080) and opened(host) == at_join


@pytest.mark.parametrize("options", [{}, MODES])
def test_nothing_is_open_where_it_should_not_be(host: Host, options: dict[str, Any]) -> None:
    """Neither on an internal network nor where ports are published on the host."""
    host.ok("CreateNetwork", network(dual=True, internal=bool(options), **options))
    host.ok("CreateEndpoint", endpoint(dual=True))
    before = host.state().rules
    host.ok("Join", joining(port(8080)))
    assert host.state().rules == before and can_bind(host, 8080)


def test_a_refused_join_opens_nothing(host: Host) -> None:
    """A port that is none fails the call as a whole, and the next try is a first one."""
    host.ok("CreateNetwork", network(OTHER, 9, dual=True, **MODES))
    host.ok("CreateEndpoint", endpoint(2, OTHER, dual=True))
    before = host.state()
    call = {**join(2, OTHER), "Options": {PORTMAP: [port(8080), port(8081, protocol=1)]}}
    assert "protocol number 1" in host.refused("Join", call)
    assert host.state() == before
    host.ok("Join", {**call, "Options": {PORTMAP: [port(8080)]}})
    assert host.state() != before
