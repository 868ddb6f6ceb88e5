"""Why it does not work: looks at the host, changes nothing, and names for each finding the command that repairs it.

| module | what |
|---|---|
| `facts`, `host` | what was told, and what the kernel has, each looked up once |
| `findings` | their form |
| `daemon` | the daemon, its socket, its state |
| `kernel` | switches and tables of the kernel |
| `firewall`, `packets` | rules that are missing or in the way |
| `links` | what networks stand on |
| `addresses` | routes, addresses and ports that something else took |

A check is a function that takes the host and yields findings; it finds nothing on a host that is as it should be.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from pynetdriver.admin.answers import Finding
from pynetdriver.doctor import addresses, daemon, firewall, kernel, links
from pynetdriver.doctor.facts import Plugin, Told
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import Host
from pynetdriver.paths import MANAGED

__all__ = ["Plugin", "Told", "examine", "unseen"]

_CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    *daemon.CHECKS,
    *kernel.CHECKS,
    *firewall.CHECKS,
    *links.CHECKS,
    *addresses.CHECKS,
)


def examine(told: Told) -> list[Finding]:
    """Run all checks on the host that this process is on."""
    if os.geteuid() != 0:
        what = "only root sees what is wrong with links, rules and the daemon"
        return [error("root", what, command="sudo pynet doctor")]
    host = Host(told)
    return [finding for check in _CHECKS for finding in _guarded(check, host)]


def unseen(told: Told) -> list[str]:
    """Say what this process cannot look at, so that finding nothing there means nothing."""
    found = []
    if told.networks is None:
        found.append("pynet's networks, with their links, addresses and ports, since pynet does not tell them")
    if told.plugins is None:
        found.append("networks that the engine knows and pynet does not, and the engine's plugins: it does not answer")
    if MANAGED:
        found.append(
            "the host's processes, such as one that listens at a published port, and files, such as a service: in the"
            " managed plugin they are out of sight. `pynet doctor` of the same version on the host sees them"
        )
    return found


def _guarded(check: Callable[[Host], Iterator[Finding]], host: Host) -> Iterator[Finding]:
    """Find what a check finds; what nobody thought of on this host does not hide what others find."""
    try:
        yield from check(host)
    except Exception as fault:
        place = traceback.extract_tb(fault.__traceback__)[-1]
        yield warning(
            "doctor",
            f"the doctor could not look at everything, which is a fault of its own: {check.__name__} failed with"
            f" {type(fault).__name__}: {fault} ({Path(place.filename).name}, line {place.lineno}). Please report it"
            " with the version",
            command="pynet --version",
        )
