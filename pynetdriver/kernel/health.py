"""What should be on the host beside what was last seen there: the difference is damage.

Every message about a link says all of its state, so the last one decides and no question is asked.
Links of others are never expected to be anything: a bridge that was adopted is only noticed to go and to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from netaddr import IPAddress

from pynetdriver.kernel.followed import FollowedLinks
from pynetdriver.kernel.rtnetlink import index_of
from pynetdriver.plan import Bridge, Made, Owner

log = structlog.get_logger()

#: Begin the names of links that come and go with containers.
_PASSING = ("veth", "pn")


class Damage(NamedTuple):
    """What is wrong with something of an owner's; `kind` is bridge, port, link, parent, address or route."""

    owner: Owner
    kind: str
    what: str


@dataclass(frozen=True)
class LinkState:
    """A link as a message shows it; `modes` are those of a bridge port that are on."""

    name: str
    up: bool
    mtu: int
    mac: str
    master: int
    modes: frozenset[str]
    promiscuous: bool = False


class Thing(NamedTuple):
    """What should be on a link, by its kind of damage and its name; routes with the address `source` go with it."""

    owner: Owner
    kind: str
    link: str
    what: str
    source: IPAddress | None = None


class Foreign(NamedTuple):
    """A link of somebody else's, by its kind of damage and in sentences, and whether it is to be up."""

    kind: str
    word: str
    up: bool


class _Expected(NamedTuple):
    """A link of pynet's; `wrong` says what is wrong with one as it was seen."""

    owners: set[Owner]
    link: Made
    wrong: Callable[[Any, LinkState], str]
    modes: frozenset[str]


