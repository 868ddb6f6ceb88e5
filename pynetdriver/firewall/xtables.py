"""The legacy tables as the kernel gives them (linux/netfilter_ipv4/ip_tables.h), read without any library.

To ask whether a table is as it was takes two system calls, so it can be done every second, also where
python-iptables is not loaded. Reading makes a table that is not there yet: see `present`.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pynetdriver.errors import HostError, reason

_GET_INFO, _GET_ENTRIES = 64, 65
#: Name; valid_hooks; hook_entry; underflow; num_entries; size.
_INFO = struct.Struct("32s13I")
#: Name; size; the table follows, aligned as its counters are.
_HEAD = struct.Struct("32sI4x")
_OFFSETS = struct.Struct("HH")
_VERDICT = struct.Struct("i")
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
#: What the last entry is called, and the target of those that begin a chain.
_ERROR = b"ERROR"
#: struct xt_entry_target: size, name, revision.
_TARGET_NAME = slice(2, 31)
_TARGET_HEAD = 32
_ALIGNMENT = 8
_STANDARD = {-1: b"DROP", -2: b"ACCEPT", -4: b"QUEUE", -5: b"RETURN"}
#: IFNAMSIZ, and invflags of struct ipt_ip and ip6t_ip6.
_NAME_SIZE, _NOT_IN, _NOT_OUT = 16, 0x01, 0x02
#: The kernel is asked again if a table grows between its size and itself.
_TRIES = 10

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Layout:
    """Where the parts of an entry are, and whom to ask for it."""

    family: socket.AddressFamily
    level: int
    match: int  #: ends what the entry itself matches; nfcache follows
    offsets: int  #: of target and next entry
    counters: int
    size: int


_LAYOUTS = {
    4: _Layout(socket.AF_INET, socket.IPPROTO_IP, 84, 88, 96, 112),
    6: _Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 136, 140, 152, 168),
}


class XtablesError(HostError):
    """The kernel does not give a table."""


@dataclass(frozen=True)
class Contents:
    """A table without what differs between equal ones: counters and the kernel's own notes."""

    version: int
    hooks: tuple[tuple[str, int, int], ...]
    entries: bytes

    def chains(self) -> dict[str, tuple[bytes, ...]]:
        """Tell the rules of all chains, as `rule_key` writes them, without the policy."""
        layout = _LAYOUTS[self.version]
        heads = {at: name for name, at, _ in self.hooks}
        ends = {at for *_, at in self.hooks}
        offsets = list(_walk(self.entries, layout))
        for at, target, following in offsets:
            if _target_name(self.entries, at + target) == _ERROR:
                name = _text(self.entries[at + target + _TARGET_HEAD : following])
                heads[following] = name.decode(errors="replace")
        found: dict[str, list[bytes]] = {}
        chain: list[bytes] = []
        for at, target, following in offsets:
            if at in heads:
                chain = found.setdefault(heads[at], [])
            if _target_name(self.entries, at + target) == _ERROR:
                chain = []
            elif at not in ends:
                chain.append(self._key(at, target, following, heads))
        hooks = {name for name, *_ in self.hooks}
        found.pop(_ERROR.decode(), None)
        # The last rule of a chain that is not a hook's is the kernel's own return.
        return {name: tuple(rules if name in hooks else rules[:-1]) for name, rules in found.items()}

    def _key(self, at: int, target: int, following: int, heads: dict[int, str]) -> bytes:
        entry = self.entries[at:following]
        if _target_name(entry, target):
            return rule_key(self.version, entry, None)
        (verdict,) = _VERDICT.unpack_from(entry, target + _TARGET_HEAD)
        if verdict == following:
            return rule_key(self.version, entry, b"")
        jump = _STANDARD.get(verdict) if verdict < 0 else heads.get(verdict, "").encode()
        return rule_key(self.version, entry, jump or str(verdict).encode())


def present(version: int) -> list[str]:
    """Name the legacy tables of this network namespace that are there."""
    try:
        return Path(f"/proc/self/net/ip{'6' if version == 6 else ''}_tables_names").read_text().split()
    except OSError:
        return []


