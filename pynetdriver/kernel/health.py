"""What should be on the host beside what was last seen there: the difference is damage.

Every message about a link is a whole picture of it, so the last one decides and no question is asked.
Links of others are never expected to be anything: a bridge that was adopted is only noticed to go and to come.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import structlog
from netaddr import IPAddress

from pynetdriver.kernel.wire import index_of
from pynetdriver.plan import (
    Address,
    Adopted,
    Bridge,
    Dummy,
    Hairpin,
    LinkSysctl,
    Made,
    Owner,
    Parent,
    Plan,
    Promiscuity,
    Route,
    Up,
    Upper,
    Veth,
)

log = structlog.get_logger()

#: Begin the names of links that come and go with containers.
_PASSING = ("veth", "pn")
#: An address as bytes, and its prefix length.
RawAddress = tuple[bytes, int]


class Damage(NamedTuple):
    """What is wrong with something of an owner's; `kind` is bridge, port, link, parent, address or route."""

    owner: Owner
    kind: str
    what: str


@dataclass(frozen=True)
class Picture:
    """A link as a message shows it; `modes` are those of a bridge port that are on."""

    name: str
    up: bool
    mtu: int
    mac: str
    master: int
    modes: frozenset[str]
    promiscuous: bool = False


class _Expected(NamedTuple):
    owners: set[Owner]
    link: Made
    modes: frozenset[str] = frozenset()


