"""`pynet reconcile` finds and mends what differs, and with --dry-run changes nothing."""

import pytest

from .ask import ask, asked, differences
from .host import NETWORK, PROGRAM, Host, both_firewalls, endpoint_id, network, port, program

pytestmark = both_firewalls

BRIDGE, END = "pn-9f9f9f9f9f9f", f"pnh{endpoint_id(2)[:12]}"


@pytest.fixture
def standing(host: Host) -> Host:
    """A host with a network and an endpoint."""
    host.ok("CreateNetwork", network(dual=True))
    host.attach(2, dual=True)
    host.ok(PROGRAM, program(2, port(8080)))
    return host


def test_nothing_differs_on_a_sound_host(standing: Host) -> None:
    """What pynet made is what it wants."""
    before = standing.state()
    for arguments in (("--dry-run",), ()):
        assert asked(standing, "reconcile", *arguments)["differences"] == []
    assert "nothing differs" in ask(standing, "reconcile")
    assert standing.state() == before


@pytest.mark.parametrize(
    ("command", "owner", "what"),
    [
        ("echo 0 >/proc/sys/net/ipv4/ip_forward", "network", "forwarding ipv4 is not so"),
        (f"ip link add pn-{'7' * 12} type bridge; ip link set pn-{'7' * 12} group 0x706e", "pynet", "nothing needs it"),
        (f"echo 1 >/proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra", "network", "accept_ra"),
    ],
)
def test_what_the_kernel_does_not_tell_of_is_found(standing: Host, command: str, owner: str, what: str) -> None:
    """A dry run says it and exits with 1; a run mends it."""
    before = standing.state()
    standing.netns.run("sh", "-c", command)
    after = standing.state()
    if after == before:
        pytest.fail("nothing was damaged")
    (found,) = asked(standing, "reconcile", "--dry-run", code=1)["differences"]
    assert found["owner"].startswith(owner) and what in found["what"] and not found["mended"]
    assert standing.state() == after
    (mended,) = asked(standing, "reconcile")["differences"]
    assert mended == {**found, "mended": True}
    assert standing.state() == before
    assert asked(standing, "reconcile")["differences"] == []


def test_links_in_use_are_left_alone(standing: Host) -> None:
    """A link of pynet's name with something on it is somebody's."""
    name = f"pn-{'7' * 12}"
    standing.netns.run("ip", "link", "add", name, "type", "bridge")
    assert asked(standing, "reconcile")["differences"] == []
    assert name in standing.netns.run("ip", "-br", "link")
    standing.netns.run("ip", "link", "delete", name)


def test_an_endpoint_whose_container_is_gone_is_collected(standing: Host) -> None:
    """What the engine forgot to delete is told and removed."""
    standing.netns.run("ip", "link", "delete", END)
    # At once, since the daemon looks for dead ones itself now and then.
    (found,) = differences(standing)
    assert found["owner"] == f"endpoint:{endpoint_id(2)[:12]}" and "is gone" in found["what"]
    assert asked(standing, "reconcile")["differences"] in ([{**found, "mended": True}], [])
    assert asked(standing, "inspect", NETWORK)["endpoints"] == []
