"""A VLAN as parent, `lan1.50`: tagged on the wire, made when it is missing, and gone with the last network on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.engine.lab import Lab
from tests.lab.lan import Site
from tests.lab.wait import eventually

from .test_macvlan import every, links_on, reaches

pytestmark = [pytest.mark.once, pytest.mark.needs_kernel("8021q")]

VLAN = f"{Site.PARENT}.50"
SUBNET = ("--subnet", "10.50.0.0/24", "--gateway", "10.50.0.1")
SUBNET6 = ("--ipv6", "--subnet", "fd00:50::/64", "--gateway", "fd00:50::1")
MORE = ("--subnet", "10.51.0.0/24")
SENDS = "import socket;socket.socket(2,2).sendto(b'tagged?',('10.50.0.1',4000))"
#: Prints the 802.1Q tags of the frame that `SENDS` makes (packet(7)): python3 -c TAGS LINK
TAGS = (
    "import socket,sys,struct\n"
    "s=socket.socket(17,3,socket.htons(3));s.setsockopt(263,8,1);s.bind((sys.argv[1],3));s.settimeout(5)\n"
    "print('up',flush=True)\n"
    "while True:\n"
    "  data,extra,_,_=s.recvmsg(200,200)\n"
    "  if b'tagged?' in data:\n"
    "    print([struct.unpack_from('=H',one[2],16)[0] for one in extra if one[1]==8],flush=True);break"
)


@pytest.fixture
def tagged(site: Site) -> Iterator[Site]:
    """The site, whose second machine is on VLAN 50 too."""
    site.peer.run("ip", "link", "add", "link", "eth0", "name", "eth0.50", "type", "vlan", "id", "50")
    for address in ("10.50.0.1/24", "fd00:50::1/64"):
        site.peer.run("ip", "address", "add", address, "dev", "eth0.50", *(["nodad"] if ":" in address else []))
    site.peer.run("ip", "link", "set", "eth0.50", "up")
    yield site
    site.peer.run("ip", "link", "delete", "eth0.50")


def test_a_vlan_is_made_and_goes_with_the_last_network(lab: Lab, tagged: Site) -> None:
    """Tagged frames, the second machine and host access, of both families; a second network keeps it until its end."""
    options = ("-o", "backend=macvlan", "-o", f"parent={VLAN}", "-o", "host_access=true")
    lab.network("lan", *options, *SUBNET, *SUBNET6)
    lab.network("more", *options, *MORE)
    lab.web("one", "--network", "lan", "--ip", "10.50.0.9", "--ip6", "fd00:50::9")
    for address in ("10.50.0.9", "[fd00:50::9]"):
        for where in (tagged.peer, lab.host):
            assert lab.page(where, f"http://{address}/hostname") == "one", address
    assert reaches(lab, "one", "10.50.0.1", "fd00:50::1") == every("10.50.0.1", "fd00:50::1")
    with tagged.switch.popen("python3", "-c", TAGS, "host", stdout=subprocess.PIPE) as tags:
        assert tags.stdout is not None and tags.stdout.readline() == b"up\n"
        lab.sandbox("one", "python3", "-c", SENDS).wait()
        assert tags.stdout.readline() == b"[50]\n"
    (link,) = links_on(lab)
    assert link == VLAN
    lab.docker("rm", "-f", "one")
    lab.docker("network", "rm", "lan")
    lab.run("two", "--network", "more", "--ip", "10.51.0.9")
    assert links_on(lab) == [VLAN]
    # The VLAN is put back when somebody takes it.
    lab.host.run("ip", "link", "delete", VLAN)
    assert eventually(lambda: links_on(lab) == [VLAN])
    assert eventually(lambda: lab.host.run("ping", "-c1", "-W1", "10.51.0.9"))
    lab.daemon.kill()
    lab.daemon.start()
    lab.docker("rm", "-f", "two")
    lab.docker("network", "rm", "more")
    assert links_on(lab) == []


def test_a_vlan_that_was_there_stays(lab: Lab, tagged: Site) -> None:
    """It is used and left as it was; its address is the host's in the network's subnet."""
    lab.host.run("ip", "link", "add", "link", tagged.PARENT, "name", VLAN, "type", "vlan", "id", "50")
    try:
        lab.host.run("ip", "address", "add", "10.50.0.7/24", "dev", VLAN)
        lab.host.run("ip", "link", "set", VLAN, "up")
        assert eventually(lambda: not lab.host.run("ip", "address", "show", "dev", VLAN, "tentative"))
        before = lab.host.run("ip", "-d", "address", "show", VLAN)
        lab.network("lan", "-o", "backend=macvlan", "-o", f"parent={VLAN}", "-o", "host_access=true", *SUBNET)
        lab.web("one", "--network", "lan", "--ip", "10.50.0.9")
        for where in (tagged.peer, lab.host):
            assert lab.page(where, "http://10.50.0.9/hostname") == "one"
        assert lab.pings("one", "10.50.0.7")
        lab.clean()
        assert eventually(lambda: lab.host.run("ip", "-d", "address", "show", VLAN) == before)
    finally:
        lab.host.run("ip", "link", "delete", VLAN)


def test_a_vlan_that_cannot_be_made_is_refused(lab: Lab, tagged: Site) -> None:
    """No such lower link, no such number."""
    create = ("network", "create", "-d", "pynet", "-o", "backend=macvlan", *SUBNET)
    assert '"nic7" under "nic7.50" is not on this host' in lab.refused(*create, "-o", "parent=nic7.50", "x1")
    assert "lan1.4095" in lab.refused(*create, "-o", "parent=lan1.4095", "x1")