def read(version: int, table: str) -> Contents:
    """Read the contents of a table.

    Raises:
        XtablesError: there is none, or it does not hold still.
    """
    layout, what = _LAYOUTS[version], f"the IPv{version} table {table} of iptables"
    for _ in range(_TRIES):
        try:
            with socket.socket(layout.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
                info = _INFO.unpack(_ask(asked, layout, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))
                given = _HEAD.pack(table.encode(), info[13]).ljust(_HEAD.size + info[13], b"\0")
                entries = _ask(asked, layout, _GET_ENTRIES, given)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                continue
            raise XtablesError(f"cannot read {what}: {reason(error.errno)}") from error
        hooks = tuple(
            (name, info[2 + number], info[7 + number]) for number, name in enumerate(_HOOKS) if info[1] & 1 << number
        )
        return Contents(version, hooks, _still(entries[_HEAD.size :], layout))
    raise XtablesError(f"cannot read {what}: it changes all the time")


def rule_key(version: int, entry: bytes, jump: bytes | None) -> bytes:
    """Write an entry so that those of equal rules are equal, whoever made them.

    Args:
        jump: the verdict or the chain that it leads to, for the target that every table has.
    """
    layout = _LAYOUTS[version]
    target, following = _OFFSETS.unpack_from(entry, layout.offsets)
    end = b"\0" + jump if jump is not None else b"\1" + entry[target:following]
    return entry[: layout.match] + entry[layout.size : target] + end


def told(version: int, key: bytes) -> tuple[str, str, str, bool]:
    """Tell what a `rule_key` says of links and where it leads.

    Returns:
        the names of the incoming and the outgoing link, empty for any, with `!` before one that is excluded; verdict or
        chain; whether nothing but links is matched.
    """
    layout = _LAYOUTS[version]
    start = 16 if version == 4 else 64
    names = [key[at : at + _NAME_SIZE] for at in range(start, start + 4 * _NAME_SIZE, _NAME_SIZE)]
    protocol = int.from_bytes(key[start + 4 * _NAME_SIZE :][:2], sys.byteorder)
    inverted = key[start + 4 * _NAME_SIZE + (3 if version == 4 else 4)]
    links = [
        # Where the mask does not reach beyond the name, it is what names begin with.
        ("!" if inverted & flag else "") + _text(name).decode(errors="replace") if mask[len(_text(name))] else ""
        for name, mask, flag in zip(names[:2], names[2:], (_NOT_IN, _NOT_OUT), strict=True)
    ]
    jump = key.rpartition(b"\0")[2].decode(errors="replace")
    is_bare = not any(key[:start]) and not protocol and key[layout.match :] == b"\0" + jump.encode()
    return links[0], links[1], jump, is_bare


def target(name: str, revision: int, data: bytes) -> bytes:
    """Write a struct xt_entry_target."""
    size = -(-(_TARGET_HEAD + len(data)) // _ALIGNMENT) * _ALIGNMENT
    return (struct.pack("=H29sB", size, name.encode(), revision) + data).ljust(size, b"\0")


def with_target(version: int, entry: bytes, new: bytes) -> bytes:
    """Exchange the target of an entry."""
    layout = _LAYOUTS[version]
    at, _ = _OFFSETS.unpack_from(entry, layout.offsets)
    result = bytearray(entry[:at] + new)
    _OFFSETS.pack_into(result, layout.offsets, at, len(result))
    return bytes(result)


def _still(entries: bytes, layout: _Layout) -> bytes:
    result = bytearray(entries)
    notes = bytes(layout.offsets - layout.match)
    counters = bytes(layout.size - layout.offsets - _OFFSETS.size)
    for at, *_ in _walk(entries, layout):
        result[at + layout.match : at + layout.offsets] = notes
        result[at + layout.offsets + _OFFSETS.size : at + layout.size] = counters
    return bytes(result)


def _walk(entries: bytes, layout: _Layout) -> Iterator[tuple[int, int, int]]:
    """Yield where each entry is, its target from there on, and where the next one is."""
    at = 0
    while at < len(entries):
        target, following = _OFFSETS.unpack_from(entries, at + layout.offsets)
        yield at, target, at + following
        at += following


def _target_name(entries: bytes, at: int) -> bytes:
    return _text(entries[at + _TARGET_NAME.start : at + _TARGET_NAME.stop])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _ask(asked: socket.socket, layout: _Layout, what: int, given: bytes) -> bytes:
    """Call getsockopt(2) with a buffer that says what is wanted, which Python's own does not pass on."""
    buffer = ctypes.create_string_buffer(given, len(given))
    length = ctypes.c_uint32(len(given))
    if _libc.getsockopt(asked.fileno(), layout.level, what, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw
