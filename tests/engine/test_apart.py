"""Containers that are kept apart reach each other's published ports, as they do with the built-in bridge."""

import pytest

from tests.engine.lab import Lab

ICC = ("-o", "com.docker.network.bridge.enable_icc=false")


@pytest.mark.parametrize("target", ["lan", "gateway"])
def test_containers_that_are_kept_apart_reach_published_ports(lab: Lab, target: str) -> None:
    """Through the host's addresses, from itself and from a sibling; not by the container's own address."""
    lab.network("net", *ICC, "--ipv6", "--subnet", "10.6.0.0/24", "--subnet", "fd00:6::/64")
    lab.web("web", "--network", "net", "--ip", "10.6.0.9", "-p", "8080:80")
    lab.run("sibling", "--network", "net")
    for address in {"lan": (lab.lan.HOST4, f"[{lab.lan.HOST6}]"), "gateway": ("10.6.0.1", "[fd00:6::1]")}[target]:
        assert [lab.fetches(one, f"http://{address}:8080/hostname") for one in ("sibling", "web")] == ["web", "web"]
    assert lab.fetches("sibling", "http://10.6.0.9/hostname") is None
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
