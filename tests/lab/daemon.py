"""The plugin daemon under test, as a process of its own; leaves its answers to the tests."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from . import unix
from .netns import Namespace
from .wait import eventually
from .zygote import Forked, zygote

PROJECT = Path(__file__).resolve().parents[2]


class Daemon:
    """`pynet serve` in the network namespace `netns`, from `with` to the end of the block.

    Args:
        socket: where it listens; `engine.plugins / "pynet.sock"` makes it `-d pynet`.
        extra: more arguments for the daemon.
        command: what takes the place of the daemon itself.
        forked: for tests in which its start is not the point: it is forked from a process that has imported it.
    """

    def __init__(
        self,
        netns: Namespace,
        socket: Path,
        state_dir: Path,
        *extra: str,
        command: tuple[str, ...] = (sys.executable, "-m", "pynetdriver"),
        forked: bool = False,
    ) -> None:
        self.netns = netns
        self.socket = socket
        self.state_dir = state_dir
        self.log_file = state_dir.with_name(f"{state_dir.name}.log")
        self._command = command
        self._forked = forked
        self.before: tuple[str, ...] = ()  #: begins its command, e.g. with prlimit; it is not forked then
        self.arguments = ("serve", "--socket", str(socket), "--state-dir", str(state_dir), *extra)
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def __enter__(self) -> "Daemon":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What it wrote to stdout and stderr, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int | None:
        """The process id on the host, None when it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, on the state that is there; returns when it answers."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._process = self._fork() if self._forked and not self.before else self._spawn()
        try:
            eventually(self._answers, timeout_s=60)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = 60) -> int:
        """Ask it to end (SIGTERM) and return its exit code."""
        return self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """End it at once (SIGKILL); does nothing when it does not run."""
        if self._process is not None:
            self._end(signal.SIGKILL, 60)

    def call(
        self, method: str, body: Mapping[str, Any] | None = None, timeout_s: float = 30
    ) -> tuple[int, dict[str, Any]]:
        """Call it as the engine would, e.g. "NetworkDriver.Join"; returns status and answer."""
        return unix.call(self.socket, method, body, timeout_s)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log_file.open("ab") as log:
            return self.netns.popen(
                *self.before,
                *self._command,
                *self.arguments,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _fork(self) -> Forked:
        return zygote().fork(self.netns.path, self.log_file, self.arguments)

    def _answers(self) -> Literal[True]:
        if self._process is not None and self._process.poll() is not None:
            # Not a LabError, which would mean "not yet".
            raise RuntimeError(f"the daemon ended with {self._process.returncode}:\n{self.log}")
        assert self.call("Plugin.Activate")[0] == 200
        return True

    def _end(self, number: signal.Signals, timeout_s: float) -> int:
        assert self._process is not None, "the daemon does not run"
        self._process.send_signal(number)
        code = self._process.wait(timeout_s)
        self._process = None
        return code
