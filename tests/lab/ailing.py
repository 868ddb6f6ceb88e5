"""The doctor's patient: a daemon's host with the folders of its own that a doctor looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .daemon import PROJECT
from .netns import Namespace

#: Gives whoever runs in it a /run and folders of the engine's that are no machine's own. $1 is seen as the engine's
#: folder for sockets, $2 as its socket.
_PRIVATE = """\
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins /run/lock
mount --bind "$1" /run/docker/plugins
for place in /etc/docker /usr/lib/docker/plugins; do
    [ ! -d "$place" ] || mount -t tmpfs tmpfs "$place"
done
[ -z "$2" ] || { : >/run/docker.sock; mount --bind "$2" /run/docker.sock; }
shift 2
exec "$@"
"""


class Patient:
    """A host in the namespace `netns`, whose engine has the folder `plugins` for sockets."""

    def __init__(self, netns: Namespace, plugins: Path, state_dir: Path, engine: Path | None = None) -> None:
        self.netns = netns
        # Beside what the tests run with stand the commands of a host.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = (f"PATH={path}", f"PYNET_STATE_DIR={state_dir}", f"PYTHONPATH={PROJECT}")
        self._room = ("unshare", "--mount", "sh", "-c", _PRIVATE, "sh", str(plugins), str(engine or ""))
        self._room += ("env", *settings)

    def examine(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `pynet doctor` and return what it found; its exit code says whether that is something."""
        process = self.popen("pynet", "doctor", "--json", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=30)
        assert not err and process.returncode in (0, 1), (process.returncode, err.decode())
        found: list[dict[str, Any]] = json.loads(out)
        assert process.returncode == (1 if found else 0)
        return found

    def run(self, command: str) -> str:
        """Run a command line as the administrator of the host would."""
        return self.netns.run(*self._room, "sh", "-ec", command)

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command there."""
        return self.netns.popen(*self._room, *command, **options)
