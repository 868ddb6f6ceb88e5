"""What is published says the same version everywhere, and is made the same twice."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pynetdriver import __version__

ROOT = Path(__file__).parents[2]


def released() -> ModuleType:
    """Load the script that the workflow asks before a release."""
    spec = importlib.util.spec_from_file_location("released", ROOT / "packaging" / "released.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_licence_is_declared_where_it_is_looked_for() -> None:
    """In the package by its SPDX name, and its text goes wherever the project is built."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "$root/usr/share/pynet/LICENSE" in (ROOT / "rootfs" / "build").read_text()


def test_the_changelog_begins_with_this_version() -> None:
    """There is one version; its entry may be without a date until it is released."""
    refusal = released().refusal(f"v{__version__}", ROOT)
    assert refusal is None or refusal.endswith("put the date there")


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        ("v1.2.3", "## 1.2.3 (2026-01-31)", None),
        ("1.2.3", "## 1.2.3 (2026-01-31)", "the tag is 1.2.3, but __version__ is 1.2.3"),
        ("v1.2.4", "## 1.2.3 (2026-01-31)", "the tag is v1.2.4"),
        ("v1.2.3", "## 1.2.2 (2026-01-31)", "CHANGELOG.md begins with 1.2.2"),
        ("v1.2.3", "## 1.2.3 (unreleased)", "put the date there"),
        ("v1.2.3", "", "CHANGELOG.md begins with 1.2.1"),
    ],
)
def test_what_disagrees_is_not_released(tmp_path: Path, tag: str, heading: str, said: str | None) -> None:
    """Tag, version and changelog are the same, and the changelog has a date."""
    (tmp_path / "pynetdriver").mkdir()
    (tmp_path / "pynetdriver" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n## 1.2.1 (2025-01-31)\n")
    found = released().refusal(tag, tmp_path)
    assert found is None if said is None else said in found


def test_the_archives_are_the_same_twice(tmp_path: Path) -> None:
    """From one commit, whoever builds; the wheel's version is that of the package, and a plugin is packed beside it."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout here, and it is a commit that is packed")
    plugin = tmp_path / "plugin"
    (plugin / "rootfs").mkdir(parents=True)
    (plugin / "config.json").write_text("{}")
    made = []
    for umask in (0o022, 0o077):
        folder = tmp_path / f"{umask:o}"
        script = ROOT / "packaging" / "dist.sh"
        subprocess.run((script, sys.executable, folder, plugin, "amd64"), check=True, umask=umask, capture_output=True)
        made.append({one.name: one.read_bytes() for one in folder.iterdir()})
        os.utime(plugin / "config.json", (0, 0))
    assert made[0] == made[1]
    init = subprocess.run(("git", "show", "HEAD:pynetdriver/__init__.py"), cwd=ROOT, check=True, capture_output=True)
    (version,) = re.findall(r'__version__ = "(.+)"', init.stdout.decode())
    wheel = f"pynet_driver-{version}-py3-none-any.whl"
    assert set(made[0]) == {wheel, f"pynet_driver-{version}.tar.gz", f"pynet-plugin-{version}-amd64.tar.gz"}
    with zipfile.ZipFile(tmp_path / "22" / wheel) as archive:
        metadata = archive.read(f"pynet_driver-{version}.dist-info/METADATA").decode()
        assert f"\nVersion: {version}\n" in metadata
        assert {"pynetdriver/py.typed", "pynetdriver/__main__.py"} <= set(archive.namelist())
        assert "\nLicense-Expression: Apache-2.0\n" in metadata
        assert f"pynet_driver-{version}.dist-info/licenses/LICENSE" in archive.namelist()


def test_the_workflow_runs_what_is_there() -> None:
    """It is started by tags of versions, and its steps name targets and scripts of this checkout."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as a truth
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [word for run in steps for line in re.findall(r"make ([a-z -]+)", run) for word in line.split()]
    assert asked and set(asked) <= targets
    assert all((ROOT / name).exists() for run in steps for name in re.findall(r"packaging/\S+", run))
