"""A link of somebody else's on which a network's links stand: it has to be there, and is not made, changed or removed.

What else is wanted of it are host settings; what it carries of pynet's are objects of their own.
"""

from __future__ import annotations

from pynetdriver.errors import HostError
from pynetdriver.kernel.health import Foreign, Health
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.rtnetlink import index_of
from pynetdriver.plan import Owner, Parent


class ParentKind(Kind[Parent]):
    """Nothing is undone when it is wanted no more."""

    async def ensure(self, one: Parent) -> None:
        """Require the link. Raises HostError if it is not there."""
        if index_of(one.link) is None:
            raise HostError(no_parent(one.link))

    async def stands(self, one: Parent, health: Health) -> bool:
        """Tell whether the link is there, and was up when it was last seen."""
        return index_of(one.link) is not None and not health.is_cut_off(one.link)

    @staticmethod
    def expect(one: Parent, owner: Owner, health: Health) -> None:
        """Have it noticed when the link goes, and when it comes back."""
        health.expect_foreign(owner, one.link, Foreign("parent", "parent", up=True))

    @staticmethod
    def forget(one: Parent, owner: Owner, health: Health) -> None:
        """Notice it no more."""
        health.forget_foreign(owner, one.link)


def no_parent(name: str) -> str:
    """Say that the link on which a network stands is not there."""
    return f'parent "{name}" is not on this host (any more); bring it back, or give it that name again'
