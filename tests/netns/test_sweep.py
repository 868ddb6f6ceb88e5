"""What a killed test run left is cleared away, however many processes of the next run begin with that."""

import subprocess
import sys

from tests.lab.netns import PREFIX, Namespace
from tests.lab.wait import eventually


def test_processes_that_sweep_at_once() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = [Namespace(f"{PREFIX}{ended.pid}-{number:04x}") for number in range(12)]
    mine = Namespace()
    try:
        for namespace in (*left, mine):
            namespace.__enter__()
        sleeping = left[0].popen("sleep", "600")
        eventually(left[0].pids)
        code = "from tests.lab.sweep import sweep; sweep()"
        sweeping = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
        said = [process.communicate(timeout=60)[1].decode() for process in sweeping]
        assert [process.returncode for process in sweeping] == [0] * 4, said
        assert not [namespace.name for namespace in left if namespace.path.exists()]
        assert mine.path.exists(), "a run that goes on lost its namespace"
        assert sleeping.wait(10) == -9
    finally:
        for namespace in (*left, mine):
            namespace.close()
