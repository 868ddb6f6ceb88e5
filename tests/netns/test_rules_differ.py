"""What others changed of the rules is named, whichever kind holds them; no daemon is there to mend it first."""

import asyncio
import subprocess
from collections.abc import Sequence

import pytest
from netaddr import IPAddress, IPNetwork

from pynetdriver.firewall import Firewall
from pynetdriver.firewall.iptables import IptablesFirewall
from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
from pynetdriver.plan import Crossing, Owner, PortForward, Segment
from tests.lab.netns import Namespace

from .inside import inside

SEGMENT = Segment("pn-9f9f9f9f9f9f", (IPNetwork("10.9.0.0/24"),), (Crossing(4, source="link"),))
PORT = PortForward("tcp", IPAddress("0.0.0.0"), 8080, IPAddress("10.9.0.2"), 80)


async def found_after(firewall: Firewall, damage: Sequence[str]) -> list[str]:
    """Write rules, change them as others would, ask, and have all written anew."""
    await firewall.set(Owner.network("1"), (SEGMENT,))
    await firewall.set(Owner.endpoint("1"), (PORT,))
    assert await firewall.differences() == []
    subprocess.run(damage, check=True)  # noqa: ASYNC221
    found = await firewall.differences()
    assert await firewall.differences() == found, "asking changes nothing"
    await firewall.rewrite()
    assert await firewall.differences() == []
    await firewall.reset({})
    assert await firewall.differences() == []
    return found


def nftables() -> None:
    for damage, found in (
        ("delete element inet pynet publish4 { tcp . 8080 }", "set publish4 of table inet pynet has 0 of 1 entries"),
        ("flush chain inet pynet publish", "chain publish of table inet pynet has 0 of 4 entries"),
        ("add rule inet pynet forward drop", "chain forward of table inet pynet has 9 of 8 entries"),
        ("delete table inet pynet", "table inet pynet is gone"),
    ):
        assert asyncio.run(found_after(NftablesFirewall(Nftables()), ["nft", damage])) == [found], damage


def iptables() -> None:
    for damage in ("-t nat -F PYNET-PUBLISH", "-t nat -F POSTROUTING"):
        found = asyncio.run(found_after(IptablesFirewall(), ["iptables-legacy", *damage.split()]))
        assert found == ["pynet's chains in the IPv4 table nat were changed"], damage


def test_in_nftables() -> None:
    with Namespace() as netns:
        inside(netns, nftables)


@pytest.mark.debian13  # iptables 1.8.11 lays out the options of its extensions otherwise
def test_in_legacy_tables() -> None:
    with Namespace() as netns:
        inside(netns, iptables)
