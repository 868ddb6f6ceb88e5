"""Host-wide switches: back to what they were, and nothing else."""

import json
import sqlite3
import subprocess

import pytest

from pynetdriver.kernel.strangers import hardware

from .host import NETWORK, Host, network

ALL = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


@pytest.fixture
def uplinks(host: Host) -> Host:
    """A host with two links of which the first one forwards."""
    for name in ("up0", "zz0"):
        host.netns.run("ip", "link", "add", name, "type", "bridge")
    for version in (4, 6):
        host.netns.write_sysctl(f"net/ipv{version}/conf/up0/forwarding", "1")
    for name in ("up0", "zz0"):
        host.netns.write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "1")
    return host


def forwarding(host: Host, *names: str) -> list[str]:
    return [host.netns.sysctl(f"net/ipv{version}/conf/{name}/forwarding") for version in (4, 6) for name in names]


@pytest.mark.parametrize("restart", [False, True])
def test_links_that_forwarded_before_keep_it(uplinks: Host, restart: bool) -> None:
    """Turning forwarding off for all resets every link; the ones that forwarded by themselves do so again."""
    uplinks.netns.write_sysctl("net/ipv6/conf/default/forwarding", "1")
    before = uplinks.state()
    uplinks.ok("CreateNetwork", network(dual=True))
    assert forwarding(uplinks, "up0", "zz0", "all") == ["1"] * 6
    if restart:
        uplinks.restart()
    uplinks.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert forwarding(uplinks, "up0", "zz0", "all") == ["1", "0", "0"] * 2
    assert uplinks.state() == before


def test_advertisements_are_taken_by_whoever_took_them(uplinks: Host) -> None:
    """`accept_ra` goes to 2 and back where advertisements count; a link that forwards takes none anyhow."""
    uplinks.ok("CreateNetwork", network(dual=True))
    assert uplinks.netns.sysctl("net/ipv6/conf/zz0/accept_ra") == "2"
    assert uplinks.netns.sysctl("net/ipv6/conf/up0/accept_ra") == "1"
    uplinks.restart()
    uplinks.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert uplinks.netns.sysctl("net/ipv6/conf/zz0/accept_ra") == "1"


def test_what_somebody_changed_meanwhile_is_left(uplinks: Host) -> None:
    """A link that was told not to forward stays so, as does a switch with a value that is not pynet's."""
    uplinks.ok("CreateNetwork", network(dual=True))
    uplinks.netns.write_sysctl("net/ipv6/conf/up0/forwarding", "0")
    uplinks.netns.write_sysctl("net/ipv6/conf/zz0/accept_ra", "0")
    uplinks.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert forwarding(uplinks, "up0") == ["1", "0"]
    assert uplinks.netns.sysctl("net/ipv6/conf/zz0/accept_ra") == "0"
    assert not uplinks.state().rows


def test_a_link_that_went_is_no_failure(uplinks: Host) -> None:
    """Links go while their values are remembered; the rest is put back."""
    uplinks.ok("CreateNetwork", network(dual=True))
    for name in ("up0", "zz0"):
        uplinks.netns.run("ip", "link", "delete", name)
    uplinks.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert [uplinks.netns.sysctl(name) for name in ALL.values()] == ["0", "0"] and not uplinks.state().rows


def test_values_of_another_boot_are_void(host: Host) -> None:
    """After a reboot the switches are what the host's own configuration made them."""
    host.ok("CreateNetwork", network())
    host.daemon.kill()
    connection = sqlite3.connect(host.daemon.state_dir / "pynet.db")
    changed = "UPDATE record SET data = CAST(json_set(CAST(data AS TEXT), '$.boot', 'another') AS BLOB)"
    assert connection.execute(f"{changed} WHERE kind = 'setting'").rowcount == 1
    connection.commit()
    connection.close()
    host.daemon.start()
    assert not [key for key in host.state().rows if key[0] == "setting"]
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert host.netns.sysctl(ALL[4]) == "1"


def test_hardware_is_told_from_links_that_somebody_made() -> None:
    """On this machine itself, which is only looked at: links without a kind, but for lo; one that went is none."""
    told = json.loads(subprocess.run(("ip", "-d", "-j", "link"), check=True, capture_output=True).stdout)
    wanted = {one["ifname"] for one in told if "info_kind" not in one.get("linkinfo", {})} - {"lo"}
    assert hardware([*(one["ifname"] for one in told), "went0"]) == wanted
