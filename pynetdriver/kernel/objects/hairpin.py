"""A bridge port's mode in which it may send a packet back to where it came from (IFLA_BRPORT_MODE)."""

from __future__ import annotations

import errno

from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.kernel.health import Health
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.rtnetlink import host_errors, index_of, index_of_present
from pynetdriver.plan import Hairpin, Owner


class HairpinKind(Kind[Hairpin]):
    """It goes with its port, and is expected as part of it."""

    async def ensure(self, one: Hairpin) -> None:
        """Turn the mode on. Raises HostError if there is no such port."""
        with host_errors(f"set hairpin mode of {one.link}"):
            await self.netlink.requests.brport("set", index=index_of_present(one.link), mode=1)

    async def take_back(self, one: Hairpin) -> None:
        """Turn the mode off; a link that is gone, or no port any more, is fine."""
        index = index_of(one.link)
        if index is None:
            return
        with host_errors(f"end hairpin mode of {one.link}"):
            try:
                await self.netlink.requests.brport("set", index=index, mode=0)
            except NetlinkError as error:
                if error.code not in (errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    @staticmethod
    def expect(one: Hairpin, owner: Owner, health: Health) -> None:
        """Want it of the port, which comes before it in a plan."""
        health.expect_mode(one.link, "hairpin")
