"""Commands of nft(8) as messages for the kernel: what removes and what elements are by hand, the rest by the library.

A command is a line; a table with what is in it, or chains and rules that are added, are as many as stand together.
Messages: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from netaddr import IPNetwork

from pynetdriver.firewall.tables import FAMILIES
from pynetdriver.nlmsg import GENERAL, NESTED, Message, attribute
from pynetdriver.plan import PROTOCOLS

_SUBSYSTEM = 10 << 8
_CREATE = 0x400
#: NFT_MSG_…: what makes, flushes and deletes; a flush of a chain deletes its rules, one of a set its elements.
_NEW_TABLE, _NEW_ELEMENTS, _DELETE_ELEMENTS = 0, 12, 14
_REMOVING = {
    ("delete", "table"): 2,
    ("delete", "chain"): 5,
    ("flush", "chain"): 8,
    ("delete", "set"): 11,
    ("delete", "map"): 11,
    ("flush", "set"): 14,
    ("flush", "map"): 14,
}
#: NFTA_…: the second attribute is a name everywhere but in messages of chains.
_TABLE, _NAME, _CHAIN_NAME, _ELEMENTS = 1, 2, 3, 3
_ELEMENT, _KEY, _DATA, _FLAGS, _VALUE, _VERDICT, _CODE, _CHAIN = 1, 1, 2, 3, 1, 2, 1, 2
_INTERVAL_END = 1
#: Netfilter's own verdicts (linux/netfilter.h), and those of nf_tables.
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_PROTOCOLS = {name: number for number, name in PROTOCOLS.items()}
_WAYS = {"original": 0, "reply": 1}
#: The most bytes of elements in a message: an attribute holds 65,535.
_MESSAGE_BYTES = 60_000

_ELEMENT_COMMAND = re.compile(r"(add|delete) element (\w+ \S+) (\S+) \{ (.*) \}")
_PLAIN_COMMAND = re.compile(r"(delete|flush) (table|chain|set|map) (\w+ \S+)(?: (\S+))?")
_ADD_TABLE = re.compile(r"(?:add )?table (\w+ \S+)")
_DECLARED = re.compile(r"type ([\w. ]+?)(?: : ([\w. ]+?))?;(.*)")


@dataclass(frozen=True)
class Form:
    """What elements are of: types of nft(8), of each part of the key and of the data, and whether keys are ranges."""

    key: tuple[str, ...]
    data: tuple[str, ...] = ()
    interval: bool = False

    @classmethod
    def declared(cls, text: str) -> Form:
        """Read a declaration, e.g. `type ipv4_addr : verdict; flags interval;`."""
        found = _DECLARED.fullmatch(text)
        if found is None:
            raise ValueError(f"no declaration of a set: {text}")
        key, data, more = found.groups()
        return cls(tuple(key.split(" . ")), tuple(data.split(" . ")) if data else (), "interval" in more)


def messages(
    commands: str, forms: Mapping[str, Form], compile: Callable[[str], Iterable[Message]]
) -> Iterator[Message]:
    """Write a transaction, all of it before it is sent.

    Args:
        forms: of the sets and maps whose elements are added or deleted.
        compile: makes messages of other commands. They are all given to it at once, since sets without a name have
            numbers that are its own for each time, and stand where the first of them stood.
    """
    lines = commands.splitlines()
    others = [line for line in lines if not _by_hand(line)]
    compiled = iter(compile("".join(f"{line}\n" for line in others)) if others else ())
    for line in lines:
        if found := _ELEMENT_COMMAND.fullmatch(line):
            verb, table, name, elements = found.groups()
            yield from _elements(verb == "add", table, name, elements.split(", "), forms[name])
        elif found := _PLAIN_COMMAND.fullmatch(line):
            verb, what, table, name = found.groups()
            named = b"" if name is None else _text(_CHAIN_NAME if (verb, what) == ("delete", "chain") else _NAME, name)
            yield _message(_REMOVING[verb, what], 0, table, named)
        elif found := _ADD_TABLE.fullmatch(line):
            yield _message(_NEW_TABLE, _CREATE, found[1], attribute(2, bytes(4)))
        else:
            yield from compiled


def _by_hand(line: str) -> bool:
    return any(one.fullmatch(line) for one in (_ELEMENT_COMMAND, _PLAIN_COMMAND, _ADD_TABLE))


def _message(kind: int, flags: int, table: str, content: bytes) -> Message:
    family, name = table.split()
    return Message(_SUBSYSTEM | kind, flags, GENERAL.pack(FAMILIES[family], 0, 0) + _text(_TABLE, name) + content)


def _elements(adds: bool, table: str, into: str, elements: Iterable[str], form: Form) -> Iterator[Message]:
    kind, flags = (_NEW_ELEMENTS, _CREATE) if adds else (_DELETE_ELEMENTS, 0)
    named, gathered = _text(_NAME, into), b""
    for one in elements:
        key, _, data = one.partition(" : ")
        written = _element(key, data, form)
        if gathered and len(gathered) + len(written) > _MESSAGE_BYTES:
            yield _message(kind, flags, table, named + _nested(_ELEMENTS, gathered))
            gathered = b""
        gathered += written
    yield _message(kind, flags, table, named + _nested(_ELEMENTS, gathered))


def _element(key: str, data: str, form: Form) -> bytes:
    content = _nested(_DATA, _data(data, form.data)) if data else b""
    if not form.interval:
        return _keyed(_joined(key.split(" . "), form.key), content)
    prefix = IPNetwork(key)
    length = 4 if prefix.version == 4 else 16
    after = int(prefix.last) + 1
    written = _keyed(int(prefix.first).to_bytes(length), content)
    if after < 1 << 8 * length:
        # What is above the highest address has no end.
        written += _keyed(after.to_bytes(length), attribute(_FLAGS, _INTERVAL_END.to_bytes(4)))
    return written


def _keyed(key: bytes, content: bytes) -> bytes:
    return _nested(_ELEMENT, _nested(_KEY, attribute(_VALUE, key)) + content)


def _data(text: str, form: tuple[str, ...]) -> bytes:
    if form != ("verdict",):
        return attribute(_VALUE, _joined(text.split(" . "), form))
    word, _, chain = text.partition(" ")
    code = attribute(_CODE, struct.pack(">i", _VERDICTS[word]))
    return _nested(_VERDICT, code + (_text(_CHAIN, chain) if chain else b""))


def _joined(parts: list[str], form: tuple[str, ...]) -> bytes:
    """Put parts together; where there are several, each begins at a register of 4 bytes, and the last fills its own."""
    values = [_WRITERS[kind](part) for kind, part in zip(form, parts, strict=True)]
    return values[0] if len(values) == 1 else b"".join(one + bytes(-len(one) % 4) for one in values)


_WRITERS: dict[str, Callable[[str], bytes]] = {
    "ipv4_addr": lambda text: socket.inet_pton(socket.AF_INET, text),
    "ipv6_addr": lambda text: socket.inet_pton(socket.AF_INET6, text),
    "inet_proto": lambda text: bytes([_PROTOCOLS[text]]),
    "inet_service": lambda text: int(text).to_bytes(2),
    "devgroup": lambda text: int(text).to_bytes(4, sys.byteorder),
    "ifname": lambda text: text.strip('"').encode().ljust(16, b"\0"),
    "ether_addr": lambda text: bytes.fromhex(text.replace(":", "")),
    "ct_dir": lambda text: bytes([_WAYS[text]]),
}


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _nested(kind: int, content: bytes) -> bytes:
    return attribute(kind | NESTED, content)
