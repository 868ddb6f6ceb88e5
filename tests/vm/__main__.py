"""Run tests on Debian's kernel in a virtual machine, and beside it those that need a reboot or systemd.

usage: python -m tests.vm                     what `needs_kernel` and `debian13` mark, reboots and the service
       python -m tests.vm PYTEST-ARGUMENT…    only these, in one machine: `tests/netns -k vlan`
"""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.lab.command import Unavailable
from tests.lab.missing import excused, sentence
from tests.lab.sweep import sweep

from .image import HERE, PROJECT, Image, ensure_image
from .machine import PATIENCE, VirtualMachine

#: What a test takes at most on this machine.
TEST_TIMEOUT_S = 120
ENGINES = "own:nft"
MARKS = re.compile(r"mark\.(needs_kernel|debian13)")


def main() -> None:
    """End with an error if a test fails; a machine that can't be had is said aloud, and is one under CI alone."""
    try:
        image = ensure_image(say)
    except Unavailable as error:
        sys.exit(not_run(error))
    sweep()
    if sys.argv[1:]:
        sys.exit(inside(image, *sys.argv[1:]))
    with ThreadPoolExecutor(1) as pool:
        say("reboots, and the service under systemd: they run meanwhile and are shown in the end")
        hosts = pool.submit(whole_hosts)
        try:
            code = inside(image, "-v", "-m", "needs_kernel or debian13", "--durations=5", *marked())
        finally:
            show(hosts.result().stdout)
        sys.exit(code or hosts.result().returncode)


def whole_hosts() -> "subprocess.CompletedProcess[str]":
    """Run the tests that start machines of their own: out here, like any other."""
    # Each of them is the whole life of a host.
    pytest = (sys.executable, "-m", "pytest", f"--timeout={2 * TEST_TIMEOUT_S * PATIENCE}", "--durations=5")
    files = (str(file) for file in sorted(HERE.glob("test_*.py")))
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run((*pytest, *files), cwd=PROJECT, check=False, **streams)


def marked() -> list[str]:
    """Name the files with tests for in there: to collect them all would take 20 seconds."""
    files = sorted((PROJECT / "tests").glob("*/test_*.py"))
    return [str(file.relative_to(PROJECT)) for file in files if MARKS.search(file.read_text())]


def inside(image: Image, *arguments: str) -> int:
    """Run pytest in a machine; returns its exit code."""
    columns = shutil.get_terminal_size().columns
    color = "yes" if sys.stdout.isatty() else "no"
    with VirtualMachine(image) as vm:
        begin = time.monotonic()
        vm.start()
        say(f"Debian's kernel {vm.run('uname', '-r').strip()} runs after {time.monotonic() - begin:.0f} s")
        return vm.stream(
            *("python", "-m", "pytest", f"--timeout={TEST_TIMEOUT_S * PATIENCE}", f"--color={color}", *arguments),
            output=show,
            environment={"PYNET_ENGINES": ENGINES, "COLUMNS": str(columns)},
            timeout_s=2 * TEST_TIMEOUT_S * PATIENCE,
        )


def not_run(reason: Unavailable) -> int:
    """Say loudly what was left out; returns the exit code, which is an error where nothing may be missing."""
    line = f"NOT RUN: the tests on Debian's kernel: {sentence('virtual machine', reason)}"
    say("\n".join(("=" * len(line), line, "=" * len(line))))
    return 0 if excused("virtual machine") else 1


def say(line: str) -> None:
    """Write one line at once."""
    show(f"vm: {line}\n" if "\n" not in line else f"{line}\n")


def show(text: str) -> None:
    """Write at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