class Health:
    """Fed with plans by who applies them and with messages by who reads them."""

    def __init__(self) -> None:
        self._links: dict[str, _Expected] = {}
        self._addresses: dict[RawAddress, tuple[Owner, Address]] = {}
        #: By destination, of which the host has one each.
        self._routes: dict[bytes, tuple[Owner, Route]] = {}
        #: By link: what goes with it, and who wants that back.
        self._dependents: dict[str, dict[tuple[Owner, str], Route | Upper]] = {}
        #: Links that move into containers, with the number of the namespace where each is, and the other way round.
        self._moving: dict[str, int | None] = {}
        self._moved: dict[int, set[str]] = {}
        #: Links of others that owners want to be promiscuous.
        self._promiscuous: dict[str, set[Owner]] = {}
        #: Links that networks stand on and others made, with their owners, and which of them are gone or down.
        self._foreign: dict[str, dict[Owner, Adopted | Parent]] = {}
        self._gone: set[str] = set()
        self._damage: dict[tuple[Owner, str], Damage] = {}
        self._seen: set[str] | None = None
        #: Bridges of whoever, by index; the event says that the engine may have others by now.
        self._bridges: dict[int, str] = {}
        self.engine_bridges_changed = asyncio.Event()
        self.engine_bridges_changed.set()
        #: Links that were seen, and those of them that nobody was told of yet.
        self._known: set[str] = set()
        self._new: set[str] = set()

    def expect(self, plan: Plan) -> None:
        """Take what a plan names for what should be."""
        modes = {one.link: frozenset({"hairpin"}) for one in plan.objects if isinstance(one, Hairpin)}
        for setting in plan.settings:
            if isinstance(setting, Promiscuity):
                self._promiscuous.setdefault(setting.link, set()).add(plan.owner)
        for one in plan.objects:
            match one:
                case Upper(moves=True):
                    # Nothing is told of it where it goes.
                    self._moving.setdefault(one.name, None)
                    self._dependents.setdefault(one.lower, {})[plan.owner, one.name] = one
                case Bridge() | Dummy() | Upper():
                    owners = self._links[one.name].owners if one.name in self._links else set()
                    self._links[one.name] = _Expected(owners | {plan.owner}, one)
                case Veth():
                    flags = {"isolated": one.isolated, "locked": one.locked}
                    wanted = modes.get(one.name, frozenset()) | {flag for flag, is_on in flags.items() if is_on}
                    self._links[one.name] = _Expected({plan.owner}, one, wanted)
                case Address():
                    self._addresses[_raw(one)] = (plan.owner, one)
                case Route():
                    self._routes[one.address.packed] = (plan.owner, one)
                    self._dependents.setdefault(one.link, {})[plan.owner, str(one)] = one
                case Adopted() | Parent():
                    self._foreign.setdefault(one.link, {})[plan.owner] = one
                case Hairpin() | LinkSysctl() | Up():
                    pass  # part of its port, or not told of by the kernel
                case _:
                    assert_never(one)

    def forget(self, plan: Plan) -> None:
        """Expect nothing more of what a plan names."""
        for setting in plan.settings:
            if isinstance(setting, Promiscuity):
                self._promiscuous.get(setting.link, set()).discard(plan.owner)
        for one in plan.objects:
            match one:
                case Upper(moves=True):
                    number = self._moving.pop(one.name, None)
                    self._moved.get(number if number is not None else -1, set()).discard(one.name)
                    self._no_longer_on(one.lower, plan.owner, one.name)
                case Bridge() | Dummy() | Upper() | Veth():
                    expected = self._links.get(one.name)
                    if expected is not None:
                        expected.owners.discard(plan.owner)
                        if not expected.owners:
                            del self._links[one.name]
                case Address():
                    self._addresses.pop(_raw(one), None)
                case Route():
                    self._routes.pop(one.address.packed, None)
                    self._no_longer_on(one.link, plan.owner, str(one))
                case Adopted() | Parent():
                    owners = self._foreign.get(one.link, {})
                    owners.pop(plan.owner, None)
                    if not owners:
                        self._foreign.pop(one.link, None)
                        self._gone.discard(one.link)
                case Hairpin() | LinkSysctl() | Up():
                    pass
                case _:
                    assert_never(one)
        for key in [key for key in self._damage if key[0] == plan.owner]:
            del self._damage[key]

    def _no_longer_on(self, link: str, owner: Owner, what: str) -> None:
        dependents = self._dependents.get(link, {})
        dependents.pop((owner, what), None)
        if not dependents:
            self._dependents.pop(link, None)

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
        """Note what went with a link, or of that only the routes with a source address."""
        for (owner, what), one in self._dependents.get(link, {}).items():
            if source is None or (isinstance(one, Route) and one.source == source):
                self._damaged(owner, "route" if isinstance(one, Route) else one.word, what, f"{what} went with {link}")

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
        return not self._damage and not self._new

    def is_of_interest(self, name: str, *, is_there: bool) -> bool:
        """Tell whether a picture of this link is worth its making."""
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
            name for name, owners in self._foreign.items() if any(isinstance(one, Adopted) for one in owners.values())
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

    def link_seen(self, link: Picture) -> None:
        """Compare a link with what it should be."""
        foreign = self._foreign.get(link.name, {})
        if not link.up and any(isinstance(one, Parent) or one.up for one in foreign.values()):
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
        wrong = _wrong(expected, link)
        if wrong:
            self._link_damaged(link.name, wrong)
        else:
            for owner in expected.owners:
                self._sound(owner, link.name)

    def link_gone(self, name: str) -> None:
        """Note that a link is no more; a port's sandbox went with it, which is not to be mended."""
        expected = self._links.get(name)
        if expected is not None and not isinstance(expected.link, Veth):
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
            kind, word = ("bridge", "adopted bridge") if isinstance(one, Adopted) else ("parent", "parent")
            self._damaged(owner, kind, name, f"{word} {name} is back without what pynet had on it")
        self._dependents_damaged(name)

    def address_seen(self, address: RawAddress, index: int, *, is_there: bool) -> None:
        """Note that an address was given to a link or taken from it."""
        found = self._addresses.get(address)
        # With its link gone the address is not what is to be mended.
        if found is None or index_of(found[1].link) != index:
            return
        owner, expected = found
        if not is_there:
            self._damaged(owner, "address", str(expected), f"{expected} is gone")
            self._dependents_damaged(expected.link, expected.address.ip)
            return
        self._sound(owner, str(expected))
        if self._seen is not None:
            self._seen.add(str(expected))

    def route_gone(self, destination: bytes, index: int) -> None:
        """Note that a route of pynet's was taken from a link."""
        found = self._routes.get(destination)
        # With its link gone the route is not what is to be mended.
        if found is not None and index_of(found[1].link) == index:
            owner, route = found
            self._damaged(owner, "route", str(route), f"{route} is gone")

    def begin_look(self) -> None:
        """From now on note what is seen, to know at the end what is not there."""
        self._seen = set()

    def end_look(self, *, links: bool) -> None:
        """All links, or all addresses, have been seen that there are."""
        seen, self._seen = self._seen or set(), None
        if links:
            for name in {*self._links, *self._foreign} - seen:
                self.link_gone(name)
        else:
            for raw, (_, expected) in self._addresses.items():
                index = index_of(expected.link)
                if str(expected) not in seen and index is not None:
                    self.address_seen(raw, index, is_there=False)

    def break_off_look(self) -> None:
        """What was seen is not all that there is."""
        self._seen = None


def _wrong(expected: _Expected, link: Picture) -> str:
    """Say what is wrong with a link of ours; empty if nothing is."""
    wanted = expected.link
    if not link.up:
        return "is down"
    if wanted.mtu and link.mtu != wanted.mtu:
        return f"has the MTU {link.mtu} in place of {wanted.mtu}"
    if isinstance(wanted, Veth):
        if link.master != index_of(wanted.bridge):
            return f"is not in {wanted.bridge}"
        missing = expected.modes - link.modes
        return f"is no longer {', '.join(sorted(missing))}" if missing else ""
    return f"has the MAC {link.mac} in place of {wanted.mac}" if wanted.mac and link.mac != wanted.mac else ""


def _raw(address: Address) -> RawAddress:
    return address.address.ip.packed, address.address.prefixlen
