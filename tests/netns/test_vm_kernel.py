"""Links that not every kernel can make: these tests show that `needs_kernel` brings them where they can."""

import pytest

from tests.lab.netns import Namespace, Plug, connect


@pytest.mark.needs_kernel("8021q")
def test_a_vlan_link_carries_only_its_own_number() -> None:
    """Two hosts hear each other on the same VLAN, and not on another one."""
    with Namespace() as left, Namespace() as right:
        connect(Plug(left, "lan0"), Plug(right, "eth0"))
        for netns, parent, tag, address in (
            (left, "lan0", 10, "10.1.0.1/24"),
            (right, "eth0", 10, "10.1.0.2/24"),
            (left, "lan0", 20, "10.2.0.1/24"),
            (right, "eth0", 30, "10.2.0.2/24"),
        ):
            name = f"{parent}.{tag}"
            netns.run("ip", "link", "add", "link", parent, "name", name, "type", "vlan", "id", str(tag))
            netns.run("ip", "address", "add", address, "dev", name)
            netns.run("ip", "link", "set", name, "up")
        left.run("ping", "-c1", "-W5", "10.1.0.2")
        assert "100% packet loss" in left.run("ping", "-c1", "-W1", "10.2.0.2", check=False)


@pytest.mark.needs_kernel("ipvlan", "dummy")
def test_an_ipvlan_link_has_its_parents_mac() -> None:
    """All links on one parent share its MAC address."""
    with Namespace() as host:
        host.run("ip", "link", "add", "parent0", "type", "dummy")
        host.run("ip", "link", "add", "link", "parent0", "name", "ipv0", "type", "ipvlan", "mode", "l2")
        shown = host.run("ip", "-br", "link").split()
        assert shown[shown.index("ipv0@parent0") + 2] == shown[shown.index("parent0") + 2]
