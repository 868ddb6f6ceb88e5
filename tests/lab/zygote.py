"""Processes forked from one that has imported all of pynet; leaves when to start one to `daemon` and others.

To import what pynet is made of takes most of its start. What is forked is as it is after the import: it enters its
namespaces, opens its output and calls `pynetdriver.__main__.main`, or a function of a test.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .command import PATIENCE

PROJECT = Path(__file__).resolve().parents[2]
#: What most of what is forked needs.
IMPORTED = ("pynetdriver.__main__", "pynetdriver.process.daemon", "pynetdriver.doctor", "structlog", "pytest")
PYNET = "pynetdriver.__main__:main"
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Outcome(NamedTuple):
    """How a process ended."""

    code: int
    output: str
    errors: str


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

    def fork(
        self,
        netns: Path,
        output: Path,
        arguments: Sequence[str],
        *,
        errors: Path | None = None,
        function: str = PYNET,
        environment: Mapping[str, str] | None = None,
        mounts: Path | None = None,
    ) -> Forked:
        """Call a function in a new process in a network namespace.

        Args:
            output: what it writes to stdout is appended to it, and without `errors` what it writes to stderr.
            function: "MODULE:FUNCTION", which is given the arguments; by default `pynet` with a command line.
            environment: the whole of it, this process' own by default.
            mounts: the file of a mount namespace to enter as well.
        """
        pid = self.ask(
            netns=str(netns),
            output=str(output),
            errors=str(errors or output),
            arguments=list(arguments),
            function=function,
            environment=dict(os.environ if environment is None else environment),
            mounts=str(mounts or ""),
        )
        return Forked(self, pid)

    def run(self, netns: Path, arguments: Sequence[str], *, timeout_s: float = 60, **options: Any) -> Outcome:
        """Do as `fork`, and wait for the end; raises `subprocess.TimeoutExpired` if that does not come."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            places = [Path(f"/proc/{os.getpid()}/fd/{one.fileno()}") for one in (output, errors)]
            process = self.fork(netns, places[0], arguments, errors=places[1], **options)
            try:
                code = process.wait(timeout_s)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                process.wait(timeout_s)
                raise
            said = []
            for one in (output, errors):
                one.seek(0)
                said.append(one.read().decode())
        return Outcome(code, *said)

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


def _serve(port: socket.socket) -> dict[str, Any]:
    """Answer until the other end is closed; returns in each child, with its request."""
    request: dict[str, Any] = {}
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
    return request


def _become(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    for stream, name in enumerate((os.devnull, request["output"], request["errors"])):
        opened = os.open(name, _WRITE if stream else os.O_RDONLY, 0o644)
        os.dup2(opened, stream)
        os.close(opened)
    spaces = [(os.open(request["netns"], os.O_RDONLY), _CLONE_NEWNET)]
    if request["mounts"]:
        spaces.append((os.open(request["mounts"], os.O_RDONLY), _CLONE_NEWNS))
    libc = ctypes.CDLL(None, use_errno=True)
    for opened, kind in spaces:
        if libc.setns(opened, kind):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(opened)


def _main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request)
    arguments: list[str] = request["arguments"]
    if request["function"] == PYNET:
        sys.argv, arguments = ["pynet", *arguments], []
    module, _, name = request["function"].partition(":")
    getattr(importlib.import_module(module), name)(*arguments)


if __name__ == "__main__":
    _main()
