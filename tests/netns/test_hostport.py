"""Host ports against other processes: what a restart finds taken, and what closed connections leave behind."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.errors import InvalidRequest
from pynetdriver.kernel.hostport import HostPorts, PortTaken
from pynetdriver.model import Endpoint, PortMapping
from pynetdriver.portmap import PortRequest
from tests.lab.netns import Namespace

from .host import PROGRAM, Host, endpoint_id, network, port, program
from .inside import inside

ANY4, ANY6, LOCAL = IPAddress("0.0.0.0"), IPAddress("::"), IPAddress("127.0.0.1")
ONE, OTHER = (
    Endpoint(id=letter * 64, network_id="9" * 64, mac="", mac_given=False, address4=IPNetwork("10.9.0.2/24"))
    for letter in "ab"
)


def asked(port: int, *addresses: IPAddress, protocol: str = "tcp") -> list[PortRequest]:
    return [PortRequest(protocol, addresses or (ANY4,), port, port, 80)]


def bound(port: int, reuse: bool = False, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    made.bind(("127.0.0.1", port))
    return made


def leave_time_wait(port: int) -> None:
    """Serve one connection as a program does that sets SO_REUSEADDR, close it first, and stop."""
    with bound(port, reuse=True) as listener:
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""


def adopt_what_others_took() -> None:
    ports = HostPorts()
    taken, free, udp, absent = mappings = [
        PortMapping("tcp", ANY4, 8080, 80),
        PortMapping("tcp", ANY4, 8081, 81),
        PortMapping("udp", ANY4, 8080, 80),
        PortMapping("tcp", IPAddress("192.0.2.77"), 8082, 82),
    ]
    with bound(8080), bound(8080, kind=socket.SOCK_DGRAM):
        said = [str(one) for one in ports.adopt(ONE, mappings)]
    assert [text.split(" is ")[0] for text in said[:2]] == ["host port 0.0.0.0:8080/tcp", "host port 0.0.0.0:8080/udp"]
    assert len(said) == 3 and "no address 192.0.2.77" in said[2]
    assert ports.adopt(ONE, mappings) == []
    # What is opened at the container's own address takes no port of the host.
    for holder in (ONE, OTHER):
        assert ports.adopt(holder, [PortMapping("tcp", ANY4, 0, 80)]) == []
    assert ports.endpoint_with("tcp", ANY4, 0) is None
    for one in (taken, free, udp, absent):
        with pytest.raises(PortTaken) as caught:
            ports.hold(OTHER, asked(one.host_port, protocol=one.protocol))
        assert caught.value.endpoint_id == ONE.id
    ports.release(ONE.id, mappings)
    assert ports.hold(OTHER, asked(8080)) == (taken,) and ports.hold(OTHER, asked(8081))
    ports.close()


def hold_a_port_in_time_wait() -> None:
    ports = HostPorts()
    leave_time_wait(8080)
    with pytest.raises(OSError, match="in use"):
        bound(8080)
    (mapping,) = ports.hold(ONE, asked(8080))
    for reuse in (False, True):
        with pytest.raises(OSError, match="in use"):
            bound(8080, reuse)
    ports.release(ONE.id, [mapping])
    assert ports.adopt(ONE, [mapping]) == []
    ports.close()


async def _refuse_a_port_in_use_that_has_time_wait() -> None:
    ports = HostPorts()
    leave_time_wait(8080)
    with bound(8080, reuse=True) as server:
        server.listen()
        with pytest.raises(PortTaken) as caught:
            ports.hold(ONE, asked(8080))
        assert "taken by process" in str(caught.value.named())
        with pytest.raises(PortTaken):
            ports.hold(ONE, asked(8080, LOCAL))
    assert ports.hold(ONE, asked(8080, ANY4, ANY6))
    with pytest.raises(InvalidRequest):
        ports.hold(ONE, asked(8082, IPAddress("192.0.2.77")))
    ports.close()


def refuse_a_port_in_use_that_has_time_wait() -> None:
    asyncio.run(_refuse_a_port_in_use_that_has_time_wait())


@pytest.mark.parametrize(
    "experiment", [adopt_what_others_took, hold_a_port_in_time_wait, refuse_a_port_in_use_that_has_time_wait]
)
def test_host_ports_are_held_beside_others(experiment: Callable[[], None]) -> None:
    """A port taken during a restart keeps its endpoint; TIME_WAIT is no server, and is shared with none."""
    with Namespace() as netns:
        inside(netns, experiment)


def test_a_port_that_leads_to_another_of_the_containers_has_its_holder_still(host: Host) -> None:
    """What the endpoint gave up is another mapping of the same host port."""
    host.ok("CreateNetwork", network())
    host.attach(2)
    host.attach(3)
    for container_port in (5001, 5002):
        host.ok(PROGRAM, program(2, port(5000, container_port)))
    assert f"taken by pynet's endpoint {endpoint_id(2)[:12]}" in host.refused(PROGRAM, program(3, port(5000, 5001)))
