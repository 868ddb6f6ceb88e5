"""A link that leads nowhere: what links of a network stand on that is to be kept in."""

from __future__ import annotations

from pynetdriver.kernel.objects.link import LinkKind
from pynetdriver.plan import Dummy


class DummyKind(LinkKind[Dummy]):
    """It is removed with its network."""

    async def ensure(self, one: Dummy) -> None:
        """Make the link, or bring ours in line. Raises Conflict if somebody else's has the name."""
        await self.ensure_end(one)
