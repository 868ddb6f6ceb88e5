"""A bridge of somebody else's: up while the network is there, and given back as it was found."""

from __future__ import annotations

from collections.abc import Hashable

from pynetdriver.errors import Conflict, HostError
from pynetdriver.kernel.health import Foreign, Health
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.objects.veth import gone
from pynetdriver.kernel.rtnetlink import IFF_UP, host_errors, index_of
from pynetdriver.plan import Adopted, Bridge, Owner, Veth

_NO_MAC = "00:00:00:00:00:00"
#: What the kernel gives a bridge whose last port went (net/bridge/br_if.c, br_mtu_min).
_MTU_WITHOUT_PORTS = 1500


class AdoptedKind(Kind[Adopted]):
    """It is never removed."""

    async def ensure(self, one: Adopted) -> None:
        """Bring the bridge up, and keep its MAC if it has no ports yet: it would be the containers'.

        Raises:
            Conflict: another kind of link has its name by now.
            HostError: it is not there.
        """
        with host_errors(f'use bridge "{one.link}"'):
            index = index_of(one.link)
            if index is None:
                raise HostError(gone(one.link))
            link = await self.netlink.link(index)
            if link.get(("linkinfo", "kind")) != Bridge.kind or link.get("master"):
                raise Conflict(_no_bridge(one.link))
            if not link["flags"] & IFF_UP:
                await self.netlink.requests.link("set", index=index, state="up")
            if link.get("address") != _NO_MAC and not await self.netlink.is_in_use(one.link):
                await self.netlink.requests.link("set", index=index, address=link.get("address"))

    async def stands(self, one: Adopted, health: Health) -> bool:
        """Tell whether the bridge is there, and up if it was found so: else others have to see to it.

        Raises:
            Conflict: another kind of link has its name by now.
        """
        link = await self.netlink.describe(one.link)
        if link is not None and (link.kind != Bridge.kind or link.master):
            raise Conflict(_no_bridge(one.link))
        return link is not None and (link.up or not one.up)

    async def remove(self, one: Adopted) -> None:
        """Undo what `ensure` and ports did to the bridge, unless others have ports there.

        Raises:
            HostError: a port of pynet's is still there, so it is too early.
        """
        with host_errors(f'give back bridge "{one.link}"'):
            index = index_of(one.link)
            if index is None:
                return
            ports = await self.netlink.ports(index)
            if any((port.kind, port.group) == (Veth.kind, Veth.group) for port in ports):
                raise HostError(f'bridge "{one.link}" cannot be given back before the last container has left it')
            if ports:
                return
            if one.mtu != _MTU_WITHOUT_PORTS == (await self.netlink.link(index)).get("mtu"):
                await self.netlink.requests.link("set", index=index, mtu=one.mtu)
            if not one.up:
                await self.netlink.requests.link("set", index=index, state="down")

    @staticmethod
    def key(one: Adopted) -> Hashable:
        """Give the bridge's name."""
        return one.link

    @staticmethod
    def expect(one: Adopted, owner: Owner, health: Health) -> None:
        """Have it noticed when the bridge goes or comes back; what others do to it otherwise is theirs."""
        health.expect_foreign(owner, one.link, Foreign("bridge", "adopted bridge", up=one.up))

    @staticmethod
    def forget(one: Adopted, owner: Owner, health: Health) -> None:
        """Notice it no more."""
        health.forget_foreign(owner, one.link)


def _no_bridge(name: str) -> str:
    return f'"{name}" is not the bridge any more that a network adopted; rename it, and make the bridge again'
