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
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from pynetdriver.firewall import bridges
from pynetdriver.firewall.bridged import BRIDGED
from pynetdriver.firewall.engine import CHAIN
from pynetdriver.firewall.ruleset import TABLE, USER
from pynetdriver.kernel.health import Health, Picture
from pynetdriver.kernel.netlink import ROUTE_PROTOCOL
from pynetdriver.nlmsg import DONE, DUMP, ERROR, INTERRUPTED, attributes, message, messages

log = structlog.get_logger()

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_ROUTE, _NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 0, 12, 270, 1, 33
_ROUTE_GROUPS = {"LINK": 1, "IPV4_IFADDR": 5, "IPV4_ROUTE": 7, "IPV6_IFADDR": 9, "IPV6_ROUTE": 11, "NSID": 28}
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR, _DELNSID = 16, 17, 18, 20, 21, 22, 89
_ADDRESS, _IFNAME, _MTU, _MASTER, _PROTINFO, _LINKINFO, _EXT_MASK = 1, 3, 4, 10, 12, 18, 29
_SKIP_STATS, _SLAVE_DATA, _IFF_UP, _IFF_PROMISC = 8, 5, 0x1, 0x100
_NEW_NSID, _NSID = 45, 1
#: IFLA_INFO_KIND, as it is in messages about bridges alone: of their ports it is IFLA_INFO_SLAVE_KIND.
_BRIDGE = struct.pack("=HH", 11, 1) + b"bridge\0"
_MODES = {4: "hairpin", 33: "isolated", 39: "locked"}
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# struct rtmsg and attributes of linux/rtnetlink.h.
_DELROUTE, _PROTOCOL, _RTA_DST, _RTA_OIF = 25, 5, 1, 4
# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NFTABLES_GROUP, _SUBSYSTEM, _NEWGEN, _CHAINS, _TABLES = 7, 10, 15, {3, 5, 27}, {0, 2, 26}
_GEN_PID, _GEN_NAME = 2, 3
_FAMILIES = {2, 10}
#: pynet's tables, each as its family (linux/netfilter.h) and its name.
_OURS = {(1, TABLE.split()[1]), (7, BRIDGED.split()[1])}
_BUFFER_BYTES = 32 << 20
#: The event loop goes on after so many.
_DATAGRAMS = 64


