"""Links of others on which networks stand: which of them are not what they were when somebody looked last."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

from pynetdriver.kernel.rtnetlink import index_of


class FollowedLinks:
    """Fed with messages about links and addresses; names what has changed."""

    def __init__(self) -> None:
        #: What the last message said of each link that is followed, None if there was none.
        self._seen: dict[str, Hashable] = {}
        #: Names by index, which is all that messages about addresses have.
        self._names: dict[int, str] = {}
        self._changed: set[str] = set()

    def follow(self, names: Iterable[str]) -> None:
        """Follow links from now on; they count as changed."""
        for name in names:
            self._seen.setdefault(name, None)
            self._changed.add(name)
            self._find(name)

    def forget(self, name: str) -> None:
        """Follow a link no more."""
        self._seen.pop(name, None)
        self._names = {index: one for index, one in self._names.items() if one != name}

    @property
    def has_changed(self) -> bool:
        """Tell whether there is anything to take."""
        return bool(self._changed)

    def take(self, among: Collection[str] | None = None) -> set[str]:
        """Hand over which links changed, came or went, of all or among some."""
        taken = self._changed.intersection(self._changed if among is None else among)
        self._changed -= taken
        return taken

    def named(self, index: int, name: str) -> bool:
        """Note a link's name, which may have been another one; tells whether the link is followed."""
        former = self._names.get(index)
        if former is not None and former != name:
            self._lost(index)
        if name not in self._seen:
            return False
        self._names[index] = name
        return True

    def seen(self, name: str, state: Hashable) -> None:
        """Note what a message says of a link, which comes also where nothing of this changed."""
        if name in self._seen and self._seen[name] != state:
            self._seen[name] = state
            self._changed.add(name)

    def gone(self, index: int) -> None:
        """Note that a link is no more."""
        if index in self._names:
            self._lost(index)

    def addressed(self, index: int) -> None:
        """Note that a link has other addresses."""
        if index in self._names:
            self._changed.add(self._names[index])

    def unknown(self) -> None:
        """Note that messages were lost: any link may have changed."""
        self._names.clear()
        self.follow(self._seen)

    def _find(self, name: str) -> None:
        index = index_of(name)
        if index is not None:
            self._names[index] = name

    def _lost(self, index: int) -> None:
        name = self._names.pop(index)
        self._seen[name] = None
        self._changed.add(name)
