"""What real engines sent, once recorded, is accepted by the message types."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pynetdriver.docker import protocol
from pynetdriver.docker.ipam_driver import IpamDriver
from pynetdriver.docker.messages import CreateNetworkRequest, ProgramRequest, decode_request
from pynetdriver.docker.network_driver import NetworkDriver
from pynetdriver.docker.requests import requested_network

TRACES = Path(__file__).parents[1] / "traces"
ENGINES = ["20.10.24", "26.1.5", "28.5.2", "29.7.2"]
#: What every engine was made to call; older ones ask for capabilities before the recording begins.
COMMON = {
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
}


class Nobody:
    """Stands where a driver would, since only the table of routes is read."""

    def __getattr__(self, name: str) -> Any:
        return None


def table() -> dict[str, protocol.Route]:
    nobody = Nobody()
    return protocol.routes(cast(NetworkDriver, nobody), cast(IpamDriver, nobody), lambda: None)


def recorded(engine: str) -> list[dict[str, Any]]:
    lines = (TRACES / f"engine-{engine}.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "path" in line]


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_decode_when_recorded_from_an_engine(engine: str) -> None:
    """Every request that a real engine sent has the form of its message type."""
    routes, seen = table(), Counter[str]()
    for call in recorded(engine):
        route = routes[call["path"]]
        if route.request is None:
            assert call["req"] is None, call
        else:
            decoded = decode_request(json.dumps(call["req"]).encode(), route.request)
            for field in msgspec.structs.fields(route.request):
                if field.encode_name in call["req"] and isinstance(call["req"][field.encode_name], str):
                    assert getattr(decoded, field.name) == call["req"][field.encode_name]
        seen[call["path"][1:]] += 1
    assert set(seen) >= COMMON
    assert sum(seen.values()) > 70


def test_traces_cover_every_method_of_a_local_driver() -> None:
    """All methods but those of swarm managers and swarm gossip occur in the traces."""
    seen = {call["path"] for engine in ENGINES for call in recorded(engine)}
    swarm = {"AllocateNetwork", "FreeNetwork", "DiscoverNew", "DiscoverDelete"}
    assert seen == set(table()) - {f"/NetworkDriver.{name}" for name in swarm}


def test_networks_are_accepted_when_recorded_from_an_engine() -> None:
    """A recorded network is read with its pools, and of the backend that its options are of."""
    backends = []
    for engine in ENGINES:
        for call in recorded(engine):
            if call["path"] != "/NetworkDriver.CreateNetwork":
                continue
            request = decode_request(json.dumps(call["req"]).encode(), CreateNetworkRequest)
            network = requested_network(request)
            pools = call["req"]["IPv4Data"] + call["req"]["IPv6Data"]
            assert [str(one.pool) for one in network.subnets] == [one["Pool"] for one in pools]
            assert [str(one.gateway) for one in network.subnets] == [one["Gateway"].split("/")[0] for one in pools]
            assert network.internal == call["req"]["Options"].get("com.docker.network.internal", False)
            backends.append(network.backend)
    assert (backends.count("bridge"), backends.count("macvlan")) == (27, 4)


def test_published_ports_are_read_when_recorded_from_an_engine() -> None:
    """The port list of Program arrives whole, whatever else stands in the options."""
    published = 0
    for engine in ENGINES:
        for call in recorded(engine):
            if call["path"] == "/NetworkDriver.ProgramExternalConnectivity":
                request = decode_request(json.dumps(call["req"]).encode(), ProgramRequest)
                given = call["req"]["Options"].get("com.docker.network.portmap") or []
                read = (request.options and request.options.port_map) or []
                assert [(one.protocol, one.port, one.host_ip, one.host_port, one.host_port_end) for one in read] == [
                    (one["Proto"], one["Port"], one["HostIP"], one["HostPort"], one["HostPortEnd"]) for one in given
                ]
                published += len(read)
    assert published > 0
