"""What others do to links, addresses, pynet's routes and nftables, told by the kernel as it happens.

Two netlink sockets, read by the event loop. Messages are taken apart only as far as needed: a container's
start sends dozens, and most of them are known by their first attribute to be of no interest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from pynetdriver.firewall import bridges
from pynetdriver.firewall.bridged import BRIDGED
from pynetdriver.firewall.engine import CHAIN
from pynetdriver.firewall.ruleset import TABLE, USER
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.objects import NOTICES
from pynetdriver.kernel.rtnetlink import DELNSID, NSID, NSID_BYTES, NSID_GROUPS, number, text
from pynetdriver.nlmsg import DONE, DUMP, ERROR, INTERRUPTED, attributes, message, messages

log = structlog.get_logger()

# linux/netlink.h
_ROUTE, _NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 0, 12, 270, 1, 33
_ROUTE_GROUPS = {*NSID_GROUPS, *(group for one in NOTICES for group in one.groups)}
#: By kind of message, who takes it, and whether it says that something is there.
_TAKEN = {one.gone: (one.take, False) for one in NOTICES} | {
    one.come: (one.take, True) for one in NOTICES if one.come is not None
}
_LISTINGS = [one.listing for one in NOTICES if one.listing is not None]
# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NFTABLES_GROUP, _SUBSYSTEM, _NEWGEN, _CHAINS, _TABLES = 7, 10, 15, {3, 5, 27}, {0, 2, 26}
_GEN_PID, _GEN_NAME = 2, 3
_FAMILIES = {2, 10}
#: pynet's tables, each as its family (linux/netfilter.h) and its name.
_OURS = {(1, TABLE.split()[1]), (7, BRIDGED.split()[1])}
_BUFFER_BYTES = 32 << 20
#: The event loop goes on after so many.
_DATAGRAMS = 64


class Changes(NamedTuple):
    """What changed of nftables."""

    #: Who changed pynet's table last, somebody else than this process.
    table_by: str = ""
    #: Whether changes went unseen.
    overrun: bool = False


class Watch:
    """Feeds `health`, and says who changed pynet's table or the chains that it shares with the engine."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._route = _socket(_ROUTE, *_ROUTE_GROUPS)
        self._netfilter = _socket(_NETFILTER, _NFTABLES_GROUP)
        self._own_ports: set[int] = set()
        self._touched = False
        #: What is being looked at and what is next, whether a message of it was lost, and whether to look once more.
        self._asked: list[tuple[str, int, bytes]] = []
        self._broken_off = False
        self._again = False
        #: Set when there is something to take from `health` or from here.
        self.changed = asyncio.Event()
        #: Set when somebody wrote to a chain that decides over pynet's packets too.
        self.engine_rules_changed = asyncio.Event()
        self._table_changed_by = ""
        self._overrun = False

    def start(self) -> None:
        """Read from now on whenever there is something."""
        for one in (self._route, self._netfilter):
            asyncio.get_running_loop().add_reader(one, self.read)

    def close(self) -> None:
        """Close the sockets."""
        for one in (self._route, self._netfilter):
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def take(self) -> Changes:
        """Hand over what changed since this was called last, but for what `health` has."""
        taken = Changes(self._table_changed_by, self._overrun)
        self._table_changed_by, self._overrun = "", False
        return taken

    def note(self, changes: Changes) -> None:
        """Take it that something changed: what was handed over comes back, or is to be looked at all the same."""
        self._table_changed_by = changes.table_by or self._table_changed_by
        self._overrun |= changes.overrun
        self.changed.set()

    def look(self) -> None:
        """Have the kernel tell of all links and addresses; `health` hears of it like of any change."""
        self._again = bool(self._asked)  # a socket carries one list at a time
        if not self._asked:
            self._asked = list(_LISTINGS)
            self._ask()

    def read(self) -> bool:
        """Take in what is there; tells whether there may be more."""
        more = self._read(self._route, self._route_message)
        more |= self._read(self._netfilter, self._nftables_message)
        if self._table_changed_by or self._overrun or not self._health.is_whole:
            self.changed.set()
        return more

    def _read(self, sock: socket.socket, take: Callable[[bytes, int, int, int], None]) -> bool:
        for _ in range(_DATAGRAMS):
            try:
                data, (sender, _) = sock.recvfrom(1 << 16)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                log.warning("more happened than could be read; looking at everything")
                if sock is self._netfilter:
                    self._overrun = True
                    self._health.engine_bridges_changed.set()
                    self.engine_rules_changed.set()
                else:
                    self._health.namespaces_unknown()
                    self._health.followed.unknown()
                    self._health.engine_bridges_changed.set()
                    self._broken_off = True
                    self.look()
                continue
            if sender == 0:
                for kind, flags, _, port, body in messages(data):
                    take(body, kind, flags, port)
        return True

    # Links and addresses

    def _ask(self) -> None:
        _, kind, request = self._asked[0]
        self._broken_off = False
        self._health.begin_look()
        self._route.send(message(kind, DUMP, request))

    def _route_message(self, body: bytes, kind: int, flags: int, _: int) -> None:
        # A list of what changed meanwhile may lack something that is there; only where that was seen is marked.
        self._broken_off |= bool(flags & INTERRUPTED) or kind == ERROR
        taken = _TAKEN.get(kind)
        if taken is not None:
            take, is_there = taken
            take(self._health, body, is_there=is_there)
        elif kind == DELNSID:
            self._health.namespace_gone(number(dict(attributes(body, NSID_BYTES)).get(NSID)))
        elif kind in (DONE, ERROR) and self._asked:
            listed = self._asked.pop(0)[0]
            if self._broken_off:
                self._health.break_off_look()
            else:
                self._health.end_look(listed)
            if self._asked:
                self._ask()
            elif self._again:
                self.look()

    # nftables

    def _nftables_message(self, body: bytes, kind: int, _: int, port: int) -> None:
        subsystem, kind = divmod(kind, 256)
        if subsystem != _SUBSYSTEM or port in self._own_ports:
            return
        if kind == _NEWGEN:
            self._end_of_transaction(dict(attributes(body, 4)), port)
            return
        # Everywhere the first attribute is the table's name, the second the thing's but for chains and tables.
        found = dict(attributes(body, 4))
        table, name = text(found.get(1)), text(found.get(3 if kind in _CHAINS else 2))
        if kind in _TABLES:
            name = ""
        if (body[0], table) in _OURS:
            self._touched |= not name.startswith(USER)
        elif body[0] in _FAMILIES and table == "filter" and name in ("", "FORWARD", CHAIN):
            self.engine_rules_changed.set()
        # Not the chains that change with each published port.
        named = table == "filter" and (not name or name in bridges.NAMING)
        if body[0] in _FAMILIES and (named or (table == bridges.TABLE and (kind in _CHAINS or not name))):
            self._health.engine_bridges_changed.set()

    def _end_of_transaction(self, found: dict[int, bytes], port: int) -> None:
        if self._touched and not self._is_own(port):
            pid = int.from_bytes(found.get(_GEN_PID, b""), "big")
            self._table_changed_by = f"{text(found.get(_GEN_NAME, b'?'))} (pid {pid})"
        self._touched = False

    def _is_own(self, port: int) -> bool:
        """Tell whether a netlink port is this process'; its id is known in no pid namespace but this one's."""
        if port not in self._own_ports:
            self._own_ports = _own_ports()
        return port in self._own_ports


def _socket(protocol: int, *groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sock.bind((0, 0))
    for group in groups:
        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return sock


def _own_ports() -> set[int]:
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.fstat(int(descriptor)).st_ino)
    # Columns: address, protocol, port id, six more, inode.
    rows = [line.split() for line in Path("/proc/self/net/netlink").read_text().splitlines()[1:]]
    return {int(row[2]) for row in rows if int(row[1]) == _NETFILTER and int(row[9]) in inodes}
