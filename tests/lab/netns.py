"""Network namespaces and the cables between them; leaves mounts and processes to `machine`."""

import contextlib
import os
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import command
from .wait import eventually

#: Begins the name of everything the lab makes; the maker's process id comes next.
PREFIX = "pnlab-"
FOLDER = Path("/run/netns")


class Namespace:
    """A network namespace of its own, from `with` to the end of the block.

    `lo` is up and forwarding is off, whatever the machine's own settings are.

    Args:
        name: that of a namespace to take over and close; a new one makes its own.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
        self.path = FOLDER / self.name

    def __enter__(self) -> "Namespace":
        command.run("ip", "netns", "add", self.name)
        command.run("ip", "-n", self.name, "link", "set", "lo", "up")
        # A new namespace copies the IPv4 settings of the machine's own
        # (kernel: net.core.devconf_inherit_init_net = 0).
        self.write_sysctl("net/ipv4/ip_forward", "0")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        *cmd: str,
        check: bool = True,
        timeout_s: float = 60,
        input: str | bytes | None = None,
    ) -> str:
        """Run `cmd` in here and return its stdout; see `command.run`."""
        return command.run(*self._entered(cmd), check=check, timeout_s=timeout_s, input=input)

    def popen(self, *cmd: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start `cmd` in here; the process is `cmd` itself, not a wrapper."""
        return subprocess.Popen(self._entered(cmd), **options)

    def sysctl(self, name: str) -> str:
        """Return a value of this namespace under /proc/sys, e.g. "net/ipv4/ip_forward"."""
        return self.run("cat", f"/proc/sys/{name}").strip()

    def write_sysctl(self, name: str, value: str) -> None:
        """Set a value of this namespace under /proc/sys."""
        self.run("sh", "-c", 'echo "$1" >"$2"', "sh", value, f"/proc/sys/{name}")

    def pids(self) -> list[int]:
        """Return the processes that live in here."""
        return [int(pid) for pid in command.run("ip", "netns", "pids", self.name).split()]

    def close(self) -> None:
        """Kill what lives in here and delete the namespace; a second time does nothing."""
        if not self.path.exists():
            return
        eventually(self._emptied)
        command.run("ip", "netns", "delete", self.name)

    def _emptied(self) -> bool:
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def _entered(self, cmd: tuple[str, ...]) -> tuple[str, ...]:
        return ("nsenter", f"--net={self.path}", "--", *cmd)


@dataclass(frozen=True)
class Plug:
    """One end of a cable."""

    namespace: Namespace
    interface: str  #: at most 15 characters, e.g. "lan0"
    addresses: tuple[str, ...] = ()  #: with prefix length, e.g. "192.0.2.1/24"


def connect(left: Plug, right: Plug) -> None:
    """Lay a cable (a veth pair) and bring both ends up; it goes when a namespace goes."""
    command.run(
        *("ip", "-n", left.namespace.name, "link", "add", left.interface, "type", "veth"),
        *("peer", "name", right.interface, "netns", right.namespace.name),
    )
    for plug in (left, right):
        ip = ("ip", "-n", plug.namespace.name)
        for address in plug.addresses:
            # Without nodad an IPv6 address is unusable for its first second or two.
            nodad = ("nodad",) if ":" in address else ()
            command.run(*ip, "address", "add", address, "dev", plug.interface, *nodad)
        command.run(*ip, "link", "set", plug.interface, "up")
