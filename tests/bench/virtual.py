"""What this machine's kernel has no links for, measured on Debian's kernel in QEMU; leaves measuring to the others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from tests.bench.measure import Row
from tests.lab.command import LabError, Unavailable
from tests.vm.image import ensure_image
from tests.vm.machine import ACCELERATOR, VirtualMachine

#: Seconds, of this machine's, that nothing may be heard of what is measured inside.
_SILENCE_S = 120


def written(rows: list[Row]) -> str:
    """Write rows as one line, to be read by `measured` outside."""
    return json.dumps([asdict(row) for row in rows])


def measured(name: str, quick: bool) -> list[Row]:
    """Have a measurement run in a virtual machine; one row says so if that cannot be had."""
    words = ("python", "-m", "tests.bench", "--json", "--only", name, *(("--quick",) if quick else ()))
    try:
        with VirtualMachine(ensure_image()) as machine:
            machine.start()
            said = machine.run(*words, timeout_s=_SILENCE_S)
    except LabError as failure:
        why = "cannot be had" if isinstance(failure, Unavailable) else "failed"
        first = next(iter(str(failure).splitlines()), "")
        return [Row(f"{name} is not measured: this kernel has none, and the virtual machine {why}: {first}", "-", "-")]
    found = [Row(**one) for one in json.loads(said.splitlines()[-1])]
    return [replace(row, what=f"{row.what} (in QEMU, {ACCELERATOR.upper()})") for row in found]
