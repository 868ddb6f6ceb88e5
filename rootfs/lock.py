"""Write `requirements.txt`: the Python packages of the plugin, in exact versions and with the digests of their files.

usage: python rootfs/lock.py        (`make lock`; by pip's own resolver, for all architectures at once)

What is locked is what `pyproject.toml` asks for. python-iptables comes as source only, and pip judges no source for
another machine than its own, so it is locked apart, in `source.txt`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: What pip calls the machines that the recipe builds for.
MACHINES = ("x86_64", "aarch64")
SOURCE_ONLY = "python-iptables"
NOTE = "# Written by `make lock`.\n"


def main() -> None:
    """Resolve for each machine, and put what was found together."""
    wanted = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    source = [one for one in wanted if one.startswith(SOURCE_ONLY)]
    found: dict[str, set[str]] = {}
    for machine in MACHINES:
        options = (HERE / "wheels").read_text().replace("MACHINE", machine).split()
        wheels = [one for one in wanted if one not in source]
        for name, digest in resolve("--target", "unused", *options, *wheels).items():
            found.setdefault(name, set()).add(digest)
    write("requirements.txt", found)
    apart = resolve("--no-deps", "--no-binary", SOURCE_ONLY, *source)
    write("source.txt", {name: {digest} for name, digest in apart.items()})


def resolve(*arguments: str) -> dict[str, str]:
    """Map what pip would install, as "name==version", to the SHA-256 of its file.

    Whatever package index is set up on this machine does not count.
    """
    pip = (sys.executable, "-m", "pip", "--isolated", "install", "-qq", "--dry-run", "--ignore-installed")
    said = subprocess.run((*pip, "--report", "-", *arguments), check=True, stdout=subprocess.PIPE).stdout
    report: dict[str, Any] = json.loads(said)
    return {
        f"{one['metadata']['name']}=={one['metadata']['version']}": one["download_info"]["archive_info"]["hashes"][
            "sha256"
        ]
        for one in report["install"]
    }


def write(name: str, found: dict[str, set[str]]) -> None:
    """Write a file of requirements, one package after the other."""
    lines = [
        " \\\n    ".join((package, *(f"--hash=sha256:{digest}" for digest in sorted(digests)))) + "\n"
        for package, digests in sorted(found.items(), key=lambda one: one[0].lower())
    ]
    (HERE / name).write_text(NOTE + "".join(lines))


if __name__ == "__main__":
    main()
