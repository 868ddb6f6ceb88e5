"""A switch of a link of pynet's, under net/<family>/conf/<link>/; one of somebody else's link is a host setting.

It is not put back when it is wanted no more, since its value before is not known: it goes with its link. The kernel
tells of no change, so `difference` looks.
"""

from __future__ import annotations

from typing import Any

from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.settings import differs, ensure_link_sysctl
from pynetdriver.plan import LinkSysctl


class LinkSysctlKind(Kind[LinkSysctl]):
    """It goes with its link."""

    async def ensure(self, one: LinkSysctl) -> None:
        """Set the switch unless it is set. Raises HostError if the kernel refuses."""
        ensure_link_sysctl(one)

    @staticmethod
    def difference(one: LinkSysctl, looked: Any) -> tuple[str, str] | None:
        """Tell of another value."""
        return ("switch", f"{one} is not so") if differs(one) else None
