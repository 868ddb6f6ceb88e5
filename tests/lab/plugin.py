"""The managed plugin as `make plugin` builds it, kept as long as its sources stay; leaves engines to the tests."""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .command import CommandFailed, Unavailable, run
from .roots import kept

PROJECT = Path(__file__).resolve().parents[2]
#: What decides on its content, besides Debian's packages.
SOURCES = ("rootfs", "plugin", "pynetdriver", "pyproject.toml", "README.md")
#: How many former ones are not removed: other checkouts may use them.
KEPT = 3


def built_plugin() -> Path:
    """Return a folder made of this checkout, the first time by building it.

    In it are `plugin`, for `docker plugin create`, and `digest`, as the recipe said it.

    Raises:
        Unavailable: it can't be built here and now.
    """
    content = hashlib.sha256()
    for source in _sources():
        content.update(f"{source.relative_to(PROJECT)} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    return kept(f"plugin-{content.hexdigest()[:12]}", _build)


def build(folder: Path) -> str:
    """Run the recipe and return the digest that it says.

    Raises:
        Unavailable: it can't be built here and now.
    """
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        raise Unavailable("building the plugin needs root and mmdebstrap")
    architecture = run("dpkg", "--print-architecture").strip()
    try:
        said = run(
            str(PROJECT / "rootfs/build"),
            *(architecture, str(folder)),
            timeout_s=600,
            env={**os.environ, "PYTHON": sys.executable},
        )
    except CommandFailed as error:
        raise Unavailable(f"rootfs/build: {error.stderr.strip().splitlines()[-1:]}") from error
    return said.splitlines()[-1]


def another_version(plugin: Path, folder: Path, version: str) -> None:
    """Copy a built plugin into the new `folder`, and have the copy call itself `version`."""
    shutil.copytree(plugin, folder, symlinks=True)
    (package,) = folder.glob("rootfs/usr/lib/python3/dist-packages/pynetdriver")
    text = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', text))
    for compiled in (package / "__pycache__").glob("__init__.*"):
        compiled.unlink()


def _build(folder: Path) -> None:
    folder.mkdir()
    (folder / "digest").write_text(build(folder / "plugin"))
    former = sorted(folder.parent.glob("plugin-*[0-9a-f]"), key=lambda one: one.stat().st_ctime)
    for one in former[:-KEPT]:
        run("rm", "-rf", "--one-file-system", str(one))


def _sources() -> Iterator[Path]:
    for name in SOURCES:
        place = PROJECT / name
        files = place.rglob("*") if place.is_dir() else [place]
        yield from sorted(file for file in files if file.is_file() and file.suffix != ".pyc")
