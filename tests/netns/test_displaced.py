"""Whom a new network, endpoint or address may displace, and whom never."""

import sqlite3
from contextlib import closing
from typing import Any

from tests.lab.netns import Namespace

from .host import OTHER, Host, ids, network

POOL = {"AddressSpace": "pynet-local", "Pool": "10.9.0.0/30", "V6": False}


def test_an_idle_network_gives_way_only_after_a_restart(host: Host) -> None:
    """The engine has spoken of it since, or else it has removed it: it makes no two networks of one pool."""
    host.ok("CreateNetwork", network())
    assert "overlaps" in host.refused("CreateNetwork", network(OTHER))
    host.restart()
    host.ok("CreateNetwork", network())
    assert "overlaps" in host.refused("CreateNetwork", network(OTHER))
    host.restart()
    host.ok("CreateNetwork", network(OTHER))
    assert "not known" in host.refused("CreateEndpoint", {**ids(), "Interface": {}})


def test_a_taken_bridge_name_displaces_nobody(host: Host) -> None:
    """Two networks that name one bridge are a mistake of the user's, before a restart and after it."""
    named: Any = {"com.docker.network.bridge.name": "web0"}
    host.ok("CreateNetwork", network(**named))
    for _ in range(2):
        assert "web0" in host.refused("CreateNetwork", network(OTHER, 8, **named))
        host.restart()
    host.attach()


def test_a_network_with_a_container_gives_way_to_none(host: Host) -> None:
    """Its link is in a sandbox, so it is in use whatever the engine says."""
    host.ok("CreateNetwork", network())
    host.attach()
    with Namespace() as sandbox:
        host.netns.run("ip", "link", "set", "pnc000200020002", "netns", sandbox.name)
        host.restart()
        assert "overlaps" in host.refused("CreateNetwork", network(OTHER))


def test_a_lease_without_a_pool_is_no_obstacle_at_start(host: Host) -> None:
    """A pool that went while an address of it was given leaves a row, which goes at the next start."""
    host.ok("IpamDriver.RequestPool", POOL)
    pool = "pynet-local/10.9.0.0/30"
    host.ok("IpamDriver.RequestAddress", {"PoolID": pool})
    host.daemon.kill()
    with closing(sqlite3.connect(host.daemon.state_dir / "pynet.db")) as store, store:
        store.execute("DELETE FROM record WHERE kind = 'pool' AND key = ?", (pool,))
    host.daemon.start()
    assert [kind for kind, _ in host.state().rows] == []


def test_an_address_granted_before_a_restart_is_not_granted_again(host: Host) -> None:
    """Whoever asks for any address gets none that was granted a moment ago."""
    host.ok("CreateNetwork", network())
    host.ok("IpamDriver.RequestPool", POOL)
    pool = "pynet-local/10.9.0.0/30"
    given = [host.ok("IpamDriver.RequestAddress", {"PoolID": pool})["Address"] for _ in range(2)]
    assert given == ["10.9.0.1/30", "10.9.0.2/30"]
    host.restart()
    assert "no free address" in host.refused("IpamDriver.RequestAddress", {"PoolID": pool})
