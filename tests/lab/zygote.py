"""Daemons forked from a process that has imported all of pynet; leaves when to start one to `daemon`.

To import what the daemon is made of takes most of its start. What is forked is as it is after the import: it enters
its network namespace, opens its log and calls `pynetdriver.__main__.main`.
"""

import atexit
import gc
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .command import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
_CLONE_NEWNET = 0x40000000


class Forked:
    """A process that the zygote forked; as much of `subprocess.Popen` as `Daemon` uses."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        # The zygote keeps it as a zombie until it is asked for the code: the number is nobody else's.
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self.returncode if self._ended(0) else None

    def wait(self, timeout_s: float) -> int:
        """Return the exit code; raises `subprocess.TimeoutExpired` when it runs on."""
        if not self._ended(timeout_s * PATIENCE) or self.returncode is None:
            raise subprocess.TimeoutExpired("pynet serve", timeout_s)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _ended(self, timeout_s: float) -> bool:
        if self.returncode is not None:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return False
        os.close(self._handle)
        self.returncode = self._zygote.ask(reap=self.pid)
        return True


class Zygote:
    """The process that has imported pynet; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._port, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "tests.lab.zygote", str(theirs.fileno()))
            self._process = subprocess.Popen(command, cwd=PROJECT, pass_fds=(theirs.fileno(),), start_new_session=True)
        self._answers = self._port.makefile("rb")
        atexit.register(self._end)

    def fork(self, netns: Path, log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """Start `pynet` with `arguments` in a network namespace, with its output appended to `log`."""
        pid = self.ask(netns=str(netns), log=str(log), arguments=list(arguments), environment=dict(environment))
        return Forked(self, pid)

    def ask(self, **request: Any) -> int:
        """Send one request and return the number that answers it."""
        with self._lock:
            self._port.sendall(json.dumps(request).encode() + b"\n")
            return int(self._answers.readline())

    def _end(self) -> None:
        self._answers.close()
        self._port.close()
        self._process.wait(10)


_zygotes: dict[int, Zygote] = {}


def zygote() -> Zygote:
    """Return this process' zygote, made the first time."""
    if os.getpid() not in _zygotes:
        _zygotes[os.getpid()] = Zygote()
    return _zygotes[os.getpid()]


def _serve(port: socket.socket) -> list[str]:
    """Answer until the other end is closed; returns in each child, with its arguments."""
    with port.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            if "reap" in request:
                answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
            else:
                answer = os.fork()
                if answer == 0:
                    break
            port.sendall(b"%d\n" % answer)
        else:
            sys.exit(0)
    port.close()
    os.environ.clear()
    os.environ.update(request["environment"])
    with open(request["log"], "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(request["netns"], "rb") as netns:
        _enter(netns.fileno())
    arguments: list[str] = request["arguments"]
    return arguments


def _enter(netns: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _main() -> None:
    import structlog  # noqa: F401

    import pynetdriver.process.daemon
    from pynetdriver.__main__ import main

    assert pynetdriver.process.daemon
    gc.collect()
    gc.freeze()
    sys.argv = ["pynet", *_serve(socket.socket(fileno=int(sys.argv[1])))]
    main()


if __name__ == "__main__":
    _main()
