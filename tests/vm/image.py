"""Kernel, initramfs and disk of the virtual machine, built once and kept; leaves running them to `machine`.

The disk has the distribution and the project's Python dependencies. The project itself comes
along at each start, so that only a change of dependencies needs a new disk.
"""

import hashlib
import lzma
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.command import CommandFailed, Unavailable, run
from tests.lab.image import busybox_image
from tests.lab.roots import Recipe, debootstrap, kept

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
SUITE = "trixie"
KERNEL = ("linux-image-cloud-amd64", "busybox-static")
PACKAGES = (
    *(
        "docker.io",
        "docker-cli",
        "docker-compose",
        "iptables",
        "nftables",
        "iproute2",
        "procps",
        "kmod",
        "mount",
        "ca-certificates",
    ),
    *("python3", "python3-venv", "gcc", "libc6-dev", "libnftables1"),
    *("iputils-ping", "curl", "tcpdump", "dnsmasq-base", "conntrack"),
    *("systemd", "systemd-sysv", "make"),
)
#: What the initramfs loads to see the disk; the rest is on it.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
#: They come as source only, and are compiled in the root.
SOURCE_ONLY = ("python-iptables",)
SIZE = "6G"  #: of the disk; a file takes only what is written to it
DISK = ("disk.sh", "agent.service")  #: what decides on its content, of this folder


@dataclass(frozen=True)
class Image:
    """What a virtual machine starts from; nothing writes to it."""

    kernel: Path
    initramfs: Path
    disk: Path


def ensure_image(say: Callable[[str], None] = lambda _: None) -> Image:
    """Return the image for this state of `pyproject.toml`; the first time builds it.

    Args:
        say: gets a line before something that takes long.

    Raises:
        Unavailable: it can't be built here and now.
    """
    if platform.machine() != "x86_64":
        raise Unavailable(f"the virtual machine is made for x86_64, not {platform.machine()}")
    for command in ("qemu-system-x86_64", "qemu-img", "mke2fs", "mmdebstrap"):
        if not shutil.which(command):
            raise Unavailable(f"there is no {command} here")
    if os.geteuid() != 0:
        raise Unavailable("its disk is built by root only")
    recipe = _digest(SUITE, *KERNEL, *PACKAGES, *BOOT_MODULES, (HERE / "initramfs.sh").read_text())
    requirements = _requirements()
    content = _digest(recipe, *requirements, SIZE, *((HERE / name).read_text() for name in DISK))

    def build_base(target: Path) -> None:
        say(f"building a {SUITE} root with docker and Debian's kernel (a minute; kept in .lab)")
        _build_base(target)

    def build_disk(target: Path) -> None:
        say("building the disk with the project's dependencies (half a minute; kept in .lab)")
        _build_disk(base / "root", requirements, target)

    base = kept(f"vm-base-{recipe}", build_base)
    disk = kept(f"vm-disk-{content}", build_disk)
    digest = "?" * 12
    for old in {*base.parent.glob(f"vm-base-{digest}"), *base.parent.glob(f"vm-disk-{digest}")} - {base, disk}:
        run("rm", "-rf", "--one-file-system", str(old), f"{old}.lock")
    return Image(base / "kernel", base / "initramfs", disk)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _requirements() -> list[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    return [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def _build_base(target: Path) -> None:
    root, extracted = target / "root", target / "extracted"
    target.mkdir()
    debootstrap(root, Recipe(SUITE, "", packages=PACKAGES), "--variant=minbase")
    debootstrap(extracted, Recipe(SUITE, "", packages=KERNEL), "--variant=extract")
    kernel = next((extracted / "boot").glob("vmlinuz-*"))
    version = kernel.name.removeprefix("vmlinuz-")
    kernel.rename(target / "kernel")
    modules = root / "usr/lib/modules"
    (extracted / "usr/lib/modules").rename(modules)
    run("chroot", str(root), "depmod", version)
    _build_initramfs(modules / version, extracted / "usr/bin/busybox", target / "initramfs")
    run("rm", "-rf", str(extracted))


def _build_initramfs(modules: Path, busybox: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pnvm-") as folder:
        tree = Path(folder)
        for name in ("bin", "modules", "proc", "dev", "root"):
            (tree / name).mkdir()
        shutil.copy(busybox, tree / "bin")
        shutil.copy(HERE / "initramfs.sh", tree / "init")
        (tree / "init").chmod(0o755)
        for number, module in enumerate(_in_order(modules)):
            packed = (modules / module).read_bytes()
            plain = lzma.decompress(packed) if module.endswith(".xz") else packed
            (tree / "modules" / f"{number:02}-{Path(module).name.removesuffix('.xz')}").write_bytes(plain)
        pack = 'cd "$1" && find . | bin/busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$2"'
        run("sh", "-c", pack, "sh", folder, str(target))


def _in_order(modules: Path) -> list[str]:
    """Name the files of `BOOT_MODULES` and of what they need first; those built into the kernel have none."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _, needed = line.partition(":")
        needs[module] = needed.split()
    wanted = [one for one in needs if Path(one).name.partition(".")[0].replace("-", "_") in BOOT_MODULES]
    # modules.dep lists the nearest first and whatever that needs after it.
    return list(dict.fromkeys(file for one in wanted for file in (*reversed(needs[one]), one)))


def _build_disk(root: Path, requirements: list[str], target: Path) -> None:
    image = busybox_image()
    with tempfile.TemporaryDirectory(prefix="pnvm-") as folder:
        _download(root, requirements, Path(folder))
        # In namespaces of its own: however it ends, its mounts go with it.
        apart = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        arguments = (str(root), folder, str(image), str(target), SIZE)
        run(*apart, "sh", str(HERE / "disk.sh"), *arguments, timeout_s=600)


def _download(root: Path, requirements: list[str], folder: Path) -> None:
    """Fetch what the root's own Python needs with this one's pip, which knows where to ask."""
    said = run("chroot", str(root), "python3", "-c", "import sys; print(*sys.version_info[:2])")
    major, minor = said.split()
    pip = (sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--dest", str(folder))
    source = [one for one in requirements if one.startswith(SOURCE_ONLY)]
    wheels = [one for one in requirements if one not in source]
    fits = ["--python-version", f"{major}.{minor}", "--implementation", "cp", "--only-binary=:all:"]
    for abi in (f"cp{major}{minor}", "abi3", "none"):
        fits += ["--abi", abi]
    # Trixie has glibc 2.41.
    for platform_tag in ("manylinux2014_x86_64", *(f"manylinux_2_{number}_x86_64" for number in range(5, 42))):
        fits += ["--platform", platform_tag]
    try:
        run(*pip, *fits, *wheels, "setuptools", timeout_s=300)
        run(*pip, "--no-deps", "--no-binary=:all:", *source, timeout_s=300)
    except CommandFailed as error:
        last = error.stderr.splitlines()[-1:] or [error.outcome]
        raise Unavailable(f"pip can't download what the disk needs: {last[0]}") from error
