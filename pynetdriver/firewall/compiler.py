"""Makes messages for the kernel out of rules that are text, by libnftables and without the kernel.

The library reads the tables of everybody before it does anything, and some versions of it end the process over what
another version wrote: 1.0.6 over any set of one type that 1.1.3 did. So here it has no kernel to read from. Its socket
leads nowhere, and it is told that all there was is flushed, after which it looks at nothing but what it is given. What
it would have sent is in its debugging output; `tables` sends it.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from pynetdriver.errors import HostError
from pynetdriver.firewall.library import Context, NftablesError, load
from pynetdriver.nlmsg import NESTED, NETFILTER, Message

#: A kind of netlink that nobody in the kernel listens to (linux/netlink.h, NETLINK_USERSOCK).
_NOBODY = 2
_TRIES = 10
_CREATE, _APPEND = 0x400, 0x800
_SUBSYSTEM = 10 << 8
#: What is added, and how: table, chain, rule, set and elements, NFT_MSG_NEW… of linux/netfilter/nf_tables.h.
_FLAGS = {_SUBSYSTEM | kind: _CREATE for kind in (0, 3, 9, 12)} | {_SUBSYSTEM | 6: _CREATE | _APPEND}

#: Of what libmnl writes down (mnl_nlmsg_fprintf): where a message begins; and four bytes of it, which are length, mark
#: of nesting and kind of an attribute, each in a colour, or hexadecimal data.
_HEAD = re.compile(r"^\|  (\d{10})  \|\t\| message length \|\n\| (\d{5}) \|", re.MULTILINE)
_COLOUR = r"\x1b\[[0-9;]*m"
_FOUR_BYTES = re.compile(
    rf"^\|(?:{_COLOUR}(\d{{5}}){_COLOUR}\|{_COLOUR}(.).{_COLOUR}\|{_COLOUR}(\d{{5}})| ((?:[0-9a-f]{{2}} ){{4}}))",
    re.MULTILINE,
)


class Compiler:
    """Knows the table without networks, to which rules are added."""

    def __init__(self, table: str, declarations: str) -> None:
        """Load the library.

        Args:
            table: the command that makes the table.
            declarations: the same, with nothing but the maps and sets that rules name.

        Raises:
            HostError: the library is not installed, or has no socket that could be taken from it.
        """
        self._table, self._declarations = table, declarations
        self._one_at_a_time = threading.Lock()
        self._context = _unplugged()

    def messages(self, commands: str) -> list[Message]:
        """Compile the command that makes the table, or some that add chains and rules to it, or both; for any thread.

        Raises:
            NftablesError: the library does not understand them.
        """
        more = commands.removeprefix(self._table)
        found = list(self._made) if more != commands else []
        if more.strip():
            found += self._compiled(self._declarations + more)[len(self._declared) :]
        return found

    @functools.cached_property
    def _made(self) -> list[Message]:
        return self._compiled(self._table)

    @functools.cached_property
    def _declared(self) -> list[Message]:
        return self._compiled(self._declarations)

    def _compiled(self, commands: str) -> list[Message]:
        with self._one_at_a_time:
            output, refusal = self._context.run(f"flush ruleset\n{commands}")
        found = list(_sent(output))
        if not found:
            raise NftablesError(refusal or "libnftables made nothing of it")
        return found


def _unplugged() -> Context:
    """Make a context of the library that reaches no kernel; and if it did, it would only ask whether it might."""
    library = load()
    for _ in range(_TRIES):
        former = set(_sockets().values())
        context = Context(library, only_compiles=True)
        found = [number for number, link in _sockets().items() if link not in former and _is_netfilter(number)]
        if len(found) == 1:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NOBODY) as nobody:
                os.dup2(nobody.fileno(), found[0], inheritable=False)
            return context
        # Another thread made one meanwhile.
        context.close()
    raise HostError("libnftables has no socket that could be taken from it; use another version of it")


def _sockets() -> dict[int, str]:
    """This process' sockets, each with what it is called in /proc (proc(5))."""
    found = {}
    for one in Path("/proc/self/fd").iterdir():
        try:
            link = os.readlink(one)
        except OSError:
            continue
        if link.startswith("socket:"):
            found[int(one.name)] = link
    return found


def _is_netfilter(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)) as one:
            return one.family == socket.AF_NETLINK and one.proto == NETFILTER
    except OSError:
        return False


def _sent(output: str) -> Iterator[Message]:
    """Read what was to be added out of what the library wrote down."""
    heads = list(_HEAD.finditer(output))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        length, kind = int(head[1]), int(head[2])
        if kind not in _FLAGS:
            continue
        words = _FOUR_BYTES.findall(output, head.end(), following.start() if following else len(output))
        body = bytes.fromhex("".join(data or _header(*attribute) for *attribute, data in words))
        if len(body) + 16 != length:
            raise NftablesError(f"libnftables wrote down {len(body) + 16} bytes of {length}")
        yield Message(kind, _FLAGS[kind], body)


@functools.lru_cache(maxsize=4096)
def _header(length: str, nested: str, kind: str) -> str:
    return struct.pack("=HH", int(length), int(kind) | (NESTED if nested == "N" else 0)).hex()
