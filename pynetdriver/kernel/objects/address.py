"""An address of a link."""

from __future__ import annotations

import errno
import struct

from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.kernel.health import Health, Thing
from pynetdriver.kernel.objects.kind import Kind, Notices
from pynetdriver.kernel.rtnetlink import (
    ADDRESS_GROUPS,
    ALL_ADDRESSES,
    DELADDR,
    GETADDR,
    IFA_F_NODAD,
    NEWADDR,
    host_errors,
    index_of,
    index_of_present,
    raw_address,
)
from pynetdriver.plan import Address, Owner


def tell_of_address(health: Health, body: bytes, *, is_there: bool) -> None:
    """Tell of an address what a message says."""
    (index,) = struct.unpack_from("=4xI", body)
    health.followed.addressed(index)
    if is_there:
        health.thing_seen(raw_address(body), index)
    else:
        health.thing_gone(raw_address(body), index)


class AddressKind(Kind[Address]):
    """It goes with its link, unless that stays when its owner goes."""

    notices = Notices(ADDRESS_GROUPS, NEWADDR, DELADDR, tell_of_address, ("address", GETADDR, ALL_ADDRESSES))

    async def ensure(self, one: Address) -> None:
        """Give the link the address; IPv6 without duplicate address detection, to be usable at once."""
        with host_errors(f"add address {one.address} to {one.link}"):
            flags = {"flags": IFA_F_NODAD} if one.address.version == 6 else {}
            index = index_of_present(one.link)
            try:
                await self.netlink.requests.addr(
                    "add", index=index, address=str(one.address.ip), prefixlen=one.address.prefixlen, **flags
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise

    async def remove(self, one: Address) -> None:
        """Take it from a link that stays; else it goes with that."""
        if one.stays:
            await self.take_back(one)

    async def take_back(self, one: Address) -> None:
        """Take the address from its link; an absent one is fine."""
        index = index_of(one.link)
        if index is None:
            return
        with host_errors(f"remove address {one.address} from {one.link}"):
            try:
                await self.netlink.requests.addr(
                    "del", index=index, address=str(one.address.ip), prefixlen=one.address.prefixlen
                )
            except NetlinkError as error:
                if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise

    @staticmethod
    def expect(one: Address, owner: Owner, health: Health) -> None:
        """Want it on its link; routes with it as their source go with it."""
        health.expect_thing(_key(one), Thing(owner, "address", one.link, str(one), source=one.address.ip))

    @staticmethod
    def forget(one: Address, owner: Owner, health: Health) -> None:
        """Want it no more."""
        health.forget_thing(_key(one))


def _key(one: Address) -> tuple[bytes, int]:
    return one.address.ip.packed, one.address.prefixlen
