"""What endpoints' links carried is what their containers see, and is found wherever the links are."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynetdriver.kernel.compare import differences
from pynetdriver.kernel.sandbox import names_inside
from pynetdriver.kernel.traffic import Traffic, traffic_of
from tests.lab.netns import Namespace
from tests.lab.scrape import Scrape
from tests.lab.wait import eventually

from .host import Host, endpoint_id, network
from .inside import inside
from .parents import container, on_lan, on_parent
from .test_relay import container as on_bridge

NAMES = [f"pynet_endpoint_{what}_total" for what in ("bytes", "packets")]


def seen_inside(sandbox: Namespace, link: str) -> dict[str, list[float]]:
    """Bytes and packets by direction, as a container's own /proc/net/dev has them."""
    (line,) = [one for one in sandbox.run("cat", "/proc/net/dev").splitlines() if one.strip().startswith(f"{link}:")]
    columns = [float(one) for one in line.partition(":")[2].split()]
    return {"rx": columns[0:2], "tx": columns[8:10]}


def told(host: Host, number: int) -> dict[str, list[float]]:
    """The same as the daemon tells it."""
    found = Scrape.of(host.daemon.socket)
    labels = {"endpoint": endpoint_id(number)[:12], "network": "9f" * 6}
    return {way: found.values(NAMES, direction=way, **labels) for way in ("rx", "tx")}


def agreed(host: Host, number: int, sandbox: Namespace, link: str) -> dict[str, list[float]]:
    """Wait until both say the same: between two looks the link may carry something, such as IPv6 says by itself."""
    eventually(lambda: told(host, number) == seen_inside(sandbox, link))
    return told(host, number)


@pytest.fixture
def lan(host: Host) -> Iterator[Namespace]:
    with on_lan(host) as neighbour:
        yield neighbour


def test_counters_of_a_pair_are_the_containers(host: Host) -> None:
    """Of the pair the host has the other end, on which everything is the other way round."""
    host.ok("CreateNetwork", network())
    link = f"pnc{endpoint_id(2)[:12]}"
    with on_bridge(host, 2, listening="") as sandbox, on_bridge(host, 3, listening=""):
        sandbox.run("ping", "-c3", "-i0.2", "-s1000", "10.9.0.1")
        # Unlike answers.
        sandbox.run("ping", "-c2", "-W1", "-s500", "10.9.0.99", check=False)
        found = agreed(host, 2, sandbox, link)
        assert found["rx"][0] > 3 * 1000 and found["rx"] != found["tx"]
        assert told(host, 3) != found


def test_counters_of_a_link_that_moved_are_the_containers(host: Host, lan: Namespace) -> None:
    """A macvlan link is in the container as a whole."""
    host.ok("CreateNetwork", on_parent(parent="lan0"))
    with container(host, 2, "192.0.2.130/24") as sandbox, container(host, 3, "192.0.2.131/24"):
        sandbox.run("ping", "-c3", "-i0.2", "-s1000", "192.0.2.2")
        assert agreed(host, 2, sandbox, "eth0")["rx"][0] > 3 * 1000


def links_here() -> None:
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    for command in (
        "link add pnhaaaaaaaaaaaa type veth peer name pncaaaaaaaaaaaa",
        "link add pncbbbbbbbbbbbb type veth peer name other",
        "link set other up",
        "link set pncbbbbbbbbbbbb up",
        "address add 10.9.0.1/24 dev pncbbbbbbbbbbbb",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    subprocess.run(["ping", "-c1", "-W1", "10.9.0.2"], check=False, capture_output=True)
    found = traffic_of(["a" * 64, "b" * 64, "c" * 64])
    assert found["a" * 64] == Traffic(0, 0, 0, 0)
    assert found["b" * 64].sent_packets > 0 == found["b" * 64].received_packets
    assert len(found) == 2 and traffic_of([]) == {}


def busy_host_here() -> None:
    """Have links that come in bursts, and take longer to list than there is between two of a burst."""
    over = threading.Event()

    def links_come() -> None:
        for burst in range(15):
            batch = "".join(f"link add b{burst}x{number} type bridge\n" for number in range(30))
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
            over.wait(0.05)

    pair = ["pnhaaaaaaaaaaaa", "type", "veth", "peer", "name", "pncaaaaaaaaaaaa"]
    subprocess.run(["ip", "link", "add", *pair], check=True)
    others = threading.Thread(target=links_come)
    others.start()
    try:
        while others.is_alive():
            assert list(traffic_of(["a" * 64])) == ["a" * 64]
            assert not names_inside() and not differences([])
    finally:
        over.set()
        others.join()


def test_links_that_come_and_go_meanwhile_do_not_keep_the_kernel_from_answering() -> None:
    """As on a host where containers start all the time."""
    with Namespace() as netns:
        inside(netns, busy_host_here)


def odd_name_here() -> None:
    for name in (b"pnhaaaaaaaaaaaa", b"pn\xff\xfe"):
        subprocess.run([b"ip", b"link", b"add", name, b"type", b"bridge"], check=True)
    assert list(traffic_of(["a" * 64])) == ["a" * 64]


def test_links_of_others_have_any_name() -> None:
    """The kernel takes bytes that are no UTF-8."""
    with Namespace() as netns:
        inside(netns, odd_name_here)


def test_links_that_have_not_moved_yet_are_found_and_others_are_left_out() -> None:
    """By their names alone."""
    with Namespace() as netns:
        inside(netns, links_here)
