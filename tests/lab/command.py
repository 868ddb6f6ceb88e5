"""Run one command to its end; leaves what is run, and where, to the other modules."""

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping

#: By how much a slow machine stretches all that the lab waits for, e.g. "6" in one without KVM.
PATIENCE = float(os.environ.get("PYNET_PATIENCE", "1"))


class LabError(Exception):
    """Something in the lab, not in the project, went wrong."""


class Unavailable(LabError):
    """This machine can't provide what a test asks for: a test skips on it."""


class CommandFailed(LabError):
    """A command ended with an error or took too long; the message holds all it said."""

    def __init__(self, cmd: tuple[str, ...], outcome: str, stdout: str, stderr: str) -> None:
        super().__init__(f"{shlex.join(cmd)}: {outcome}\nstdout: {stdout}\nstderr: {stderr}")
        self.cmd = cmd
        self.outcome = outcome
        self.stdout = stdout
        self.stderr = stderr


def run(
    *cmd: str,
    check: bool = True,
    timeout_s: float = 60,
    input: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run `cmd` and return what it wrote to stdout.

    Args:
        check: False also returns the stdout of a command that fails.
        timeout_s: on a slow machine it is `PATIENCE` times as long.
        env: the whole environment, None for the caller's own.

    Raises:
        CommandFailed: it ended with an error, or ran longer than `timeout_s`.
    """
    timeout_s *= PATIENCE
    # A session of its own, so that the end of the time takes the children along:
    # nsenter forks before it enters a pid namespace.
    process = subprocess.Popen(
        cmd,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
    )
    data = input.encode() if isinstance(input, str) else input
    try:
        out, err = process.communicate(data, timeout_s)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        out, err = process.communicate()
        raise CommandFailed(cmd, f"not done after {timeout_s} s", *_texts(out, err)) from None
    except BaseException:
        _kill_group(process)
        process.wait()
        raise
    if check and process.returncode:
        raise CommandFailed(cmd, f"exit code {process.returncode}", *_texts(out, err))
    return out.decode(errors="replace")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _texts(*streams: bytes) -> tuple[str, str]:
    out, err = (stream.decode(errors="replace").strip() for stream in streams)
    return out, err
