"""The busybox image that every engine gets, since none can be pulled; owns its content."""

import hashlib
import json
import platform
import shutil
import tempfile
from pathlib import Path

from .command import run
from .roots import Recipe, debootstrap, kept

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

#: udhcpc runs it for each event; without it a lease is only printed.
UDHCPC_SCRIPT = """\
#!/bin/sh
case "$1" in
deconfig) ip address flush dev "$interface"; ip link set "$interface" up ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway"; done ;;
esac
"""
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/udhcpc/default.script": UDHCPC_SCRIPT,
}


def busybox_image() -> Path:
    """Return an archive for `docker load` of `busybox:latest`; the first time builds it.

    It is the dynamic busybox of Debian, since the static one can't resolve names.
    Its stop signal is KILL, or each `docker stop` of a plain `sleep` would take ten seconds.

    Raises:
        Unavailable: it can't be built here and now.
    """
    return kept("busybox.tar", _build)


def _build(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pnimage-") as folder:
        debian, tree, archive = (Path(folder, name) for name in ("debian", "tree", "archive"))
        # "extract" unpacks busybox and libc and sets nothing up: two seconds.
        recipe = Recipe("bookworm", "", packages=("busybox",))
        debootstrap(debian, recipe, "--variant=extract")
        _fill(tree, debian)
        archive.mkdir()
        run("tar", "-C", str(tree), "--owner=0", "--group=0", "-cf", str(archive / "layer.tar"), ".")
        _describe(archive)
        run("tar", "-C", str(archive), "-cf", str(target), ".")


def _fill(tree: Path, debian: Path) -> None:
    loader = next(debian.glob("lib*/ld-linux*")).relative_to(debian)
    listing = run("chroot", str(debian), f"/{loader}", "--list", "/bin/busybox")
    libraries = [word for word in listing.split() if word.startswith("/")]
    for name in {f"/{loader}", "/bin/busybox", *libraries}:
        copy = tree / name.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        # The target of a link in there is a path within `debian`.
        shutil.copy(_inside(debian, name), copy)
    for applet in run("chroot", str(debian), "/bin/busybox", "--list").split():
        link = tree / "bin" / applet
        if not link.exists():
            link.symlink_to("/bin/busybox")
    for name, text in FILES.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    for name in ("dev", "proc", "root", "sys", "tmp"):
        (tree / name).mkdir()
    (tree / "tmp").chmod(0o1777)


def _inside(root: Path, name: str) -> Path:
    path = root / name.lstrip("/")
    while path.is_symlink():
        target = path.readlink()
        path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
    return path


def _describe(archive: Path) -> None:
    """Write what makes a layer an image. Source: Docker image specification 1.2."""
    digest = hashlib.sha256((archive / "layer.tar").read_bytes()).hexdigest()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Cmd": ["sh"],
            "Env": ["PATH=/bin"],
            "StopSignal": "SIGKILL",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "pynet lab"}],
    }
    image = {"Config": "config.json", "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}
    (archive / "config.json").write_text(json.dumps(config))
    (archive / "manifest.json").write_text(json.dumps([image]))
