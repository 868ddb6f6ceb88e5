"""Which links of the host are strangers to each other: it routed nothing between them before pynet had it forward.

A name that nftables could not write is left out, and said.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import NamedTuple

import structlog

from pynetdriver.kernel.settings import routes_by_itself
from pynetdriver.kernel.wire import route_socket, told
from pynetdriver.model import Strangers
from pynetdriver.names import LINK_GROUP, OUR_NAMES, PLAIN_GROUP, WRITABLE
from pynetdriver.nlmsg import ask, attributes, dump

log = structlog.get_logger()

# linux/rtnetlink.h, linux/if_link.h: struct ifinfomsg with the wish that counters be left out, and attributes.
_GETLINK, _EXT_MASK, _SKIP_STATS, _INFO_BYTES = 18, 29, 8, 16
_ALL_LINKS = struct.pack("=BxHiIIHHI", 0, 0, 0, 0, 0, 8, _EXT_MASK, _SKIP_STATS)
_IFNAME, _MASTER, _LINKINFO, _GROUP, _INFO_KIND = 3, 10, 18, 27, 1
#: The hardware's, and kinds that make one link of several of these, or several of one.
_LAN_KINDS = ("", "vlan", "bond", "team", "macvlan", "ipvlan")


class _Link(NamedTuple):
    """What the kernel tells of a link; one of the hardware has no kind."""

    number: int
    name: str
    kind: str
    master: int

    @property
    def is_lan(self) -> bool:
        return self.kind in _LAN_KINDS


def strangers(version: int, engine_bridges: Collection[str]) -> Strangers:
    """Look which links are there while this host does not forward; to be called before it does. Raises HostError."""
    found = list(_links(engine_bridges))
    routing = {one.name for one in found if routes_by_itself(version, one.name)}
    return _of(version, [one for one in found if one.name not in routing], routing)


def likely_strangers(version: int, routing: Collection[str], engine_bridges: Collection[str]) -> Strangers:
    """Guess so while this host forwards: what is on a LAN was there, anything else others may have made since.

    Args:
        version: of IP.
        routing: links that are known to have forwarded before.

    Raises:
        HostError: the kernel does not answer.
    """
    found = [one for one in _links(engine_bridges) if one.name not in routing]
    ports = {one.master for one in found if one.is_lan}
    return _of(version, [one for one in found if one.is_lan or (one.kind == "bridge" and one.number in ports)], routing)


def hardware(names: Collection[str]) -> set[str]:
    """Pick the links of the hardware; one by one, as many others may come and go. Raises HostError."""
    found = set()
    with told("look at links that came"), route_socket() as one:
        for name in names:
            with contextlib.suppress(OSError):  # it is gone again
                request = struct.pack("=BxHiIIHHI", 0, 0, socket.if_nametoindex(name), 0, 0, 8, _EXT_MASK, _SKIP_STATS)
                _, _, body = next(ask(one, _GETLINK, 0, request))
                if name != "lo" and WRITABLE.fullmatch(name) and _LINKINFO not in dict(attributes(body, _INFO_BYTES)):
                    found.add(name)
    return found


def _of(version: int, found: list[_Link], routing: Collection[str]) -> Strangers:
    bridges = tuple(sorted(one.name for one in found if one.kind == "bridge"))
    return Strangers(version, tuple(sorted(one.name for one in found)), tuple(sorted(routing)), bridges)


def _links(engine_bridges: Collection[str]) -> Iterator[_Link]:
    """Go through links of others but for the engine's; ports that guests have in bridges are not routed."""
    with told("look at this host's links"), route_socket() as one:
        bodies = dump(one, _GETLINK, _ALL_LINKS, partly=True)
    for body in bodies:
        (number,) = struct.unpack_from("=i", body, 4)
        found = dict(attributes(body, _INFO_BYTES))
        name = _text(found[_IFNAME])
        kind = _text(dict(attributes(found.get(_LINKINFO, b""))).get(_INFO_KIND, b""))
        link = _Link(number, name, kind, _number(found, _MASTER))
        # A container's end of a pair is in no group.
        ours = (_number(found, _GROUP) in (LINK_GROUP, PLAIN_GROUP) and kind) or OUR_NAMES.fullmatch(name)
        if name == "lo" or ours or name in engine_bridges or (link.master and not link.is_lan):
            continue
        if WRITABLE.fullmatch(name):
            yield link
        else:
            log.error("nftables has no way to write the name of this link: what comes by it may be routed", link=name)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)
