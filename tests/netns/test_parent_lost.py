"""Containers whose parent was deleted and made again, and what the host is called or has by then."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .host import NETWORK, OTHER, Host, stopped
from .parents import (
    HOST4,
    HOST6,
    NEIGHBOUR4,
    NEIGHBOUR6,
    PARENT,
    POOL6,
    SECOND4,
    SECOND6,
    SHIM,
    container,
    container_link,
    endpoint_on,
    join_in,
    on_lan,
    on_parent,
    reaches,
)

ADDRESS4, ADDRESS6 = "192.0.2.20/24", "2001:db8:1::20/64"


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    with on_lan(host) as neighbour:
        yield neighbour


def lay(host: Host, lan: Namespace) -> None:
    """Make the parent again after it was deleted."""
    ours = Plug(host.netns, PARENT, (f"{HOST4}/24", f"{HOST6}/64"))
    connect(ours, Plug(lan, "eth0", (f"{NEIGHBOUR4}/24", f"{NEIGHBOUR6}/64")))


@pytest.mark.parametrize("half_made", [False, True])
def test_a_parent_made_again_while_pynet_is_dead(host: Host, lan: Namespace, half_made: bool) -> None:
    """The container has its link again, also if one was begun by a daemon that was killed."""
    host.ok("CreateNetwork", on_parent(gateways=(NEIGHBOUR4, ""), host_access="true"))
    with container(host, 2, ADDRESS4) as sandbox:
        host.daemon.kill()
        host.netns.run("ip", "link", "delete", PARENT)
        lay(host, lan)
        if half_made:
            kind = ("netns", sandbox.name, "type", "macvlan", "mode", "bridge")
            host.netns.run("ip", "link", "add", "link", PARENT, "name", container_link(2), *kind)
        host.daemon.start()
        eventually(lambda: reaches(sandbox, NEIGHBOUR4))
        assert reaches(host.netns, ADDRESS4.partition("/")[0])
        assert container_link(2) not in sandbox.run("ip", "-br", "link")


def test_the_way_out_by_another_network_stays(host: Host, lan: Namespace) -> None:
    """A link that is made again takes no default route from another one of its container."""
    host.ok("CreateNetwork", on_parent(gateways=(NEIGHBOUR4, "")))
    with container(host, 2, ADDRESS4) as sandbox:
        for command in (
            "link add eth1 type veth peer name other",
            "address add 10.50.0.2/24 dev eth1",
            "link set eth1 up",
            "link set other up",
            "route replace default via 10.50.0.1",
        ):
            sandbox.run("ip", *command.split())
        host.netns.run("ip", "link", "delete", PARENT)
        lay(host, lan)
        eventually(lambda: reaches(sandbox, NEIGHBOUR4))
        assert sandbox.run("ip", "route", "show", "default").split()[:3] == ["default", "via", "10.50.0.1"]


def test_ipv6_that_the_engine_turned_off_for_a_sandbox(host: Host, lan: Namespace) -> None:
    """Engines before 26 do, and turn it on for links that have addresses: so does pynet."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=(NEIGHBOUR4, NEIGHBOUR6)))
    with container(host, 2, ADDRESS4, ADDRESS6) as sandbox:
        sandbox.write_sysctl("net/ipv6/conf/default/disable_ipv6", "1")
        host.netns.run("ip", "link", "delete", PARENT)
        lay(host, lan)
        eventually(lambda: reaches(sandbox, NEIGHBOUR4) and reaches(sandbox, NEIGHBOUR6))


def test_another_name_of_a_link_is_no_parent(host: Host, lan: Namespace) -> None:
    """The kernel tells nobody of it, so nothing on it would be watched."""
    host.netns.run("ip", "link", "property", "add", "dev", PARENT, "altname", "uplink0")
    said = host.refused("CreateNetwork", on_parent(parent="uplink0"))
    assert f'"uplink0" is another name of link "{PARENT}"' in said


def test_the_hosts_link_has_no_address_that_nobody_gave_it(host: Host, lan: Namespace) -> None:
    """By a link-local one, networks without host access and the whole LAN would reach the host."""
    host.ok("CreateNetwork", on_parent(host_access="true"))
    host.ok("CreateNetwork", on_parent(OTHER, SECOND4, SECOND6))
    with container(host, 2, "198.51.100.20/24", "2001:db8:2::20/64", network_id=OTHER):
        assert "inet6" not in host.netns.run("ip", "address", "show", "dev", SHIM)


def test_what_the_host_has_by_now_counts(host: Host, lan: Namespace) -> None:
    """Addresses that the parent got after the network was made are no container's, and known to new containers."""
    host.ok("CreateNetwork", on_parent(pool6=POOL6, gateways=(NEIGHBOUR4, NEIGHBOUR6), host_access="true"))
    host.netns.run("ip", "address", "add", "192.0.2.77/24", "dev", PARENT)
    host.netns.run("ip", "address", "add", "2001:db8:1::77/64", "dev", PARENT, "nodad")
    assert "192.0.2.77 is this host's own" in host.refused(
        "CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.77/24", "")
    )
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, ADDRESS4, ADDRESS6))
    with Namespace() as sandbox:
        answer = host.ok("Join", join_in(sandbox))
    assert "2001:db8:1::77/128" in {route["Destination"] for route in answer["StaticRoutes"]}


@pytest.mark.parametrize("noise", [0, 1_000, 30_000], ids=["told", "behind much else", "lost"])
def test_a_call_knows_what_the_kernel_told_before_it(host: Host, lan: Namespace, noise: int) -> None:
    """Whether the message was read, is still to be read, or was dropped; a look a moment ago is not enough."""
    host.ok("CreateNetwork", on_parent())
    host.netns.run("ip", "link", "add", "noise", "type", "veth", "peer", "name", "far")
    host.ok("CreateEndpoint", endpoint_on(2, NETWORK, ADDRESS4, ""))
    with ThreadPoolExecutor(1) as calls:
        with stopped(host):
            changes = "\n".join(f"link set noise mtu {1000 + number % 7}" for number in range(noise))
            host.netns.run("ip", "-batch", "-", input=f"{changes}\naddress add 192.0.2.77/24 dev {PARENT}\n")
            refusal = calls.submit(host.refused, "CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.77/24", ""))
        assert "192.0.2.77 is this host's own" in refusal.result()
    assert ("looking at everything" in host.daemon.log) == (noise == 30_000)
    host.netns.run("ip", "address", "delete", "192.0.2.77/24", "dev", PARENT)
    host.ok("CreateEndpoint", endpoint_on(3, NETWORK, "192.0.2.77/24", ""))
    # Another link of that name is another one.
    host.netns.run("ip", "link", "set", PARENT, "name", "was0")
    host.netns.run("ip", "link", "set", "noise", "name", PARENT, "up")
    host.netns.run("ip", "address", "add", "192.0.2.78/24", "dev", PARENT)
    assert "192.0.2.78 is this host's own" in host.refused(
        "CreateEndpoint", endpoint_on(4, NETWORK, "192.0.2.78/24", "")
    )
