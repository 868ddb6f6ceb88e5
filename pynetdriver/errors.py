"""Everything that pynet refuses or fails at, with the HTTP status of its answer.

PynetError                500
├── InvalidRequest        400  malformed, out of range, unknown id
│   └── InvalidOption     400  an option's name or value
├── Conflict              409  something else has it already
│   └── NetworkInTheWay   409  another network of pynet's has that subnet
├── Exhausted             409  nothing is left to give
├── HostError             500  the kernel refused
└── Overdue               503  not done within the call's deadline

404 is never used: on Program and Revoke the engine takes it for "not implemented" (libnetwork
drivers/remote/driver.go). Messages are shown to users: what was asked, why not, what to do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches


class PynetError(Exception):
    """A failure whose text is one sentence for the user."""

    status = 500


class InvalidRequest(PynetError):
    """The request cannot be right whatever the state of the host is."""

    status = 400


class InvalidOption(InvalidRequest):
    """An option that does not exist, or a value that it does not take."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str], what: str = "network option") -> InvalidOption:
        """Refuse a name, saying the nearest known one, or a few if none is near; a long name's last part may do."""
        names = sorted(known)
        by_end = {one.rpartition(".")[2]: one for one in names}
        near = get_close_matches(name, names, n=1) or get_close_matches(name.rpartition(".")[2], by_end, n=1)
        if near:
            return cls(f'unknown {what} "{shortened(name)}"; did you mean "{by_end.get(near[0], near[0])}"?')
        nearest = ", ".join(by_end[one] for one in get_close_matches(name, by_end, n=3, cutoff=0))
        return cls(f'unknown {what} "{shortened(name)}"' + (f"; the nearest known are {nearest}" if nearest else ""))

    @classmethod
    def value(cls, name: str, value: str, allowed: str) -> InvalidOption:
        """Refuse a value, saying what is allowed."""
        return cls(f'option "{name}" cannot be "{shortened(value)}"; allowed: {allowed}')


class Conflict(PynetError):
    """What was asked for is in use."""

    status = 409


class NetworkInTheWay(Conflict):
    """Another network has a subnet that a new one needs; `network_id` says which."""

    def __init__(self, message: str, network_id: str) -> None:
        super().__init__(message)
        self.network_id = network_id


class Exhausted(PynetError):
    """A pool or a range has nothing left."""

    status = 409


class Overdue(PynetError):
    """The call ran past its deadline: what it made is undone, what it removes goes on."""

    status = 503


class HostError(PynetError):
    """The kernel refused something that should have worked."""

    @classmethod
    def of(cls, code: int, what: str) -> HostError:
        """Make a sentence of an errno; `what` reads like "create bridge pn-…"."""
        if code in NO_DESCRIPTORS:
            return cls(f"cannot {what}: {reason(code)}")
        if code == errno.EOPNOTSUPP:
            return cls(f"cannot {what}: this kernel lacks the module for it")
        if code == errno.EPERM:
            return cls(f"cannot {what}: not permitted; pynet needs the capabilities NET_ADMIN, NET_RAW and SYS_ADMIN")
        return cls(f"cannot {what}: {os.strerror(code)}")


#: A process has as many open as it may, or all together have.
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


def reason(code: int | None) -> str:
    """Say what an errno means, and what to do where all descriptors are taken."""
    if code == errno.EMFILE:
        return "too many open files; raise LimitNOFILE of pynet's unit, or `ulimit -n` where it is started by hand"
    if code == errno.ENFILE:
        return "too many open files on this host; raise the switch fs.file-max"
    return os.strerror(code or errno.EIO)


def shortened(text: str) -> str:
    """Cut what a user typed to what still fits into one line of a sentence."""
    text = "".join(one if one.isprintable() else "?" for one in text[:65])
    return text if len(text) <= 64 else f"{text[:61]}..."


def outcome(status: int) -> str:
    """Say in a word how a call ended that was answered with a status of HTTP."""
    return "ok" if status == 200 else "refused" if status < 500 else "failed"
