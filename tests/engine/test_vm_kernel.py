"""The engine's own ipvlan driver, as a sign that the virtual machine can run such tests."""

import pytest

from tests.engine.lab import Lab


@pytest.mark.needs_kernel("ipvlan")
def test_the_built_in_ipvlan_connects_two_containers(lab: Lab) -> None:
    """Containers on one parent reach each other and the LAN."""
    subnet = ("--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.128/25", "--gateway", "192.0.2.2")
    lab.docker("network", "create", "-d", "ipvlan", *subnet, "-o", "parent=lan0", "flat")
    try:
        for name in ("one", "two"):
            lab.run(name, "--network", "flat")
        assert lab.pings("one", "two")
        assert lab.pings("one", "192.0.2.2")
    finally:
        lab.docker("rm", "-f", "one", "two")
        lab.docker("network", "rm", "flat")
