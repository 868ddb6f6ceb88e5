"""A machine but for the kernel: a root, a mount and a pid namespace; leaves dockerd to `engine`.

Layout of its folder on the host:

| name    | inside                                       |
|---------|----------------------------------------------|
| shared  | the same path: sockets and files to exchange |
| plugins | /run/docker/plugins                          |
| data    | /var/lib/docker                              |
| root    | /, mounted in the machine's namespace only   |
"""

import subprocess
from pathlib import Path
from typing import Any, Literal

from . import cgroup, command
from .command import LabError
from .netns import Namespace

Iptables = Literal["nft", "legacy"]

SCRIPT = Path(__file__).with_name("machine.sh")


class Machine:
    """A machine in the namespace `netns`, with `root` as its read-only base."""

    def __init__(self, netns: Namespace, root: Path, folder: Path, iptables: Iptables) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self.plugins = folder / "plugins"
        #: The parent of all cgroups of its containers, as `--cgroup-parent` wants it.
        self.cgroup = f"/{netns.name}"
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
        }
        self._netns = netns
        self._init: subprocess.Popen[bytes] | None = None
        self._arguments = (str(root), str(folder), iptables)

    @property
    def booted(self) -> bool:
        """Whether it runs."""
        return self._init is not None

    def path(self, inside: str) -> Path:
        """Where the host finds a path of the machine, its mounts included."""
        if self._init is None:
            raise LabError("the machine is not booted")
        return Path(f"/proc/{self._init.pid}/root{inside}")

    def boot(self) -> None:
        """Start the machine, with nothing but an init in it."""
        for name in ("shared", "plugins", "data", "root"):
            (self.folder / name).mkdir(exist_ok=True)
        with (self.folder / "boot.log").open("ab") as log:
            self._init = self._netns.popen(
                *("unshare", "--mount", "--propagation=private", "--pid", "--fork"),
                *("--kill-child", "sh", str(SCRIPT), *self._arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"booted\n":
            self.halt()
            raise LabError(f"no boot: {(self.folder / 'boot.log').read_text()}")

    def halt(self) -> None:
        """End everything in the machine at once, as when the power goes.

        Its files and the state of its network namespace stay, its /run goes.
        """
        if self._init is None:
            return
        assert self._init.stdin is not None and self._init.stdout is not None
        self._init.stdin.close()
        self._init.stdout.close()
        try:
            # `unshare` ends after the init, and that after all its processes.
            self._init.wait(20)
        finally:
            self._init.kill()
            self._init = None
        cgroup.remove(self.cgroup, self.folder)

    def run(
        self,
        *cmd: str,
        check: bool = True,
        timeout_s: float = 60,
        input: str | bytes | None = None,
    ) -> str:
        """Run `cmd` in the machine and return its stdout; see `command.run`."""
        return command.run(
            *self._entered(cmd),
            check=check,
            timeout_s=timeout_s,
            input=input,
            env=self.environment,
        )

    def popen(self, *cmd: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start `cmd` in the machine.

        The process is a wrapper, which ends as `cmd` does; signals don't reach `cmd`.
        """
        return subprocess.Popen(self._entered(cmd), env=self.environment, **options)

    def _entered(self, cmd: tuple[str, ...]) -> tuple[str, ...]:
        if self._init is None:
            raise LabError("the machine is not booted")
        namespaces = f"/proc/{self._init.pid}/ns"
        # `unshare` stays outside the pid namespace that it made for its child.
        return (
            *("nsenter", f"--net={namespaces}/net", f"--mount={namespaces}/mnt"),
            *(f"--pid={namespaces}/pid_for_children", "--", *cmd),
        )