class Watch:
    """Feeds `health`, and says who changed pynet's table or the chains that it shares with the engine."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._route = _socket(_ROUTE, *_ROUTE_GROUPS.values())
        self._netfilter = _socket(_NETFILTER, _NFTABLES_GROUP)
        self._own_ports: set[int] = set()
        self._touched = False
        #: What is being looked at and what is next, whether a message of it was lost, and whether to look once more.
        self._asked: list[int] = []
        self._broken_off = False
        self._again = False
        #: Set when there is something to take from `health` or from here.
        self.changed = asyncio.Event()
        #: Set when somebody wrote to a chain that decides over pynet's packets too.
        self.engine_rules_changed = asyncio.Event()
        #: Who changed pynet's table last; somebody else than this process.
        self.table_changed_by = ""
        #: Whether changes of nftables went unseen.
        self.overrun = False

    def start(self) -> None:
        """Read from now on whenever there is something."""
        for one in (self._route, self._netfilter):
            asyncio.get_running_loop().add_reader(one, self.read)

    def close(self) -> None:
        """Close the sockets."""
        for one in (self._route, self._netfilter):
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def look(self) -> None:
        """Have the kernel tell of all links and addresses; `health` hears of it like of any change."""
        self._again = bool(self._asked)  # a socket carries one list at a time
        if not self._asked:
            self._asked = [_GETLINK, _GETADDR]
            self._ask()

    def read(self) -> bool:
        """Take in what is there; tells whether there may be more."""
        more = self._read(self._route, self._route_message)
        more |= self._read(self._netfilter, self._nftables_message)
        if self.table_changed_by or self.overrun or not self._health.is_whole:
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
                    self.overrun = True
                    self._health.engine_bridges_changed.set()
                    self.engine_rules_changed.set()
                else:
                    self._health.namespaces_unknown()
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
        kind, self._broken_off = self._asked[0], False
        self._health.begin_look()
        # Links without their counters, which are most of a message.
        request = struct.pack("=BxHiIIHHI", 0, 0, 0, 0, 0, 8, _EXT_MASK, _SKIP_STATS) if kind == _GETLINK else bytes(8)
        self._route.send(message(kind, DUMP, request))

    def _route_message(self, body: bytes, kind: int, flags: int, _: int) -> None:
        # A list of what changed meanwhile may lack something that is there; only where that was seen is marked.
        self._broken_off |= bool(flags & INTERRUPTED) or kind == ERROR
        if kind in (_NEWLINK, _DELLINK):
            tell_of_link(self._health, body, is_there=kind == _NEWLINK)
        elif kind in (_NEWADDR, _DELADDR):
            tell_of_address(self._health, body, is_there=kind == _NEWADDR)
        elif kind == _DELROUTE and body[_PROTOCOL] == ROUTE_PROTOCOL:
            found = dict(attributes(body, 12))
            self._health.route_gone(found.get(_RTA_DST, b""), _number(found, _RTA_OIF))
        elif kind == _DELNSID:
            self._health.namespace_gone(_number(dict(attributes(body, 4)), _NSID))
        elif kind in (DONE, ERROR) and self._asked:
            listed = self._asked.pop(0)
            if self._broken_off:
                self._health.break_off_look()
            else:
                self._health.end_look(links=listed == _GETLINK)
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
        table, name = _text(found.get(1, b"")), _text(found.get(3 if kind in _CHAINS else 2, b""))
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
            self.table_changed_by = f"{_text(found.get(_GEN_NAME, b'?'))} (pid {pid})"
        self._touched = False

    def _is_own(self, port: int) -> bool:
        """Tell whether a netlink port is this process'; its id is known in no pid namespace but this one's."""
        if port not in self._own_ports:
            self._own_ports = _own_ports()
        return port in self._own_ports


def tell_of_link(health: Health, body: bytes, *, is_there: bool) -> None:
    """Tell of a link what a message says; one that is of no interest is not taken apart."""
    family, index, flags = struct.unpack_from("=B3xiI", body)
    is_bridge = is_there and _BRIDGE in body
    if not is_there and family != socket.AF_BRIDGE:
        health.bridge_gone(index)
    found: dict[int, bytes] = {}
    for attribute, value in attributes(body, 16):
        found[attribute] = value
        if attribute == _IFNAME:
            if is_bridge:
                health.bridge_seen(index, _text(value))
            if not health.is_of_interest(_text(value), is_there=is_there):
                return
    name = _text(found.get(_IFNAME, b""))
    if not is_there:
        if _NEW_NSID in found:
            health.link_moved(name, _number(found, _NEW_NSID))
        if family != socket.AF_BRIDGE:  # or else it is a port that left its bridge
            health.link_gone(name)
        return
    port = found.get(_PROTINFO) or dict(attributes(found.get(_LINKINFO, b""))).get(_SLAVE_DATA, b"")
    modes = {_MODES[mode] for mode, value in attributes(port) if mode in _MODES and value[0]}
    health.link_seen(
        Picture(
            name,
            up=bool(flags & _IFF_UP),
            mtu=_number(found, _MTU),
            mac=found.get(_ADDRESS, b"").hex(":"),
            master=_number(found, _MASTER),
            modes=frozenset(modes),
            promiscuous=bool(flags & _IFF_PROMISC),
        )
    )


def tell_of_address(health: Health, body: bytes, *, is_there: bool) -> None:
    """Tell of an address what a message says."""
    prefix_length, index = struct.unpack_from("=xBxxI", body)
    found = dict(attributes(body, 8))
    address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    health.address_seen((address, prefix_length), index, is_there=is_there)


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


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), sys.byteorder)
