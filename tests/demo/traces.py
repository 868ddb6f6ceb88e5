"""What is left of a lab when it is gone; leaves removing to the lab."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.lab import command
from tests.lab.cgroup import TREE
from tests.lab.netns import FOLDER, PREFIX, Namespace


class Traces:
    """Finds what is left of this process's lab, on a machine that may have a pynet of its own."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{os.getpid()}-"
        self._before = _pynets()
        self._ids: set[str] = set()

    def watch(self, namespace: Namespace) -> None:
        """Remember a namespace while it lives: /proc knows it by its inode alone."""
        self._ids.add(f"net:[{namespace.path.stat().st_ino}]")

    def found(self) -> list[str]:
        """Name all that is left, one line each."""
        left = [*self._files(), *self._mounts(), *self._processes(), *sorted(_pynets() - self._before)]
        return [f"this is left: {one}" for one in left]

    def _files(self) -> Iterator[str]:
        # A cgroup of version 1 is one folder deeper.
        for pattern in (f"{self._prefix}*", f"*/{self._prefix}*"):
            for place in (FOLDER, Path(tempfile.gettempdir()), TREE):
                yield from map(str, place.glob(pattern))

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if self._prefix in line:
                yield f"mount {line.split()[4]}"

    def _processes(self) -> Iterator[str]:
        for process in Path("/proc").glob("[0-9]*"):
            # Processes come and go meanwhile.
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/net") in self._ids:
                    yield f"process {process.name} ({(process / 'comm').read_text().strip()})"


def _pynets() -> set[str]:
    """Name pynet's links and tables in the machine's own network."""
    links = [link["ifname"] for link in json.loads(command.run("ip", "-j", "link"))]
    tables = json.loads(command.run("nft", "-j", "list", "tables"))["nftables"]
    found = {f"link {name}" for name in links if name.startswith(("pn-", "pnh", "pnc"))}
    return found | {f"table {one['table']['name']}" for one in tables if one.get("table", {}).get("name") == "pynet"}
