"""What keeps a second daemon out, and nothing else keeps the first one out."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.command import CommandFailed
from tests.lab.daemon import Daemon
from tests.lab.netns import Namespace

from .host import Host
from .test_protocol import refusal_of

BIND = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0pynet'); print('up', flush=True); input()"
READ_ONLY = 'mount -t tmpfs -o ro none /run && exec "$0" "$@"'


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """A namespace without a daemon."""
    with Namespace() as made:
        yield made


def test_each_lock_is_named_when_it_is_held(host: Host, folder: Path) -> None:
    """Socket, network and state folder are locked apart, and a refusal says which is held and by whom."""
    holder = f"`pynet serve`, process {host.daemon.pid}"
    refusal = refusal_of(Daemon(host.netns, folder / "b.sock", folder / "other"))
    assert f"{holder} manages this host's network already" in refusal
    with Namespace() as elsewhere:
        serve = (sys.executable, "-m", "pynetdriver", "serve", "--state-dir", str(folder / "other"))
        with pytest.raises(CommandFailed) as refused:
            elsewhere.run(*serve, "--socket", str(host.daemon.socket))
        assert f"Error: {holder} serves {host.daemon.socket} already; stop it first" in refused.value.stderr
    with Namespace() as elsewhere:
        second = Daemon(elsewhere, folder / "b.sock", host.daemon.state_dir)
        second.log_file = folder / "second.log"
        assert f"{holder} uses {host.daemon.state_dir} already" in refusal_of(second)


def test_a_dead_daemon_and_other_users_keep_nobody_out(host: Host) -> None:
    """What a killed daemon leaves is free, and names that any user can take mean nothing."""
    host.daemon.kill()
    with host.netns.popen("python3", "-ISc", BIND, stdin=-1, stdout=-1) as other:
        assert other.stdout is not None and other.stdout.readline() == b"up\n"
        host.daemon.start()
        other.kill()


def test_locks_are_for_root_alone(host: Host) -> None:
    """Whoever can open a lock file can hold it."""
    lock = Path("/run/docker/plugins/pynet") / f"{os.stat(host.netns.path).st_ino}.lock"
    beside = host.daemon.socket.with_suffix("")
    paths = {lock.parent: 0o700, beside: 0o700}
    paths |= dict.fromkeys((lock, beside / "lock", beside / "admin.sock", host.daemon.state_dir / "lock"), 0o600)
    for path, mode in paths.items():
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (mode, 0)
    host.daemon.stop()
    assert not beside.exists() and not lock.exists() and not host.daemon.socket.exists()


def test_a_lock_that_cannot_be_made_is_told_in_a_sentence(folder: Path) -> None:
    """A read-only /run is named, without a traceback."""
    command = ("unshare", "--mount", "sh", "-c", READ_ONLY, sys.executable, "-m", "pynetdriver")
    with Namespace() as netns:
        refusal = refusal_of(Daemon(netns, folder / "b.sock", folder / "state", command=command))
    assert "cannot lock /run/docker/plugins/pynet/" in refusal and "Read-only file system" in refusal


@pytest.mark.parametrize("lock", ["state/lock", "pynet/lock"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe"])
def test_a_lock_that_is_something_else_is_refused(netns: Namespace, folder: Path, lock: str, kind: str) -> None:
    """What it leads to is neither emptied nor shut to others."""
    path, other = folder / lock, folder / "other"
    path.parent.mkdir(mode=0o700)
    other.write_text("precious")
    other.chmod(0o644)
    if kind == "symbolic link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    else:
        os.mkfifo(path)
    refusal = refusal_of(Daemon(netns, folder / "pynet.sock", folder / "state"))
    assert f"Error: cannot lock {path}: it is " in refusal and "remove it" in refusal and "Traceback" not in refusal
    assert other.read_text() == "precious" and stat.S_IMODE(other.stat().st_mode) == 0o644


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (0, 0o770), (65534, 0o700)])
def test_a_state_folder_that_others_write_to_is_refused(netns: Namespace, folder: Path, owner: int, mode: int) -> None:
    """Who may put another file there would say what root does; the sentence says how to shut it."""
    state = folder / "state"
    state.mkdir()
    state.chmod(mode)
    os.chown(state, owner, 0)
    daemon = Daemon(netns, folder / "pynet.sock", state)
    refusal = refusal_of(daemon)
    assert f"Error: others than root may write to {state}; " in refusal and "Traceback" not in refusal
    netns.run("sh", "-c", refusal.splitlines()[-1].partition("then: ")[2])
    with daemon:
        assert stat.S_IMODE((state / "pynet.db").stat().st_mode) == 0o600


def test_a_state_file_that_others_read_is_shut_and_a_link_is_refused(netns: Namespace, folder: Path) -> None:
    """The file is pynet's own."""
    state = folder / "state"
    with Daemon(netns, folder / "pynet.sock", state) as daemon:
        daemon.stop()
        (state / "pynet.db").chmod(0o666)
        daemon.start()
        assert stat.S_IMODE((state / "pynet.db").stat().st_mode) == 0o600
        daemon.stop()
        (state / "pynet.db").rename(folder / "elsewhere")
        (state / "pynet.db").symlink_to(folder / "elsewhere")
        assert "pynet.db is not a file" in refusal_of(daemon)
