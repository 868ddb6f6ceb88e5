"""Run tests on Debian's kernel in virtual machines, then those that need a reboot or systemd.

usage: python -m tests.vm                     what `needs_kernel` and `debian13` mark, reboots and the service
       python -m tests.vm PYTEST-ARGUMENT…    only these, in one machine: `tests/netns -k vlan`
"""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.lab.command import Unavailable
from tests.lab.sweep import sweep

from .image import HERE, PROJECT, Image, ensure_image
from .machine import PATIENCE, VirtualMachine

#: What pytest gives a test here, in pyproject.toml.
TEST_TIMEOUT_S = 120
ENGINES = "own:nft"
#: Machines at a time: each has one CPU, and takes two gigabytes of memory.
MACHINES = 2
MARKS = re.compile(r"mark\.(needs_kernel|debian13)")
NO_TESTS = 5  #: pytest's exit code


def main() -> None:
    """End with an error if a test fails; a machine that can't be had is said aloud, and is none."""
    try:
        image = ensure_image(say)
    except Unavailable as error:
        sys.exit(not_run(error))
    sweep()
    if sys.argv[1:]:
        sys.exit(inside(image, "", *sys.argv[1:]))
    codes = (shared_out(image), whole_hosts())
    sys.exit(max(codes))


def shared_out(image: Image) -> int:
    """Run the marked tests in several machines at a time, each of which takes a share of them."""
    arguments = ("-v", "-m", "needs_kernel or debian13", "--durations=5", *marked())
    with ThreadPoolExecutor(MACHINES) as pool:
        shares = [f"{number}/{MACHINES}" for number in range(1, MACHINES + 1)]
        codes = list(pool.map(lambda share: inside(image, share, *arguments), shares))
    failed = [code for code in codes if code not in (0, NO_TESTS)]
    # There may be fewer tests than machines, but not none.
    return failed[0] if failed else min(codes)


def whole_hosts() -> int:
    """Run the tests that start machines of their own: out here, in processes like any other."""
    say("reboots, and the service under systemd")
    # Each of them is the whole life of a host.
    pytest = (sys.executable, "-m", "pytest", f"--timeout={2 * TEST_TIMEOUT_S * PATIENCE}", "-n", str(MACHINES))
    files = (str(file) for file in sorted(HERE.glob("test_*.py")))
    return subprocess.run((*pytest, *files), cwd=PROJECT, check=False).returncode


def marked() -> list[str]:
    """Name the files with tests for in there: to collect them all would take 20 seconds."""
    files = sorted((PROJECT / "tests").glob("*/test_*.py"))
    return [str(file.relative_to(PROJECT)) for file in files if MARKS.search(file.read_text())]


def inside(image: Image, share: str, *arguments: str) -> int:
    """Run pytest in a machine; returns its exit code.

    Args:
        share: which of the tests, e.g. "1/2"; all if empty. It also begins the lines that are shown.
    """
    columns = shutil.get_terminal_size().columns - len(share) - 1
    color = "yes" if sys.stdout.isatty() else "no"
    with VirtualMachine(image) as vm:
        begin = time.monotonic()
        vm.start()
        say(f"{share} Debian's kernel {vm.run('uname', '-r').strip()} runs after {time.monotonic() - begin:.0f} s")
        return vm.stream(
            *("python", "-m", "pytest", f"--timeout={TEST_TIMEOUT_S * PATIENCE}", f"--color={color}", *arguments),
            output=Lines(share) if share else show,
            environment={"PYNET_ENGINES": ENGINES, "PYNET_SHARE": share, "COLUMNS": str(columns)},
            timeout_s=2 * TEST_TIMEOUT_S * PATIENCE,
        )


class Lines:
    """Show text of one of several sources: whole lines, which begin with its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = ""

    def __call__(self, text: str) -> None:
        *lines, self._begun = (self._begun + text).split("\n")
        show("".join(f"{self._name} {line}\n" for line in lines))


def not_run(reason: Unavailable) -> int:
    """Say loudly what was left out; it counts as no failure, like an engine that can't be had."""
    line = f"NOT RUN: the tests on Debian's kernel: {reason}"
    say("\n".join(("=" * len(line), line, "=" * len(line))))
    return 0


def say(line: str) -> None:
    """Write one line at once."""
    show(f"vm: {line}\n" if "\n" not in line else f"{line}\n")


def show(text: str) -> None:
    """Write at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
