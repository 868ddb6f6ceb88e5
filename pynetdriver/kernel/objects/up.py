"""A link of pynet's is brought up, after its switches are set; that it stays so is expected of the link itself.

It is not taken down when it is wanted no more: it goes with its link.
"""

from __future__ import annotations

from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.rtnetlink import IFF_UP, host_errors, index_of_present
from pynetdriver.plan import Up


class UpKind(Kind[Up]):
    """It goes with its link."""

    async def ensure(self, one: Up) -> None:
        """Bring the link up; looked at first, as a change that changes nothing is told to everybody too."""
        with host_errors(f"bring up link {one.link}"):
            index = index_of_present(one.link)
            if not (await self.netlink.link(index))["flags"] & IFF_UP:
                await self.netlink.requests.link("set", index=index, state="up")

    async def take_back(self, one: Up) -> None:
        """Leave the link up."""
