"""Metrics beside a real engine: what a container and its published port carried, and what the calls took."""

from __future__ import annotations

from tests.lab.scrape import Scrape
from tests.lab.wait import eventually

from .lab import Lab


def test_a_download_is_counted_for_port_and_container(lab: Lab) -> None:
    """Fetched from another machine: as much comes out of the port as out of the container, and little goes in."""
    size = 3_000_000
    before = Scrape.of(lab.daemon.socket)
    network = lab.network("web")
    lab.web("one", "--network", "web", "-p", "8080:80")
    lab.inside("one", "sh", "-c", f"head -c {size} /dev/zero >/etc/page")
    assert lab.neighbour.run(
        "curl", "-s", "-w%{size_download}", "-o/dev/null", f"http://{lab.lan.HOST4}:8080/page"
    ) == (str(size))
    found = Scrape.of(lab.daemon.socket)
    ids = {"network": network[:12], "endpoint": lab.addresses("one", "web")["EndpointID"][:12]}
    sent = found.value("pynet_endpoint_bytes_total", direction="tx", **ids)
    assert size < sent < 1.2 * size
    if "legacy" not in lab.name:
        port = {**ids, "host_port": "8080", "host_address": "0.0.0.0", "container_port": "80", "protocol": "tcp"}
        out, back = (found.value("pynet_port_bytes_total", direction=way, **port) for way in ("out", "in"))
        assert size < out <= sent and 0 < back < size / 10
        assert found.value("pynet_port_packets_total", direction="out", **port) > 0
    called = {"method": "NetworkDriver.CreateEndpoint", "outcome": "ok"}
    calls = found.value("pynet_calls_total", **called)
    assert (
        calls == (before.value("pynet_calls_total", **called) if before.all("pynet_calls_total", **called) else 0) + 1
    )
    assert found.value("pynet_networks", backend="bridge") == before.value("pynet_networks", backend="bridge") + 1
    lab.docker("rm", "-f", "one")
    eventually(lambda: not Scrape.of(lab.daemon.socket).all("pynet_endpoint_bytes_total", **ids))
    assert "pynet_port_bytes_total" not in Scrape.of(lab.daemon.socket).names
