"""Large and deep requests hold up nobody: what no engine sends is refused at once, what one may send is done beside."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pynetdriver.docker.protocol import MAXIMUM_BODY_BYTES

from .host import PROGRAM, REVOKE, Host, assert_refusal, endpoint, ids, join, network, port, program

#: The whole protocol, with and without content.
METHODS = (
    *("Plugin.Activate", "NetworkDriver.GetCapabilities", "IpamDriver.GetCapabilities"),
    *("IpamDriver.GetDefaultAddressSpaces", "NetworkDriver.DiscoverNew", "NetworkDriver.CreateNetwork"),
    *("NetworkDriver.CreateEndpoint", "NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.DeleteNetwork"),
    *(f"NetworkDriver.{PROGRAM}", f"NetworkDriver.{REVOKE}", "NetworkDriver.EndpointOperInfo"),
    *("NetworkDriver.GwAllocCheck", "IpamDriver.RequestPool", "IpamDriver.ReleaseAddress"),
)
#: An endpoint's sockets are twice as many, one for each IP version.
PORTS = 6000


@pytest.mark.parametrize("depth", [200, 1000, 100_000])
def test_deep_requests_are_malformed_whatever_they_ask(host: Host, depth: int) -> None:
    """Nesting without end is one sentence, also where the content has no bearing."""
    deep = b'{"Options": ' + b'{"a": [' * depth + b"]}" * depth + b"}"
    for method in METHODS:
        status, answer = host.raw(method, deep)
        assert_refusal(status, answer)
        assert status == 400 and "nested too deep" in answer["Err"], (method, answer)
    assert "Traceback" not in host.daemon.log


def longest_wait(host: Host, work: Callable[[], Any]) -> tuple[Any, float]:
    """Do something, and tell how long other calls waited meanwhile at most, as a part of the time that it took."""
    done, waits = threading.Event(), [0.0]

    def ask() -> None:
        while not done.is_set():
            began = time.monotonic()
            host.call("EndpointOperInfo", ids(2))
            waits.append(time.monotonic() - began)

    asker = threading.Thread(target=ask)
    asker.start()
    began = time.monotonic()
    result = work()
    took = time.monotonic() - began
    done.set()
    asker.join()
    return result, max(waits) / took


def test_what_no_engine_sends_is_refused(host: Host) -> None:
    """More than all ports of a protocol, and more than a little of anything but ports."""
    filler = b'{"NetworkID": "x", "Options": [' + b'{"a":null,"b":[1,2]},' * (3 * MAXIMUM_BODY_BYTES // 20) + b"1]}"
    for method, body in ((f"NetworkDriver.{PROGRAM}", filler), ("NetworkDriver.CreateNetwork", filler[: 2 << 20])):
        status, answer = host.raw(method, body)
        assert_refusal(status, answer)
        assert status == 413 and "publish fewer ports" in answer["Err"], (method, answer)


def test_many_ports_hold_up_nobody(host: Host) -> None:
    """While one container's ports are published and given up, other calls are answered."""
    host.ok("CreateNetwork", network())
    host.ok("CreateEndpoint", endpoint())
    host.ok("Join", join())
    ports = json.dumps(program(2, *(port(1024 + number) for number in range(PORTS)))).encode()
    for _ in range(2):  # the second changes nothing
        (status, answer), part = longest_wait(host, lambda: host.raw(f"NetworkDriver.{PROGRAM}", ports))
        assert status == 200, answer
        assert part < 0.5, part
    (status, answer), part = longest_wait(host, lambda: host.call(REVOKE, ids()))
    assert status == 200, answer
    assert part < 0.7, part
