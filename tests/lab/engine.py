"""A real Docker Engine on a lab machine, and its client; leaves the machine to `machine`."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal

from . import unix
from .command import CommandFailed, LabError, Unavailable, run
from .image import busybox_image
from .machine import Iptables, Machine
from .netns import Namespace
from .roots import ensure_root
from .wait import eventually

COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


class Engine:
    """A running dockerd with the image `busybox:latest`, from `with` to the end of the block.

    Args:
        version: a key of `roots.RECIPES`, or "own" for the dockerd of this machine.
        iptables: the flavour that `iptables` and `ip6tables` are for this engine.
        args: more arguments for dockerd.

    Raises (on `with`):
        Unavailable: there is no such engine here.
    """

    def __init__(
        self,
        version: str = "28.5",
        *,
        iptables: Iptables = "nft",
        live_restore: bool = False,
        args: tuple[str, ...] = (),
    ) -> None:
        self.netns = Namespace()
        self.folder = Path(tempfile.gettempdir()) / self.netns.name
        self.plugins = self.folder / "plugins"  #: its /run/docker/plugins
        self.shared = self.folder / "shared"  #: the same path for host and engine
        self.socket = self.shared / "docker.sock"
        self.version = ""  #: as the engine says, e.g. "26.1.5+dfsg1"
        self.has_compose = False
        self._wanted = version
        self._iptables: Iptables = iptables
        self._args = (*args, *(("--live-restore",) if live_restore else ()))
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._machine: Machine | None = None

    def __enter__(self) -> "Engine":
        root, image = _root(self._wanted), busybox_image()
        try:
            self.netns.__enter__()
            self.folder.mkdir(mode=0o700)
            self._machine = Machine(self.netns, root, self.folder, self._iptables)
            self.start()
            self.version = self.docker("version", "--format", "{{.Server.Version}}").strip()
            self.has_compose = bool(self.docker("compose", "version", "--short", check=False))
            self.docker("load", input=image.read_bytes())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def machine(self) -> Machine:
        """What dockerd runs on: run other commands as the administrator of the host would."""
        if self._machine is None:
            raise LabError("the engine was not started")
        return self._machine

    @property
    def log(self) -> Path:
        """What dockerd said, over all its starts."""
        return self.folder / "dockerd.log"

    def docker(
        self,
        *args: str,
        check: bool = True,
        timeout_s: float = 60,
        input: str | bytes | None = None,
    ) -> str:
        """Run the engine's own client and return its stdout.

        Raises:
            CommandFailed: with what the client wrote to stderr.
        """
        cmd = ("docker", "-H", f"unix://{self.socket}", *args)
        return self.machine.run(*cmd, check=check, timeout_s=timeout_s, input=input)

    def refused(self, *args: str) -> str:
        """Run the client with a command that must fail, and return what the user reads."""
        try:
            self.docker(*args)
        except CommandFailed as error:
            return error.stderr.strip()
        raise AssertionError(f"docker {' '.join(args)} was not refused")

    def compose(self, project: Path, *args: str, check: bool = True, timeout_s: float = 120) -> str:
        """Run `docker compose` for the folder or file `project`, and return its stdout.

        The engine works on a copy; the project has the name of the folder.
        """
        if not self.has_compose:
            raise Unavailable(f"engine {self.version} has no compose version 2 here")
        folder = project if project.is_dir() else project.parent
        names = COMPOSE_FILES if project.is_dir() else (project.name,)
        copy = self.shared / "compose" / folder.name
        copy.mkdir(parents=True, exist_ok=True)
        if project.is_dir():
            shutil.copytree(project, copy, dirs_exist_ok=True)
        else:
            shutil.copy(project, copy)
        file = next(copy / name for name in names if (copy / name).exists())
        return self.docker("compose", "-f", str(file), *args, check=check, timeout_s=timeout_s)

    def start(self) -> None:
        """Start dockerd, and the machine if that is down; returns when it answers."""
        if not self.machine.booted:
            self.machine.boot()
        self.machine.run("rm", "-f", str(self.socket))
        with self.log.open("ab") as log:
            self._dockerd = self.machine.popen(
                *("dockerd", "-H", f"unix://{self.socket}", "-p", "/run/docker.pid"),
                *("--cgroup-parent", self.machine.cgroup),
                *("--exec-opt", "native.cgroupdriver=cgroupfs", *self._args),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers, timeout_s=60)

    def stop(self) -> None:
        """Ask dockerd to end, and wait for it; its containers end too but for live restore."""
        self._signal("TERM")

    def restart(self) -> None:
        """Stop dockerd and start it again."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill dockerd alone: its containers go on, and the next `start` finds them."""
        self._signal("KILL")

    def crash(self) -> None:
        """Kill dockerd and all its containers at once, as when the power goes.

        What is in the engine's network namespace (bridges, rules) stays.
        """
        self.machine.halt()
        if self._dockerd is not None:
            self._dockerd.wait(10)

    def close(self) -> None:
        """End all of it and leave nothing behind; a second time does nothing."""
        if self._machine is not None:
            self.crash()
        self.netns.close()
        if self.folder.exists():
            run("rm", "-rf", "--one-file-system", str(self.folder))

    def _answers(self) -> Literal[True]:
        if self._dockerd is not None and self._dockerd.poll() is not None:
            said = self.log.read_text(errors="replace").splitlines()[-15:]
            # Not a LabError, which would mean "not yet".
            raise RuntimeError("dockerd ended:\n" + "\n".join(said))
        assert unix.get(self.socket, "/_ping")[0] == 200
        return True

    def _signal(self, signal: str) -> None:
        self.machine.run("sh", "-c", f"kill -{signal} $(cat /run/docker.pid)")
        if self._dockerd is not None:
            self._dockerd.wait(60)


def _root(version: str) -> Path:
    if version != "own":
        return ensure_root(version)
    if not shutil.which("dockerd"):
        raise Unavailable("this machine has no dockerd of its own")
    return Path("/")
