"""`kill -9`, and what a new daemon makes of what it finds."""

from pynetdriver.names import LINK_GROUP
from tests.lab.netns import Namespace

from .host import NETWORK, OTHER, PROGRAM, Host, both_firewalls, endpoint_id, ids, join, network, port, program
from .test_life import can_bind

pytestmark = both_firewalls

BRIDGE = "pn-9f9f9f9f9f9f"


def with_two_endpoints(host: Host) -> None:
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    for number in (2, 3):
        host.attach(number, dual=True)
        host.ok(PROGRAM, program(number, port(8080 + number), port(53, 53, 17, "127.0.0.1", end=60)))


def test_restart_changes_nothing_when_nothing_happened(host: Host) -> None:
    """A killed daemon comes back to what it left, host ports included."""
    with_two_endpoints(host)
    before = host.state()
    host.restart()
    assert host.state() == before
    assert not can_bind(host, 8082) and not can_bind(host, 8083)
    host.ok(PROGRAM, program(2, port(8082), port(53, 53, 17, "127.0.0.1", end=60)))
    assert host.state() == before


def test_restart_writes_rules_anew_when_they_were_flushed(host: Host) -> None:
    """Rules that others removed are there again."""
    with_two_endpoints(host)
    before = host.state()
    host.daemon.kill()
    host.flush_rules()
    host.daemon.start()
    assert host.state() == before


def test_restart_makes_a_lost_bridge_again(host: Host) -> None:
    """A bridge that others removed is made again, with its ports."""
    with_two_endpoints(host)
    before = host.state()
    host.daemon.kill()
    host.netns.run("ip", "link", "delete", BRIDGE)
    host.netns.write_sysctl("net/ipv4/ip_forward", "0")
    host.daemon.start()
    assert host.state() == before


def test_restart_mends_a_changed_bridge(host: Host) -> None:
    """A bridge whose MTU, state or address was changed is brought in line."""
    with_two_endpoints(host)
    before = host.state()
    host.daemon.kill()
    host.netns.run("ip", "link", "set", BRIDGE, "down", "mtu", "1300")
    host.netns.run("ip", "address", "flush", "dev", BRIDGE)
    host.netns.run("ip", "link", "set", "pnh000200020002", "nomaster")
    host.daemon.start()
    assert host.state() == before


def test_restart_drops_endpoints_whose_link_is_gone(host: Host) -> None:
    """A link that went with its sandbox takes row, rules and host ports along."""
    with_two_endpoints(host)
    host.daemon.kill()
    host.netns.run("ip", "link", "delete", "pnh000200020002")
    host.daemon.start()
    state = host.state()
    assert ("endpoint", endpoint_id(2)) not in state.rows and ("endpoint", endpoint_id(3)) in state.rows
    assert "8082" not in state.rules and "8083" in state.rules
    assert can_bind(host, 8082) and not can_bind(host, 8083)
    host.ok("DeleteEndpoint", ids(2))


def test_restart_keeps_endpoints_whose_link_is_in_a_sandbox(host: Host) -> None:
    """An endpoint in a running container is left as it is."""
    with_two_endpoints(host)
    with Namespace() as sandbox:
        host.netns.run("ip", "link", "set", "pnc000200020002", "netns", sandbox.name)
        before = host.state()
        host.restart()
        assert host.state() == before
        assert "pnc000200020002" in sandbox.run("ip", "link")


def test_restart_collects_links_of_ours_that_nothing_names(host: Host) -> None:
    """A link with pynet's name and no record goes; one that a container uses stays, as does any other."""
    with_two_endpoints(host)
    before = host.state()
    host.daemon.kill()
    group = ("group", str(LINK_GROUP))
    host.netns.run("ip", "link", "add", "pn-0123456789ab", *group, "type", "bridge")
    host.netns.run("ip", "link", "add", "pnh0123456789ab", *group, "type", "veth", "peer", "name", "pnc0123456789ab")
    host.netns.run("ip", "link", "add", "pn-mine", "type", "bridge")
    with Namespace() as sandbox:
        peer = ("type", "veth", "peer", "name", "e0", "netns", sandbox.name)
        host.netns.run("ip", "link", "add", "pnhabcabcabcabc", *group, *peer)
        host.daemon.start()
        state = host.state()
        assert set(state.links) - set(before.links) == {"pn-mine", "pnhabcabcabcabc"}
        assert state.rows == before.rows and state.rules == before.rules


def test_restart_keeps_a_port_published_that_was_taken_meanwhile(host: Host) -> None:
    """A port that another process took while the daemon was away is still published, and a warning says so."""
    with_two_endpoints(host)
    before = host.state()
    host.daemon.kill()
    code = "import socket; s=socket.create_server(('', 8082)); print('up', flush=True); s.accept()"
    with host.netns.popen("python3", "-c", code, stdout=-1) as server:
        assert server.stdout is not None and server.stdout.readline() == b"up\n"
        host.daemon.start()
        assert host.state() == before and "no longer ours alone" in host.daemon.log
        server.kill()
    host.ok("Leave", ids(2))
    assert can_bind(host, 8082)


def test_everything_goes_after_a_restart(host: Host) -> None:
    """A new daemon can remove all that the old one made."""
    before = host.state()
    with_two_endpoints(host)
    host.restart()
    host.ok("Join", join(2))
    for number in (2, 3):
        host.ok("Leave", ids(number))
        host.ok("DeleteEndpoint", ids(number))
    for id in (NETWORK, OTHER):
        host.ok("DeleteNetwork", {"NetworkID": id})
    assert host.state() == before


def test_addresses_outlive_a_restart(host: Host) -> None:
    """Leases and the order of releases outlive `kill -9`."""
    pool = {"AddressSpace": "pynet-local", "Pool": "10.7.0.0/29", "SubPool": "", "Options": None, "V6": False}
    any_address = {"PoolID": host.ok("IpamDriver.RequestPool", pool)["PoolID"], "Address": ""}

    def given(count: int) -> list[str]:
        return [host.ok("IpamDriver.RequestAddress", any_address)["Address"] for _ in range(count)]

    assert given(4) == [f"10.7.0.{number}/29" for number in (1, 2, 3, 4)]
    for number in (3, 1):
        host.ok("IpamDriver.ReleaseAddress", {**any_address, "Address": f"10.7.0.{number}"})
    host.restart()
    assert given(4) == [f"10.7.0.{number}/29" for number in (5, 6, 3, 1)]
    assert "no free address" in host.refused("IpamDriver.RequestAddress", any_address)
