"""Containers whose root may do as he likes with links: what he does in his namespace decides nothing for others."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pynetdriver.kernel import sandbox
from pynetdriver.kernel.rtnetlink import ALL_LINKS
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import Host, endpoint_id, rows
from .inside import inside
from .parents import container, container_link, endpoint_on, on_lan, on_parent

#: Links enough for a list of them to take several messages, and those that come and go meanwhile.
MANY = "\n".join(f"link add many{number} type bridge" for number in range(1500))
CHURN = (
    'while :; do for n in $(seq 20); do echo "link add churn$1-$n type bridge"; done; '
    'for n in $(seq 20); do echo "link delete churn$1-$n"; done; sleep 0.02; done | ip -batch -'
)


@contextmanager
def churning(inside_of: Namespace) -> Iterator[None]:
    """Make and delete links all the time, but leave others the kernel's lock on links now and then."""
    inside_of.run("ip", "-batch", "-", input=MANY)
    churners = [inside_of.popen("sh", "-c", CHURN, "sh", str(one), stderr=subprocess.DEVNULL) for one in range(2)]
    try:
        time.sleep(0.5)
        yield
        assert all(one.poll() is None for one in churners)
    finally:
        for one in churners:
            one.kill()
            one.wait()


def test_a_container_that_churns_links_decides_nothing(host: Host) -> None:
    """pynet starts, links of all containers live on, and what is dead makes room: before a start and after it."""
    with on_lan(host):
        host.ok("CreateNetwork", on_parent())
        with container(host, 2, "192.0.2.20/24") as bad, container(host, 3, "192.0.2.30/24"):
            with container(host, 4, "192.0.2.40/24"):
                pass
            with churning(bad):
                host.restart()
                kept = {key for kind, key in rows(host.daemon.state_dir) if kind == "endpoint"}
                assert kept == {endpoint_id(2), endpoint_id(3)}
                with container(host, 4, "192.0.2.40/24"):
                    assert "in use" in host.refused("CreateEndpoint", endpoint_on(5, address4="192.0.2.40/24"))

                def free() -> bool:
                    status, answer = host.call("CreateEndpoint", endpoint_on(5, address4="192.0.2.40/24"))
                    assert status == 200, answer
                    return True

                eventually(free, timeout_s=20)
                assert ("endpoint", endpoint_id(2)) in rows(host.daemon.state_dir)
        assert "Traceback" not in host.daemon.log


def test_a_namespace_that_cannot_be_listed_leaves_the_others(host: Host) -> None:
    """Its own links may be there still; what is in other namespaces is found."""
    with on_lan(host):
        host.ok("CreateNetwork", on_parent())
        with container(host, 2, "192.0.2.20/24"), container(host, 3, "192.0.2.30/24"):
            inside(host.netns, look_past_a_refusal)


def look_past_a_refusal() -> None:
    def refuse(body: bytes) -> bool:
        """Stand for the kernel where it ends a list with an error."""
        if sandbox.alias_of(body) == container_link(2):
            raise OSError(errno.EMSGSIZE, "")
        return sandbox.alias_of(body) is not None

    found = [(len(links), is_whole) for _, links, is_whole in sandbox.links_elsewhere(ALL_LINKS, refuse)]
    assert (0, None) in found and (1, True) in found
    there = sandbox.Elsewhere({}, frozenset({1}), unread=True)
    assert there.may_hold(1) and there.may_hold(None) and not there.may_hold(2)
    assert not sandbox.Elsewhere({}, frozenset({1})).may_hold(None)
