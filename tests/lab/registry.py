"""A registry as a vendor runs one, at 127.0.0.1:5000 of a network namespace; leaves pushing and pulling to engines.

Debian's package would set up a service of the machine's own, so it is unpacked and runs in its own root.
"""

import subprocess
from pathlib import Path
from types import TracebackType

from .netns import Namespace
from .roots import Recipe, debootstrap, kept
from .wait import eventually

#: What is pushed is in memory, and goes with the process.
CONFIG = """\
version: 0.1
log: {accesslog: {disabled: true}, level: error}
storage: {inmemory: {}}
http: {addr: "127.0.0.1:5000"}
"""


def ensure_registry() -> Path:
    """Return the registry's root; the first time builds it.

    Raises:
        Unavailable: there is no such package here.
    """
    return kept("registry", _build)


class Registry:
    """A registry in the namespace `netns`, from `with` to the end of the block.

    Raises (on `with`):
        Unavailable: there is no such package here.
    """

    ADDRESS = "127.0.0.1:5000"

    def __init__(self, netns: Namespace) -> None:
        self._netns = netns
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Registry":
        serve = ("docker-registry", "serve", "/etc/registry.yml")
        self._process = self._netns.popen(
            "chroot", str(ensure_registry()), *serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: self._netns.run("curl", "-sfm2", f"http://{self.ADDRESS}/v2/"))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; a second time does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def manifest(self, repository: str, tag: str) -> str:
        """Return the manifest of what was pushed. Source: OCI distribution specification, image manifest version 2."""
        accept = "Accept: application/vnd.docker.distribution.manifest.v2+json"
        return self._netns.run("curl", "-sfm5", "-H", accept, f"http://{self.ADDRESS}/v2/{repository}/manifests/{tag}")


def _build(target: Path) -> None:
    debootstrap(target, Recipe("bookworm", "", packages=("docker-registry",)), "--variant=extract")
    for name in ("bin", "lib", "lib64"):
        if not (target / name).exists():
            (target / name).symlink_to(f"usr/{name}")
    (target / "etc/registry.yml").write_text(CONFIG)
