"""Run tests on Debian's kernel in a virtual machine, then those that need a reboot.

usage: python -m tests.vm                     what `@pytest.mark.needs_kernel` marks, and the reboots
       python -m tests.vm PYTEST-ARGUMENT…    only these, inside: `tests/netns -k vlan`
"""

import shutil
import subprocess
import sys
import time

from tests.lab.command import Unavailable
from tests.lab.sweep import sweep

from .image import HERE, PROJECT, ensure_image
from .machine import PATIENCE, VirtualMachine

#: What pytest gives a test here, in pyproject.toml.
TEST_TIMEOUT_S = 120
ENGINES = "own:nft"


def main() -> None:
    """End with an error if a test fails; a machine that can't be had is said aloud, and is none."""
    try:
        image = ensure_image(say)
    except Unavailable as error:
        sys.exit(not_run(error))
    sweep()
    arguments = sys.argv[1:]
    with VirtualMachine(image) as vm:
        begin = time.monotonic()
        vm.start()
        say(f"Debian's kernel {vm.run('uname', '-r').strip()} runs after {time.monotonic() - begin:.0f} s")
        code = inside(vm, *(arguments or ("-m", "needs_kernel", "--durations=5", *marked())))
    if not arguments:
        say("reboots")
        # In a process of its own, as the tests out here are no different from others.
        pytest = (sys.executable, "-m", "pytest", f"--timeout={TEST_TIMEOUT_S * PATIENCE}")
        code = subprocess.run((*pytest, str(HERE / "test_reboot.py")), cwd=PROJECT, check=False).returncode or code
    sys.exit(code)


def marked() -> list[str]:
    """Name the files with tests for in there: to collect them all would take 20 seconds."""
    files = sorted((PROJECT / "tests").glob("*/test_*.py"))
    return [str(file.relative_to(PROJECT)) for file in files if "mark.needs_kernel" in file.read_text()]


def inside(vm: VirtualMachine, *arguments: str) -> int:
    """Run pytest in there; returns its exit code."""
    columns = shutil.get_terminal_size().columns
    color = "yes" if sys.stdout.isatty() else "no"
    return vm.stream(
        *("python", "-m", "pytest", f"--timeout={TEST_TIMEOUT_S * PATIENCE}", f"--color={color}", *arguments),
        output=show,
        environment={"PYNET_ENGINES": ENGINES, "COLUMNS": str(columns)},
        timeout_s=2 * TEST_TIMEOUT_S * PATIENCE,
    )


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
