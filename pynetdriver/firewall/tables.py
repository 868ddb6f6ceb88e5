"""The tables of nftables as the kernel has them, read and written by netlink (linux/netfilter/nf_tables.h).

Nothing here takes a rule apart, so it does not matter who wrote a table, and with what.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pynetdriver.errors import HostError
from pynetdriver.firewall.library import NftablesError
from pynetdriver.nlmsg import (
    ACK,
    ERROR,
    GENERAL,
    NETFILTER,
    Message,
    ask,
    attribute,
    attributes,
    dump,
    message,
    messages,
)

#: Kinds that begin and end a transaction (linux/netfilter/nfnetlink.h).
_BATCH_BEGIN, _BATCH_END = 16, 17
_SUBSYSTEM = 10
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS = (_SUBSYSTEM << 8 | kind for kind in (1, 4, 7, 10, 13))
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_BY_NUMBER = {number: name for name, number in FAMILIES.items()}
_TABLE, _NAME, _CHAIN_NAME, _RULE_CHAIN, _EXPRESSIONS = 1, 2, 3, 2, 4
_SET_KEY_TYPE, _LIST_ELEMENTS, _ELEMENT_FLAGS, _INTERVAL_END = 4, 3, 3, 1
_ANONYMOUS = "__"
_SO_SNDBUFFORCE, _SOL_NETLINK, _CAP_ACK = 32, 270, 10
_WAIT_S = 30.0
#: What the kernel adds to a message's bytes when it counts them against the buffer, at most.
_OVERHEAD = 4096


@dataclass
class Table:
    """What is in a table of one name.

    Args:
        chains: how many rules each has.
        sets: sets and maps with a name: the number of their keys' type, and how many elements there are.
        rules: by chain, all of its rules as the kernel has them.
    """

    chains: dict[str, int] = field(default_factory=dict)
    sets: dict[str, tuple[int, int]] = field(default_factory=dict)
    rules: dict[str, bytes] = field(default_factory=dict)


class Tables:
    """Reads and writes, each over a socket of its own; for any thread.

    They stay open: when one closes, the kernel has writers of rules wait until all is settled.
    """

    def __init__(self) -> None:
        self._reader, self._writer = (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) for _ in range(2)
        )
        for one in (self._reader, self._writer):
            one.settimeout(_WAIT_S)
        self._writer.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._number = 0
        self._reading, self._writing = threading.Lock(), threading.Lock()

    def commit(self, wanted: Iterable[Message]) -> None:
        """Carry out all messages, or none and raise NftablesError."""
        sent = list(wanted)
        if not sent:
            return
        edge = GENERAL.pack(socket.AF_UNSPEC, 0, socket.htons(_SUBSYSTEM))
        try:
            with self._writing:
                first = self._number + 1
                self._number += len(sent)
                # The kernel answers what it refuses, and the last of them in any case.
                asked = [ACK if number == self._number else 0 for number in range(first, self._number + 1)]
                data = message(_BATCH_BEGIN, 0, edge) + b"".join(
                    message(one.kind, one.flags | flag, one.body, number)
                    for number, (one, flag) in enumerate(zip(sent, asked, strict=True), first)
                )
                data += message(_BATCH_END, 0, edge)
                self._writer.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data) + _OVERHEAD)
                self._writer.send(data)
                self._wait(sent, first)
        except OSError as error:
            raise NftablesError(f"the kernel does not take rules: {error.strerror or error}") from error

    def _wait(self, sent: list[Message], first: int) -> None:
        """Wait for the answer to messages that are numbered from `first` on; of former ones there may be more."""
        while True:
            for kind, _, number, _, body in messages(self._writer.recv(1 << 16)):
                if kind == ERROR and (number == 0 or number >= first):
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        raise NftablesError(f"{_named(sent, number - first)}: {os.strerror(-code)}")
                    if number == self._number:
                        return

    def chains(self, family: str) -> list[tuple[str, str]]:
        """Table and name of all chains of a family. Raises HostError."""
        return [
            (_text(one, _TABLE), _text(one, _CHAIN_NAME))
            for number, one in self._listed(_GET_CHAIN, family)
            if _BY_NUMBER.get(number) == family
        ]

    def has_table(self, family: str, name: str) -> bool:
        """Tell whether there is such a table. Raises HostError."""
        return self._is_there(_GET_TABLE, family, attribute(_TABLE, _zero(name)))

    def has_chain(self, family: str, table: str, name: str) -> bool:
        """Tell whether there is such a chain. Raises HostError."""
        return self._is_there(_GET_CHAIN, family, attribute(_TABLE, _zero(table)) + attribute(_CHAIN_NAME, _zero(name)))

    def table(self, family: str, name: str, *, elements: bool = False) -> Table | None:
        """Read a table, if it is there. Raises HostError.

        Args:
            elements: whether elements are counted as well, each interval as one.
        """
        if not self.has_table(family, name):
            return None
        found = Table({chain: 0 for table, chain in self.chains(family) if table == name})
        of_table = attribute(_TABLE, _zero(name))
        counted: Counter[str] = Counter()
        for _, one in self._listed(_GET_RULE, family, of_table):
            if _text(one, _TABLE) == name:  # older kernels list them all
                chain = _text(one, _RULE_CHAIN)
                counted[chain] += 1
                found.rules[chain] = found.rules.get(chain, b"") + one.get(_EXPRESSIONS, b"")
        found.chains |= counted
        for _, one in self._listed(_GET_SET, family, of_table):
            into = _text(one, _NAME)
            if _text(one, _TABLE) == name and not into.startswith(_ANONYMOUS):
                key = int.from_bytes(one.get(_SET_KEY_TYPE, b""))
                found.sets[into] = key, self._count(family, name, into) if elements else 0
        return found

    def _count(self, family: str, table: str, into: str) -> int:
        """Count elements; the end of an interval is one in the kernel."""
        request = attribute(_TABLE, _zero(table)) + attribute(_NAME, _zero(into))
        counted = 0
        for _, one in self._listed(_GET_ELEMENTS, family, request):
            for _, element in attributes(one.get(_LIST_ELEMENTS, b"")):
                flags = int.from_bytes(dict(attributes(element)).get(_ELEMENT_FLAGS, b""))
                counted += not flags & _INTERVAL_END
        return counted

    def _is_there(self, kind: int, family: str, request: bytes) -> bool:
        try:
            with self._reading:
                list(ask(self._reader, kind, ACK, GENERAL.pack(FAMILIES[family], 0, 0) + request))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise HostError.of(error.errno or errno.EIO, "read the tables of nftables") from error
        return True

    def _listed(self, kind: int, family: str, request: bytes = b"") -> Iterator[tuple[int, dict[int, bytes]]]:
        try:
            with self._reading:
                bodies = dump(self._reader, kind, GENERAL.pack(FAMILIES[family], 0, 0) + request)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise HostError.of(error.errno or errno.EIO, "list the rules of nftables") from error
        for body in bodies:
            yield body[0], dict(attributes(body, GENERAL.size))


def _named(sent: list[Message], number: int) -> str:
    """Name what a message is about, by the names in it."""
    if not 0 <= number < len(sent):
        return "the transaction"
    found = dict(attributes(sent[number].body, GENERAL.size))
    kind = sent[number].kind & 0xFF
    name = _text(found, _CHAIN_NAME if kind in (3, 5) else _NAME) if kind not in (0, 2) else ""
    return f"message {kind} about {_text(found, _TABLE)} {name}".rstrip()


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def _zero(text: str) -> bytes:
    return text.encode() + b"\0"
