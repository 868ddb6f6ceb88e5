"""A pair: a port of a bridge on the host, and its peer, which the engine moves into the sandbox.

When the sandbox goes the pair goes with it, so a port that is gone is no damage.
"""

from __future__ import annotations

from pynetdriver.errors import HostError
from pynetdriver.kernel.health import Health, LinkState
from pynetdriver.kernel.objects.link import LinkKind, down_or_resized
from pynetdriver.kernel.rtnetlink import IFF_UP, host_errors, index_of, index_of_present
from pynetdriver.plan import Owner, Veth

#: Of linux/neighbour.h: an entry of a bridge's table that neither ages nor moves to another port.
_NUD_NOARP = 0x40
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40


class VethKind(LinkKind[Veth]):
    """Removing the host's end removes both."""

    async def ensure(self, one: Veth) -> None:
        """Make the pair as a port of its bridge, or put ours back that left it.

        Raises:
            Conflict: somebody else's link has the name.
            HostError: the bridge is not there.
        """
        with host_errors(f"create link {one.name}"):
            bridge = index_of(one.bridge)
            if bridge is None:
                raise HostError(gone(one.bridge))
            index = index_of(one.name)
            if index is None:
                await self._add(one, bridge)
            else:
                link = await self.netlink.ours(index, one.name, one.kind)
                if (link.get("master"), link.get("mtu")) != (bridge, one.mtu) or not link["flags"] & IFF_UP:
                    await self.netlink.requests.link("set", index=index, mtu=one.mtu, master=bridge, state="up")
            if one.isolated or one.locked:
                await self._set_modes(one)

    async def _add(self, one: Veth, bridge: int) -> None:
        peer = {"ifname": one.peer, "mtu": one.peer_mtu or one.mtu, "address": one.peer_mac}
        # Attributes beside `peer` are those of the host's end alone (drivers/net/veth.c, veth_newlink).
        # A bridge may take the lowest of its ports' addresses; one that begins so does not change it.
        ours = {"mtu": one.mtu, "master": bridge, "group": one.group, "address": f"fe{one.peer_mac[2:]}"}
        await self.netlink.requests.link("add", ifname=one.name, kind=one.kind, peer=peer, state="up", **ours)

    async def _set_modes(self, one: Veth) -> None:
        index = index_of_present(one.name)
        if one.locked:
            await self.netlink.requests.fdb(
                "replace", ifindex=index, lladdr=one.peer_mac, state=_NUD_NOARP, flags=_NTF_MASTER | _NTF_STICKY
            )
        await self.netlink.requests.brport("set", index=index, **dict.fromkeys(_modes(one), 1))

    @staticmethod
    def expect(one: Veth, owner: Owner, health: Health) -> None:
        """Want the port up, in its bridge, with its MTU and modes."""
        health.expect_link(owner, one, _wrong, _modes(one))


def _modes(one: Veth) -> frozenset[str]:
    return frozenset(mode for mode in ("isolated", "locked") if getattr(one, mode))


def _wrong(one: Veth, link: LinkState) -> str:
    found = down_or_resized(one, link)
    return found or (f"is not in {one.bridge}" if link.master != index_of(one.bridge) else "")


def gone(bridge: str) -> str:
    """Say that a bridge is not there."""
    return f'bridge "{bridge}" is gone from this host; make it again if it is yours, or restart pynet to restore it'
