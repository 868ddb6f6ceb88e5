"""What is locked for the managed plugin is what pyproject.toml asks for."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_locked_in_a_version_that_fits() -> None:
    locked: dict[str, Version] = {}
    for name in ("requirements.txt", "source.txt"):
        lines = (ROOT / "rootfs" / name).read_text().splitlines()
        found = [line.removesuffix(" \\").split("==") for line in lines if "==" in line]
        locked |= {canonicalize_name(package): Version(version) for package, version in found}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for one in map(Requirement, wanted):
        assert canonicalize_name(one.name) in locked, f"{one.name} is not locked: run `make lock`"
        assert locked[canonicalize_name(one.name)] in one.specifier, f"{one.name} moved on: run `make lock`"
