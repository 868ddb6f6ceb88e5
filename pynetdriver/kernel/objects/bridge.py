"""A bridge that pynet makes: up, with an MTU and a MAC of its own."""

from __future__ import annotations

from pynetdriver.kernel.objects.link import LinkKind
from pynetdriver.plan import Bridge


class BridgeKind(LinkKind[Bridge]):
    """It is removed with its network."""

    async def ensure(self, one: Bridge) -> None:
        """Make the bridge, or bring ours in line. Raises Conflict if somebody else's link has the name."""
        await self.ensure_end(one)
