"""A virtual machine: start it, run commands inside, pull its plug; leaves what it starts from to `image`."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab import command
from tests.lab.command import CommandFailed, LabError, run
from tests.lab.netns import PREFIX

from .image import PROJECT, Image

#: How QEMU runs the guest. "kvm" is ten times as fast where it works; that it can be opened says nothing.
ACCELERATOR = os.environ.get("PYNET_VM_ACCEL", "tcg")
#: How much longer than on this machine things may take in there.
PATIENCE = (6 if ACCELERATOR == "tcg" else 1) * command.PATIENCE
MEMORY_MB = 2048
#: One where QEMU translates: with two, the kernel now and then panics while it patches its own code (seen in
#: about one start of fifteen with QEMU 7.2; https://github.com/multipath-tcp/mptcp_net-next/issues/471).
CPUS = 1 if ACCELERATOR == "tcg" else 2
#: What the guest gets of the project.
SOURCES = (
    *("pynetdriver", "tests", "docs", "examples", "packaging"),
    *("pyproject.toml", "README.md", "LICENSE", "Makefile"),
)
ENVIRONMENT = {
    "PATH": "/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYNET_VM": "1",
    "PYNET_LAB": "/lab",
    "PYNET_PATIENCE": str(PATIENCE),
}
# Guards against other tenants of a processor cost much where every instruction is translated.
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet mitigations=off audit=0 nokaslr"


class VirtualMachine:
    """A machine with a disk of its own, from `with` to the end of the block; it is not started yet.

    What is on the disk lasts from start to start, as far as the guest had it written when
    the plug was pulled. Commands run in /project, one at a time.

    Process 1 is `init.sh`, which starts nothing but the agent, or on request Debian's systemd.
    """

    def __init__(self, image: Image, *, systemd: bool = False) -> None:
        self._image = image
        self._init = "systemd" if systemd else "script"
        self._folder = Path()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._answers: Any = None

    def __enter__(self) -> "VirtualMachine":
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-vm"))
        base = ("-b", str(self._image.disk), "-F", "raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", *base, str(self._folder / "disk"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    @property
    def console(self) -> str:
        """What kernel and init have said, over all starts."""
        file = self._folder / "console"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, timeout_s: float = 240 * command.PATIENCE) -> None:
        """Switch it on, with the project's sources as they are now; returns when it takes commands."""
        sources = self._folder / "sources"
        skipped = ("--exclude=__pycache__", "--exclude=*.svg")
        run("tar", "-C", str(PROJECT), *skipped, "-cf", str(sources), *SOURCES)
        self._port, theirs = socket.socketpair()
        with theirs, (self._folder / "console").open("ab") as console:
            self._qemu = subprocess.Popen(
                self._command(sources, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._answers = self._port.makefile("rb")
        if "ready" not in self._answer(timeout_s):
            raise LabError(f"the virtual machine does not take commands:\n{self.console}")

    def run(self, *cmd: str, check: bool = True, timeout_s: float = 60) -> str:
        """Run `cmd` inside and return what it wrote to stdout and stderr.

        What it leaves running in the background must not keep its output open.

        Args:
            timeout_s: as it would be on this machine.

        Raises:
            CommandFailed: it ended with an error, unless `check` is False.
        """
        said: list[str] = []
        code = self.stream(*cmd, output=said.append, timeout_s=timeout_s * PATIENCE)
        if check and code:
            raise CommandFailed(cmd, f"exit code {code} in the virtual machine", "".join(said).strip(), "")
        return "".join(said)

    def shell(self, script: str, *arguments: str, check: bool = True, timeout_s: float = 60) -> str:
        """Run a shell script inside that ends with its first error; its arguments are $1 and so on."""
        return self.run("sh", "-euc", script, "sh", *arguments, check=check, timeout_s=timeout_s)

    def stream(
        self,
        *cmd: str,
        output: Callable[[str], object],
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Run `cmd` inside, hand over what it writes as it comes, and return its exit code.

        Args:
            timeout_s: how long it may be silent; after that the machine is killed.
        """
        assert self._port is not None, "the virtual machine is not started"
        request = {"command": cmd, "environment": {**ENVIRONMENT, **(environment or {})}}
        self._port.sendall(json.dumps(request).encode() + b"\n")
        while "code" not in (answer := self._answer(timeout_s, cmd)):
            output(answer["output"])
        return int(answer["code"])

    def reboot(self, timeout_s: float = 60) -> None:
        """Have systemd shut it down in good order, and switch it on again.

        Raises:
            LabError: it is not off in time, which is as on this machine.
        """
        # What runs a command goes down, too: it has to have answered by then.
        self.shell("{ sleep 1; systemctl reboot; } >/dev/null 2>&1 &")
        assert self._qemu is not None
        try:
            self._qemu.wait(timeout_s * PATIENCE)
        except subprocess.TimeoutExpired:
            raise LabError(f"it does not shut down; its console said:\n{self.console[-3000:]}") from None
        finally:
            self.kill()
        self.start()

    def kill(self) -> None:
        """Pull the plug; does nothing when it is off."""
        if self._qemu is not None and self._port is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._answers.close()
            self._port.close()
            self._qemu = self._port = None

    def _answer(self, timeout_s: float | None, cmd: tuple[str, ...] = ()) -> dict[str, Any]:
        assert self._port is not None
        self._port.settimeout(timeout_s)
        try:
            line = self._answers.readline()
        except TimeoutError:
            line, why = b"", f"nothing was heard of it for {timeout_s} s"
        else:
            why = "the virtual machine went off"
        if not line:
            self.kill()
            raise LabError(f"{shlex.join(cmd) or 'start'}: {why}; its console said:\n{self.console[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _command(self, sources: Path, port: int) -> tuple[str, ...]:
        def drive(file: Path, form: str) -> str:
            # What the guest has flushed outlives QEMU in the host's cache: it need not go to the real disk.
            return f"if=virtio,file={file},format={form},cache=unsafe"

        return (
            # QEMU ends with this process, however that ends.
            *("setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64"),
            *("-accel", "tcg,thread=multi" if ACCELERATOR == "tcg" else ACCELERATOR),
            # A processor without AVX: translated vectors make every program half as fast.
            *("-cpu", "Nehalem" if ACCELERATOR == "tcg" else "max", "-smp", str(CPUS), "-m", str(MEMORY_MB)),
            *("-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initramfs)),
            *("-append", f"{KERNEL_ARGUMENTS} pynet_init={self._init}"),
            *("-drive", drive(self._folder / "disk", "qcow2")),
            *("-drive", drive(sources, "raw")),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,fd={port}", "-device", "virtserialport,chardev=agent"),
        )
