"""A doctor's patient: a host with folders of its own, where its engine would look and its administrator works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from .command import LabError
from .daemon import PROJECT
from .netns import Namespace
from .zygote import zygote

#: $1 is seen as the engine's folder for sockets, $2 as its own socket. Changes to /etc stay in here.
_PRIVATE = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins /run/lock /run/upper /run/work
mount --bind "$1" /run/docker/plugins
[ -z "$2" ] || ln -s "$2" /run/docker.sock
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
rm -rf /etc/docker
[ ! -d /usr/lib/docker/plugins ] || mount -t tmpfs tmpfs /usr/lib/docker/plugins
echo ready
exec cat
"""


class Patient:
    """What an administrator sees of the host in the namespace `netns`, from `with` to the end of the block.

    Args:
        plugins: the engine's folder for sockets.
        engine: the engine's own socket.
    """

    def __init__(self, netns: Namespace, plugins: Path, state_dir: Path, engine: Path | None = None) -> None:
        self.netns = netns
        self._arguments = (str(plugins), str(engine or ""))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {"PATH": path, "PYNET_STATE_DIR": str(state_dir), "PYTHONPATH": str(PROJECT)}
        self._mounts = Path()
        self._stack = ExitStack()
        self.room: tuple[str, ...] = ()  #: begins a command that is to run there

    def __enter__(self) -> Patient:
        keeper = subprocess.Popen(
            ("unshare", "--mount", "sh", "-c", _PRIVATE, "sh", *self._arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(keeper.wait)
        self._stack.callback(keeper.kill)
        assert keeper.stdin is not None and keeper.stdout is not None
        self._stack.enter_context(keeper.stdin)
        self._stack.enter_context(keeper.stdout)
        if keeper.stdout.readline() != b"ready\n":
            self._stack.close()
            raise LabError("the patient's folders cannot be made")
        self._mounts = Path(f"/proc/{keeper.pid}/ns/mnt")
        variables = (f"{name}={value}" for name, value in self._environment.items())
        self.room = ("nsenter", f"--mount={self._mounts}", "env", *variables)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def examine(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `pynet doctor` and return what it found; its exit code says whether that is something."""
        command = ("doctor", "--json", *arguments)
        environment = {**os.environ, **self._environment}
        ended = zygote().run(self.netns.path, command, timeout_s=120, environment=environment, mounts=self._mounts)
        assert all(line.startswith("not looked at: ") for line in ended.errors.splitlines()), ended.errors
        assert ended.code in (0, 1), ended
        found: list[dict[str, Any]] = json.loads(ended.output)
        assert ended.code == (1 if found else 0)
        return found

    def run(self, command: str) -> str:
        """Run a command line as the administrator of the host would."""
        return self.netns.run(*self.room, "sh", "-ec", command)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command there."""
        return self.netns.popen(*self.room, *command, **options)
