"""What should be on the host beside what was last seen there: the difference is damage.

Every message about a link is a whole picture of it, so the last one decides and no question is asked.
Links of others are never expected to be anything: a bridge that was adopted is only noticed to go and to come.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from pynetdriver.names import ENGINE_BRIDGE
from pynetdriver.plan import Address, Adopted, Bridge, Hairpin, Plan, Veth

log = structlog.get_logger()

#: An address as bytes, and its prefix length.
RawAddress = tuple[bytes, int]


class Damage(NamedTuple):
    """What is wrong with something of an owner's; `kind` is bridge, port or address."""

    owner: str
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


class _Expected(NamedTuple):
    owner: str
    link: Bridge | Veth
    modes: frozenset[str] = frozenset()


class Health:
    """Fed with plans by who applies them and with messages by who reads them."""

    def __init__(self) -> None:
        self._links: dict[str, _Expected] = {}
        self._addresses: dict[RawAddress, tuple[str, Address]] = {}
        #: Links that networks stand on and others made, and which of them are gone or down.
        self._adopted: dict[str, tuple[str, Adopted]] = {}
        self._gone: set[str] = set()
        self._damage: dict[str, Damage] = {}
        self._seen: set[str] | None = None
        self.engine_bridges_changed = True

    def expect(self, plan: Plan) -> None:
        """Take what a plan names for what should be."""
        modes = {one.link: frozenset({"hairpin"}) for one in plan.objects if isinstance(one, Hairpin)}
        for one in plan.objects:
            match one:
                case Bridge():
                    self._links[one.name] = _Expected(plan.owner, one)
                case Veth():
                    flags = {"isolated": one.isolated, "locked": one.locked}
                    wanted = modes.get(one.name, frozenset()) | {flag for flag, is_on in flags.items() if is_on}
                    self._links[one.name] = _Expected(plan.owner, one, wanted)
                case Address():
                    self._addresses[_raw(one)] = (plan.owner, one)
                case Adopted():
                    self._adopted[one.link] = (plan.owner, one)

    def forget(self, plan: Plan) -> None:
        """Expect nothing more of what a plan names."""
        for one in plan.objects:
            if isinstance(one, Bridge | Veth):
                self._links.pop(one.name, None)
                self._damage.pop(one.name, None)
            elif isinstance(one, Address):
                self._addresses.pop(_raw(one), None)
                self._damage.pop(str(one), None)
            elif isinstance(one, Adopted):
                self._adopted.pop(one.link, None)
                self._damage.pop(one.link, None)
                self._gone.discard(one.link)

    def take(self) -> list[Damage]:
        """Hand over what is wrong; what stays wrong is found by the next look at everything."""
        taken = list(self._damage.values())
        self._damage.clear()
        return taken

    @property
    def is_whole(self) -> bool:
        """Tell whether there is nothing to take."""
        return not self._damage

    def is_of_interest(self, name: str) -> bool:
        """Tell whether a picture of this link is worth its making."""
        if self._seen is not None:
            self._seen.add(name)
        if ENGINE_BRIDGE.fullmatch(name):
            self.engine_bridges_changed = True
        return name in self._links or name in self._adopted

    def link_seen(self, link: Picture) -> None:
        """Compare a link with what it should be."""
        _, adopted = self._adopted.get(link.name, ("", None))
        if adopted is not None and adopted.up and not link.up:
            self._cut_off(link.name, "down")
        elif link.name in self._gone:
            self._gone.discard(link.name)
            self._returned(link.name)
        expected = self._links.get(link.name)
        if expected is None:
            return
        wrong = _wrong(expected, link)
        if wrong:
            kind = "bridge" if isinstance(expected.link, Bridge) else "port"
            self._damage[link.name] = Damage(expected.owner, kind, f"{kind} {link.name} {wrong}")
        else:
            self._damage.pop(link.name, None)

    def link_gone(self, name: str) -> None:
        """Note that a link is no more; a port's sandbox went with it, which is not to be mended."""
        self._damage.pop(name, None)
        expected = self._links.get(name)
        if expected is not None and isinstance(expected.link, Bridge):
            self._damage[name] = Damage(expected.owner, "bridge", f"bridge {name} is gone")
        if name in self._adopted:
            self._cut_off(name, "gone")

    def _cut_off(self, name: str, how: str) -> None:
        if name not in self._gone:
            self._gone.add(name)
            log.warning(f"bridge that a network adopted is {how}; containers on it are cut off", bridge=name)

    def _returned(self, name: str) -> None:
        log.info("bridge that a network adopted is back", bridge=name)
        what = f"adopted bridge {name} is back without what pynet had on it"
        self._damage[name] = Damage(self._adopted[name][0], "bridge", what)

    def address_seen(self, address: RawAddress, index: int, *, is_there: bool) -> None:
        """Note that an address was given to a link or taken from it."""
        owner, expected = self._addresses.get(address, ("", None))
        # With its link gone the address is not what is to be mended.
        if expected is None or _index(expected.link) != index:
            return
        if not is_there:
            self._damage[str(expected)] = Damage(owner, "address", f"{expected} is gone")
            return
        self._damage.pop(str(expected), None)
        if self._seen is not None:
            self._seen.add(str(expected))

    def begin_look(self) -> None:
        """From now on note what is seen, to know at the end what is not there."""
        self._seen = set()

    def end_look(self, *, links: bool) -> None:
        """All links, or all addresses, have been seen that there are."""
        seen, self._seen = self._seen or set(), None
        if links:
            for name in {*self._links, *self._adopted} - seen:
                self.link_gone(name)
        else:
            for raw, (_, expected) in self._addresses.items():
                index = _index(expected.link)
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
    if link.mtu != wanted.mtu:
        return f"has the MTU {link.mtu} in place of {wanted.mtu}"
    if isinstance(wanted, Bridge):
        return "" if link.mac == wanted.mac else f"has the MAC {link.mac} in place of {wanted.mac}"
    if link.master != _index(wanted.bridge):
        return f"is not in {wanted.bridge}"
    missing = expected.modes - link.modes
    return f"is no longer {', '.join(sorted(missing))}" if missing else ""


def _raw(address: Address) -> RawAddress:
    return address.address.ip.packed, address.address.prefixlen


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
