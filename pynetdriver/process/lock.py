"""One daemon a host: it holds locks, whose files tell others who it is.

| lock | keeps out |
|---|---|
| `lock` in the folder beside the engine's socket | another daemon for that engine, whatever else it sees |
| NUMBER.lock in the engine's folder for pynet, the network namespace's | another daemon with other sockets |
| `lock` in the state folder | a daemon of another namespace |
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pynetdriver.errors import PynetError
from pynetdriver.paths import MANAGED, folder_beside, seen

#: Both seen and written to by service and managed plugin.
_LOCKS = seen("/run/docker") / "plugins/pynet"


def owner() -> str:
    """Say how this process was started, so that a user knows what to stop."""
    if MANAGED:
        return "the managed plugin"
    unit = _group().rpartition("/")[2]
    if os.environ.get("NOTIFY_SOCKET") and unit.endswith(".service"):
        return unit
    return f"`pynet serve`, process {os.getpid()}"


def _group() -> str:
    """Name this process' control group, which systemd calls after the unit (cgroups(7))."""
    groups = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return next((path for _, controllers, path in groups if controllers in ("", "name=systemd")), "")


@contextlib.contextmanager
def claim(sock: Path, state_dir: Path) -> Iterator[None]:
    """Be the host's only daemon until the end of the block.

    Raises:
        PynetError: another one is; it is named.
    """
    number = Path("/proc/self/ns/net").stat().st_ino
    with (
        _locked(folder_beside(sock) / "lock", f"serves {sock}"),
        _locked(_LOCKS / f"{number}.lock", "manages this host's network"),
        _locked(state_dir / "lock", f"uses {state_dir}"),
    ):
        yield


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """Hold a file that root alone can open; the kernel lets go of it with the process (flock(2))."""
    with contextlib.ExitStack() as held:
        try:
            lock = _open_locked(path)
            held.callback(os.close, lock)
            with contextlib.suppress(OSError):  # a full disk has no room for a name
                os.truncate(lock, 0)
                os.write(lock, owner().encode())
            _refuse_open(path.parent)
        except BlockingIOError:
            raise PynetError(f"{_holder(path)} {what} already; stop it first") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise PynetError(f"cannot lock {path}: it is a symbolic link; remove it") from None
            raise PynetError(f"cannot lock {path}: {error.strerror}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
                path.parent.rmdir()  # if nothing else is in it


def _open_locked(path: Path) -> int:
    """Raises BlockingIOError if another process holds it."""
    while True:
        with contextlib.suppress(FileExistsError):  # one that went just now
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # who held it removed its folder meanwhile
        try:
            found = os.fstat(lock)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise PynetError(f"cannot lock {path}: it is not a file of its own; remove it")
            os.fchmod(lock, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), found):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its holder removed it meanwhile


def _refuse_open(folder: Path) -> None:
    """Refuse a folder in which others than root may put something else in the place of what is read there."""
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise PynetError(
            f"others than root may write to {folder}; look at what is in it, then:"
            f" chown root {folder} && chmod 0700 {folder}"
        )


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "another pynet"
    except (OSError, ValueError):
        return "another pynet"
