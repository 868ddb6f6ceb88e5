"""What the kernel, `health` and `compare` have to know of a kind of object; each kind is a file beside this one."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.plan import Owner, SandboxInterface

T = TypeVar("T")


class Notices(NamedTuple):
    """What the kernel tells of a kind unasked: its multicast groups and messages (rtnetlink(7)).

    `take` reads a message's body and tells `Health` of it, with whether the thing is there.
    """

    groups: tuple[int, ...]
    come: int | None
    gone: int
    take: Callable[..., None]
    #: The list of all of them: what is in it by the word that `Health` has for it, the message and its body.
    listing: tuple[str, int, bytes] | None = None


class Kind(ABC, Generic[T]):
    """A kind of object; the defaults are those of one that goes with its link, and of which the kernel tells nothing.

    The instance of a kernel makes and removes. What should be is said without one, so these methods are static.
    """

    notices: ClassVar[Notices | None] = None

    def __init__(self, netlink: Netlink) -> None:
        self.netlink = netlink

    @abstractmethod
    async def ensure(self, one: T) -> None:
        """Make the object, or bring in line what exists. Raises PynetError."""

    async def remove(self, one: T) -> None:
        """Remove the object with everything else of its owner; an absent one is fine. Raises PynetError."""

    async def take_back(self, one: T) -> None:
        """Remove the object while its owner stays, whose new plan has none of its key. Raises PynetError."""
        await self.remove(one)

    @staticmethod
    def key(one: T) -> Hashable:
        """Tell what makes two objects one: of a new plan's `ensure` brings that of the former plan in line."""
        return one

    def share(self, one: T, owner: Owner) -> None:
        """Note an owner of an object that may have several."""

    def leave(self, one: T, owner: Owner) -> None:
        """Note that an owner wants the object no more."""

    async def stands(self, one: T, health: Health) -> bool:
        """Tell whether what others made is as it was found. Raises Conflict if something else has its name."""
        return True

    async def repair_inside(self, one: T, namespace: int | None, key: str, interface: SandboxInterface) -> None:
        """Make again what went from a sandbox; see `sandbox.make_inside`. Raises HostError."""

    @staticmethod
    def expect(one: T, owner: Owner, health: Health) -> None:
        """Say what should be."""

    @staticmethod
    def forget(one: T, owner: Owner, health: Health) -> None:
        """Say that it need not be any more."""

    @staticmethod
    def look(one: socket.socket) -> Any:
        """Look at all objects of the kind of which the kernel tells nothing, or not all; what `difference` is given."""

    @staticmethod
    def difference(one: T, looked: Any) -> tuple[str, str] | None:
        """Tell by kind of damage and sentence what is not as it should be."""
        return None
