"""Rows that belong to nothing any more do not stay."""

import sqlite3

from .host import NETWORK, Host, network


def test_restart_removes_endpoints_of_no_network(host: Host) -> None:
    """A row whose network is gone, as a failed removal and a crash leave it, goes at the next start."""
    before = host.state()
    host.ok("CreateNetwork", network())
    host.attach(2)
    host.daemon.kill()
    connection = sqlite3.connect(host.daemon.state_dir / "pynet.db")
    connection.execute("DELETE FROM record WHERE kind = 'network' AND key = ?", (NETWORK,))
    connection.commit()
    connection.close()
    host.daemon.start()
    assert not [key for key in host.state().rows if key[0] == "endpoint"]
    assert set(host.state().links) == set(before.links)
