"""Root file systems of the engines, built once and kept; leaves running them to `machine`.

They are kept in the folder named by PYNET_LAB, or in `.lab` beside `tests`, and are
never written to again: an engine runs on an overlay.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .command import CommandFailed, Unavailable, run
from .wait import alone


@dataclass(frozen=True)
class Recipe:
    """How to make the root of one engine."""

    suite: str  #: of Debian, e.g. "trixie"
    major: str  #: what the engine's version must begin with, e.g. "26."
    packages: tuple[str, ...] = ("docker-cli", "docker-compose")  #: besides the common ones
    options: tuple[str, ...] = ()  #: of mmdebstrap


RECIPES = {
    # Bookworm's docker.io holds the client too, and its docker-compose is version 1.
    "20.10": Recipe("bookworm", "20.10.", packages=()),
    "26.1": Recipe("trixie", "26."),
    # Sid moves: newer than 28 is another engine than the one asked for. A mirror's
    # index of it may be stale.
    "28.5": Recipe("sid", "28.", options=('--aptopt=Acquire::Check-Valid-Until "false"',)),
}
COMMON_PACKAGES = ("docker.io", "iptables", "nftables", "iproute2", "procps", "ca-certificates")
EXCLUDED = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale"))


def ensure_root(version: str) -> Path:
    """Return the root of engine `version`, a key of `RECIPES`; the first time builds it.

    Raises:
        Unavailable: it can't be built here and now.
    """
    if version not in RECIPES:
        raise Unavailable(f"the lab knows no engine {version}, only {', '.join(RECIPES)}")
    recipe = RECIPES[version]
    return kept(f"root-{version}", lambda target: _build_root(recipe, target))


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """Return the kept file or folder `name`, made by `build` if it is not there.

    `build` gets a path beside it, which then takes the name: what has the name is whole.
    """
    folder = _folder()
    path, half = folder / name, folder / f"{name}.half"
    if path.exists():
        return path
    with alone(folder / f"{name}.lock"):
        if not path.exists():
            _remove(half)
            try:
                build(half)
                half.rename(path)
            finally:
                _remove(half)
    return path


def debootstrap(target: Path, recipe: Recipe, *options: str) -> None:
    """Unpack the packages of `recipe` into the new folder `target`.

    Raises:
        Unavailable: mmdebstrap is missing or failed.
    """
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        raise Unavailable("building a root file system needs root and mmdebstrap")
    include = f"--include={','.join(recipe.packages)}"
    fixed = ("--quiet", "--format=directory", include)
    asked = (*fixed, *EXCLUDED, *recipe.options, *options, recipe.suite, str(target))
    # In namespaces of its own: however it ends, its mounts and its children go with it.
    apart = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
    try:
        with tempfile.TemporaryDirectory(prefix="pnlab-debootstrap-") as scratch:
            Path(scratch).chmod(0o755)  # apt has a user of its own
            run(*apart, "mmdebstrap", *asked, timeout_s=900, env={**os.environ, "TMPDIR": scratch})
    except CommandFailed as error:
        # The first complaint is the cause; the whole is in the chained error.
        said = next((line for line in error.stderr.splitlines() if line), error.outcome)
        raise Unavailable(f"mmdebstrap can't build {recipe.suite}: {said}") from error


def _build_root(recipe: Recipe, target: Path) -> None:
    everything = Recipe(
        recipe.suite,
        recipe.major,
        packages=COMMON_PACKAGES + recipe.packages,
        options=recipe.options,
    )
    debootstrap(target, everything, "--variant=minbase")
    # "Docker version 28.5.2+dfsg4, build …"
    version = run("chroot", str(target), "dockerd", "--version").split()[2].rstrip(",")
    if not version.startswith(recipe.major):
        raise Unavailable(f"{recipe.suite} has engine {version} now, not {recipe.major}x")


def _folder() -> Path:
    default = Path(__file__).resolve().parents[2] / ".lab"
    folder = Path(os.environ.get("PYNET_LAB") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _remove(path: Path) -> None:
    if path.is_dir():
        # rmtree of the standard library stops at a folder that still has a mount in it,
        # and is slow; --one-file-system never goes into one.
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)
    else:
        path.unlink(missing_ok=True)
