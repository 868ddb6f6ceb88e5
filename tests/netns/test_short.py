"""What a host runs short of: room on its disk, descriptors. What fails says so, and waits no longer than it must."""

from __future__ import annotations

import contextlib
import json
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.unix import PLUGIN_HEADERS, UnixConnection

from .host import NETWORK, OTHER, PROGRAM, Host, endpoint, endpoint_id, ids, join, network, port, program, rows
from .test_life import can_bind


@contextlib.contextmanager
def full(host: Host) -> Iterator[None]:
    """Nothing can be written to the store."""
    with contextlib.closing(sqlite3.connect(host.folder / "state" / "pynet.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_what_could_not_be_removed_makes_room_for_what_needs_it(host: Host) -> None:
    """The host port and the address of an endpoint, name and subnet of a network: free as soon as there is space."""
    host.ok("CreateNetwork", network())
    host.attach(2)
    host.ok(PROGRAM, program(2, port(8080)))
    with full(host):
        assert "disk" in host.refused("DeleteEndpoint", ids(2))
    host.attach(3)
    host.ok(PROGRAM, program(3, port(8080)))
    assert {key for kind, key in rows(host.daemon.state_dir) if kind == "endpoint"} == {endpoint_id(3)}
    with full(host):
        assert "disk" in host.refused("DeleteEndpoint", ids(3))
    host.ok("CreateEndpoint", endpoint(4) | {"Interface": endpoint(3)["Interface"]})
    host.ok("Join", join(4))
    host.ok(PROGRAM, program(4, port(8080)))
    host.ok("DeleteEndpoint", ids(4))
    with full(host):
        assert "disk" in host.refused("DeleteNetwork", {"NetworkID": NETWORK})
    host.ok("CreateNetwork", network(OTHER))
    assert [key for kind, key in rows(host.daemon.state_dir) if kind == "network"] == [OTHER]


def test_an_address_that_could_not_be_released_is_free_for_the_next(host: Host) -> None:
    """The same of pools, also where the pool is exhausted otherwise."""
    pool = {"AddressSpace": "pynet-local", "Pool": "10.77.0.0/30"}
    id = host.ok("IpamDriver.RequestPool", pool)["PoolID"]
    for last in (1, 2):
        assert host.ok("IpamDriver.RequestAddress", {"PoolID": id})["Address"] == f"10.77.0.{last}/30"
    with full(host):
        assert "disk" in host.refused("IpamDriver.ReleaseAddress", {"PoolID": id, "Address": "10.77.0.2"})
    assert host.ok("IpamDriver.RequestAddress", {"PoolID": id})["Address"] == "10.77.0.2/30"
    assert "no free address" in host.refused("IpamDriver.RequestAddress", {"PoolID": id})
    with full(host):
        assert "disk" in host.refused("IpamDriver.ReleasePool", {"PoolID": id})
    assert host.ok("IpamDriver.RequestPool", pool)["PoolID"] == id
    assert host.ok("IpamDriver.RequestAddress", {"PoolID": id})["Address"] == "10.77.0.1/30"


@pytest.mark.parametrize("how", ["page", "NULL"])
def test_a_damaged_state_is_one_sentence(host: Host, how: str) -> None:
    """pynet does not start, and says which file it is and what to do."""
    host.ok("CreateNetwork", network())
    host.daemon.stop()
    path = host.daemon.state_dir / "pynet.db"
    if how == "page":
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 4096)
    else:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE record SET data = NULL")
    with pytest.raises(RuntimeError, match="ended with 1"):
        host.daemon.start()
    last = host.daemon.log.splitlines()[-1]
    assert last.startswith(f"Error: cannot read the state file {path}: ") and "put a backup in its place" in last
    assert "Traceback" not in host.daemon.log


@contextlib.contextmanager
def no_descriptors(pid: int, left: int = 0) -> Iterator[None]:
    """A process may open so many files more."""
    former = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + left, former[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, former)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_no_descriptor_is_said_and_nothing_is_half(host: Host, left: int) -> None:
    """The remedy is named, no port is published without being held, and the same calls work once there are some."""
    connection = UnixConnection(host.daemon.socket, 30)

    def call(method: str, body: Any) -> tuple[int, Any]:
        connection.request("POST", f"/{method}", json.dumps(body).encode(), PLUGIN_HEADERS)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    with contextlib.closing(connection):
        host.ok("CreateNetwork", network(dual=True))
        host.attach(2)
        assert call("Plugin.Activate", {})[0] == 200
        before, pid = host.state(), host.daemon.pid
        assert pid is not None
        calls = (
            ("NetworkDriver.CreateEndpoint", endpoint(3)),
            (f"NetworkDriver.{PROGRAM}", program(2, port(8080), port(8081), port(8082))),
            ("NetworkDriver.CreateNetwork", network(OTHER, 8)),
            ("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "V6": False}),
        )
        for method, body in calls:
            with no_descriptors(pid, left):
                status, answer = call(method, body)
                if status != 200:
                    assert "too many open files; raise LimitNOFILE" in answer["Err"], (method, answer)
            if status != 200:
                assert host.state() == before, method
                assert call(method, body)[0] == 200
            if method.endswith(PROGRAM):
                assert left > 2 or status != 200
                assert not can_bind(host, 8080)
            before = host.state()
    assert "Traceback" not in host.daemon.log