class Health:
    """Fed with what should be by the kinds of objects, and with messages by who reads them."""

    def __init__(self) -> None:
        self._links: dict[str, _Expected] = {}
        #: What is on links, as messages about it name it.
        self._things: dict[Hashable, Thing] = {}
        #: By link: what goes with it, and who wants that back; with its kind of damage, and its source address.
        self._dependents: dict[str, dict[tuple[Owner, str], tuple[str, IPAddress | None]]] = {}
        #: Links that move into containers, with the number of the namespace where each is, and the other way round.
        self._moving: dict[str, int | None] = {}
        self._moved: dict[int, set[str]] = {}
        #: Links of others that owners want to be promiscuous.
        self._promiscuous: dict[str, set[Owner]] = {}
        #: Links that networks stand on and others made, with their owners, and which of them are gone or down.
        self._foreign: dict[str, dict[Owner, Foreign]] = {}
        self._gone: set[str] = set()
        self._damage: dict[tuple[Owner, str], Damage] = {}
        #: Links of which others need the facts.
        self.followed = FollowedLinks()
        self._seen: set[str] | None = None
        #: All bridges by index, whoever made them; the event says that the engine's may have changed.
        self._bridges: dict[int, str] = {}
        self.engine_bridges_changed = asyncio.Event()
        self.engine_bridges_changed.set()
        #: Links that were seen, and those of them that were not taken yet.
        self._known: set[str] = set()
        self._new: set[str] = set()

    # What should be

    def expect_link(
        self, owner: Owner, link: Made, wrong: Callable[[Any, LinkState], str], modes: frozenset[str] = frozenset()
    ) -> None:
        """Want a link of pynet's, of which `wrong` says what is wrong; as a bridge port in these modes."""
        owners = self._links[link.name].owners if link.name in self._links else set()
        self._links[link.name] = _Expected(owners | {owner}, link, wrong, modes)

    def expect_mode(self, name: str, mode: str) -> None:
        """Want a bridge port that is expected already to be in one more mode."""
        expected = self._links.get(name)
        if expected is not None:
            self._links[name] = expected._replace(modes=expected.modes | {mode})

    def forget_link(self, owner: Owner, name: str) -> None:
        """Want a link no more."""
        expected = self._links.get(name)
        if expected is not None:
            expected.owners.discard(owner)
            if not expected.owners:
                del self._links[name]

    def expect_move(self, name: str) -> None:
        """Follow a link that moves into a container; nothing is told of it there."""
        self._moving.setdefault(name, None)

    def forget_move(self, name: str) -> None:
        """Follow a link no more."""
        number = self._moving.pop(name, None)
        self._moved.get(number if number is not None else -1, set()).discard(name)

    def expect_on(self, link: str, owner: Owner, what: str, kind: str, source: IPAddress | None = None) -> None:
        """Note what goes with a link or with its source address, and comes back by no message of its own."""
        self._dependents.setdefault(link, {})[owner, what] = (kind, source)

    def forget_on(self, link: str, owner: Owner, what: str) -> None:
        """Want it no more."""
        dependents = self._dependents.get(link, {})
        dependents.pop((owner, what), None)
        if not dependents:
            self._dependents.pop(link, None)

    def expect_thing(self, key: Hashable, thing: Thing) -> None:
        """Want something on a link; `key` is what messages about it have of it."""
        self._things[key] = thing

    def forget_thing(self, key: Hashable) -> None:
        """Want it no more."""
        self._things.pop(key, None)

    def expect_foreign(self, owner: Owner, name: str, link: Foreign) -> None:
        """Want a link of others to be there."""
        self._foreign.setdefault(name, {})[owner] = link

    def forget_foreign(self, owner: Owner, name: str) -> None:
        """Want it no more."""
        owners = self._foreign.get(name, {})
        owners.pop(owner, None)
        if not owners:
            self._foreign.pop(name, None)
            self._gone.discard(name)

    def expect_promiscuous(self, owner: Owner, name: str) -> None:
        """Want a link of others to be promiscuous."""
        self._promiscuous.setdefault(name, set()).add(owner)

    def forget_promiscuous(self, owner: Owner, name: str) -> None:
        """Want it no more."""
        self._promiscuous.get(name, set()).discard(owner)

    def forget_damage(self, owner: Owner) -> None:
        """Drop what is wrong with what an owner wanted."""
        for key in [key for key in self._damage if key[0] == owner]:
            del self._damage[key]

    # What is wrong

    def _damaged(self, owner: Owner, kind: str, name: str, what: str) -> None:
        self._damage[owner, name] = Damage(owner, kind, what)

    def _sound(self, owner: Owner, name: str) -> None:
        self._damage.pop((owner, name), None)

    def _link_damaged(self, name: str, what: str) -> None:
        """Note what is wrong with a link of pynet's, and that what hangs on it may have gone."""
        expected = self._links[name]
        for owner in expected.owners:
            self._damaged(owner, expected.link.word, name, f"{expected.link.word} {name} {what}")
        self._dependents_damaged(name)

    def _dependents_damaged(self, link: str, source: IPAddress | None = None) -> None:
        """Note what went with a link, or of that only what has a source address."""
        for (owner, what), (kind, own_source) in self._dependents.get(link, {}).items():
            if source is None or own_source == source:
                self._damaged(owner, kind, what, f"{what} went with {link}")

    def take(self) -> list[Damage]:
        """Hand over what is wrong; what stays wrong is found by the next look at everything."""
        taken = list(self._damage.values())
        self._damage.clear()
        return taken

    def take_new(self) -> set[str]:
        """Hand over the names of links that came, but for those of containers."""
        taken, self._new = self._new, set()
        return taken

    def put_back_new(self, names: set[str]) -> None:
        """Take back what was handed over, to hand it over again."""
        self._new |= names

    @property
    def is_whole(self) -> bool:
        """Tell whether there is nothing to take."""
        return not self._damage and not self._new and not self.followed.has_changed

    def is_of_interest(self, name: str, *, is_there: bool) -> bool:
        """Tell whether the rest of a message about this link is worth reading."""
        if self._seen is not None:
            self._seen.add(name)
        if not is_there:
            self._known.discard(name)
        elif name not in self._known and not name.startswith(_PASSING):
            self._known.add(name)
            self._new.add(name)
        return name in self._links or name in self._foreign or name in self._moving

    @property
    def adopted(self) -> set[str]:
        """Name the bridges of others that networks of pynet have."""
        return {
            name for name, owners in self._foreign.items() if any(one.kind == Bridge.kind for one in owners.values())
        }

    def bridge_seen(self, index: int, name: str) -> None:
        """Note a bridge, whoever's."""
        if self._bridges.get(index) != name:
            self._bridges[index] = name
            self.engine_bridges_changed.set()

    def bridge_gone(self, index: int) -> None:
        """Note that a link is no more, which may have been a bridge."""
        if self._bridges.pop(index, None) is not None:
            self.engine_bridges_changed.set()

    def link_moved(self, name: str, number: int) -> None:
        """Note into which namespace a link went."""
        if name in self._moving:
            self._moving[name] = number
            self._moved.setdefault(number, set()).add(name)

    def namespace_gone(self, number: int) -> None:
        """Note that a number may be another namespace's from now on."""
        for name in self._moved.pop(number, ()):
            if self._moving.get(name) == number:
                self._moving[name] = None

    def namespaces_unknown(self) -> None:
        """Note that any number may be another namespace's by now."""
        self._moving = dict.fromkeys(self._moving)
        self._moved.clear()

    def namespace_of(self, name: str) -> int | None:
        """Give the number of the namespace into which a link went, as far as that was seen."""
        return self._moving.get(name)

    def link_seen(self, link: LinkState) -> None:
        """Compare a link with what it should be."""
        foreign = self._foreign.get(link.name, {})
        if not link.up and any(one.up for one in foreign.values()):
            self._cut_off(link.name, "down")
        elif link.name in self._gone:
            self._gone.discard(link.name)
            self._returned(link.name)
        elif not link.promiscuous:
            for owner in self._promiscuous.get(link.name, ()):
                self._damaged(owner, "parent", link.name, f"parent {link.name} is no longer promiscuous")
        expected = self._links.get(link.name)
        if expected is None:
            return
        wrong = expected.wrong(expected.link, link)
        missing = expected.modes - link.modes
        if not wrong and missing:
            wrong = f"is no longer {', '.join(sorted(missing))}"
        if wrong:
            self._link_damaged(link.name, wrong)
        else:
            for owner in expected.owners:
                self._sound(owner, link.name)

    def link_gone(self, name: str) -> None:
        """Note that a link is no more; a port's sandbox went with it, which is not to be repaired."""
        expected = self._links.get(name)
        if expected is not None and not expected.link.anchors:
            self._link_damaged(name, "is gone")
        elif expected is not None:
            for owner in expected.owners:
                self._sound(owner, name)
        if name in self._foreign:
            self._cut_off(name, "gone")

    def is_cut_off(self, name: str) -> bool:
        """Tell whether a link of others was seen to be gone or down."""
        return name in self._gone

    def _cut_off(self, name: str, how: str) -> None:
        if name not in self._gone:
            self._gone.add(name)
            log.warning(f"link that a network stands on is {how}; containers on it are cut off", link=name)

    def _returned(self, name: str) -> None:
        log.info("link that a network stands on is back", link=name)
        for owner, one in self._foreign[name].items():
            self._damaged(owner, one.kind, name, f"{one.word} {name} is back without what pynet had on it")
        self._dependents_damaged(name)

    def thing_seen(self, key: Hashable, index: int) -> None:
        """Note that something was put on a link."""
        thing = self._things.get(key)
        if thing is not None and index_of(thing.link) == index:
            self._sound(thing.owner, thing.what)
            if self._seen is not None:
                self._seen.add(thing.what)

    def thing_gone(self, key: Hashable, index: int) -> None:
        """Note that something was taken from a link."""
        thing = self._things.get(key)
        # If its link is gone, that is what is to be repaired.
        if thing is not None and index_of(thing.link) == index:
            self._damaged(thing.owner, thing.kind, thing.what, f"{thing.what} is gone")
            if thing.source is not None:
                self._dependents_damaged(thing.link, thing.source)

    def begin_look(self) -> None:
        """From now on note what is seen, to know at the end what is not there."""
        self._seen = set()

    def end_look(self, listed: str) -> None:
        """All links, or all things of a kind of damage, have been seen that there are."""
        seen, self._seen = self._seen or set(), None
        if listed == "link":
            for name in {*self._links, *self._foreign} - seen:
                self.link_gone(name)
            return
        for key, thing in self._things.items():
            if thing.kind == listed and thing.what not in seen:
                index = index_of(thing.link)
                if index is not None:
                    self.thing_gone(key, index)

    def break_off_look(self) -> None:
        """What was seen is not all that there is."""
        self._seen = None
