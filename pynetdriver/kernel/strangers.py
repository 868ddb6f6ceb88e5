"""Which links of the host are strangers to each other: it routed nothing between them before pynet had it forward.

A name that nftables could not write is left out, and said.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

import structlog

from pynetdriver.kernel.rtnetlink import (
    ALL_LINKS,
    GETLINK,
    GROUP,
    IFNAME,
    INFO_KIND,
    LINK_BYTES,
    LINKINFO,
    MASTER,
    host_errors,
    link_request,
    number,
    route_socket,
    text,
)
from pynetdriver.kernel.settings import routes_by_itself
from pynetdriver.model import Strangers
from pynetdriver.names import LINK_GROUP, OUR_NAMES, PLAIN_GROUP, WRITABLE
from pynetdriver.nlmsg import ask, attributes, dump

log = structlog.get_logger()

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
    with host_errors("look at links that came"), route_socket() as one:
        for name in names:
            with contextlib.suppress(OSError):  # it is gone again
                _, _, body = next(ask(one, GETLINK, 0, link_request(socket.if_nametoindex(name))))
                if name != "lo" and WRITABLE.fullmatch(name) and LINKINFO not in dict(attributes(body, LINK_BYTES)):
                    found.add(name)
    return found


def _of(version: int, found: list[_Link], routing: Collection[str]) -> Strangers:
    bridges = tuple(sorted(one.name for one in found if one.kind == "bridge"))
    return Strangers(version, tuple(sorted(one.name for one in found)), tuple(sorted(routing)), bridges)


def _links(engine_bridges: Collection[str]) -> Iterator[_Link]:
    """Go through links of others but for the engine's; ports that guests have in bridges are not routed."""
    with host_errors("look at this host's links"), route_socket() as one:
        bodies = dump(one, GETLINK, ALL_LINKS, partly=True)
    for body in bodies:
        (index,) = struct.unpack_from("=i", body, 4)
        found = dict(attributes(body, LINK_BYTES))
        name = text(found[IFNAME])
        kind = text(dict(attributes(found.get(LINKINFO, b""))).get(INFO_KIND))
        link = _Link(index, name, kind, number(found.get(MASTER)))
        # A container's end of a pair is in no group.
        ours = (number(found.get(GROUP)) in (LINK_GROUP, PLAIN_GROUP) and kind) or OUR_NAMES.fullmatch(name)
        if name == "lo" or ours or name in engine_bridges or (link.master and not link.is_lan):
            continue
        if WRITABLE.fullmatch(name):
            yield link
        else:
            log.error("nftables has no way to write the name of this link: what comes by it may be routed", link=name)
