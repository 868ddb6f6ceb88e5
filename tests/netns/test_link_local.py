"""A network in fe80::/64, which the built-in bridge takes: the addresses of each link's own."""

from __future__ import annotations

from typing import Any

import pytest

from .ask import differences
from .host import NETWORK, PROGRAM, Host, both_firewalls, network, port, program
from .parents import container
from .test_lost_ipv6 import asks, serving


def linked(pool: str = "fe80::/64") -> Any:
    """Write a request with a second subnet, whose first address is the gateway."""
    gateway = pool.replace("::/", "::1/")
    return {**network(), "IPv6Data": [{"AddressSpace": "LocalDefault", "Pool": pool, "Gateway": gateway}]}


@both_firewalls
def test_containers_live_in_it(host: Host) -> None:
    """They reach the gateway by it, and their ports are reached over IPv6, by a relay: the kernel cannot translate."""
    host.netns.run("ip", "link", "add", "there0", "up", "type", "bridge")  # has an address of fe80::/64, too
    host.ok("CreateNetwork", linked())
    host.netns.run("ip", "address", "add", "2001:db8::1/64", "dev", "lo", "nodad")
    with container(host, 2, "10.9.0.2/24", "fe80::2/64") as one, serving(one, "4", "one"):
        assert ", 1 received" in one.run("ping", "-c1", "-w10", "fe80::1%eth0")
        host.ok(PROGRAM, program(2, port(8080)))
        for restarted in (False, True):
            if restarted:
                host.restart()
            assert [asks(host.netns, to, 8080) for to in ("127.0.0.1", "2001:db8::1")] == ["one", "one"]
            assert not differences(host)
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert set(host.state().links) == {"lo", "there0"}


@pytest.mark.parametrize("pool", ["fe80::/80", "fe80:0:0:0::/60", "ff02::/64"])
def test_what_only_looks_like_it_is_refused(host: Host, pool: str) -> None:
    """As by the built-in bridge: a link would have two subnets of which one is in the other, or no address at all."""
    before = host.state()
    assert "choose another --subnet" in host.refused("CreateNetwork", linked(pool))
    assert host.state() == before
