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
        self._environment = (f"PATH={path}", f"PYNET_STATE_DIR={state_dir}", f"PYTHONPATH={PROJECT}")
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
        self.room = ("nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt", "env", *self._environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def examine(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `pynet doctor` and return what it found; its exit code says whether that is something."""
        command = (sys.executable, "-m", "pynetdriver", "doctor", "--json", *arguments)
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=120)
        assert all(line.startswith("not looked at: ") for line in err.decode().splitlines()), err.decode()
        assert process.returncode in (0, 1), (process.returncode, err.decode())
        found: list[dict[str, Any]] = json.loads(out)
        assert process.returncode == (1 if found else 0)
        return found

    def run(self, command: str) -> str:
        """Run a command line as the administrator of the host would."""
        return self.netns.run(*self.room, "sh", "-ec", command)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command there."""
        return self.netns.popen(*self.room, *command, **options)
