"""Try the lab itself on this machine, with the engines' built-in bridge and the times it takes.

usage: python -m tests.lab [VERSION[:legacy] ...]      all kept engines by default
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from .command import Unavailable
from .engine import Engine
from .lan import Lan
from .roots import RECIPES, ensure_root
from .sweep import sweep
from .wait import eventually


def main() -> None:
    """Sweep, then build and try each engine; ends with 1 if one is not available."""
    swept = sweep()
    if swept:
        say(f"swept {', '.join(swept)}")
    missing = 0
    for name in sys.argv[1:] or RECIPES:
        version, _, flavour = name.partition(":")
        say(f"engine {name}")
        try:
            if version in RECIPES:
                with timed("root"):
                    ensure_root(version)
            attempt(Engine(version, iptables="legacy" if flavour == "legacy" else "nft"))
        except Unavailable as reason:
            say(f"  unavailable: {reason}")
            missing = 1
    sys.exit(missing)


def attempt(engine: Engine) -> None:
    """Do with `engine` what tests do."""
    with timed("start"):
        engine.__enter__()
    with closing(engine), Lan(engine.netns) as lan:
        say(f"  {engine.version}, compose {'yes' if engine.has_compose else 'no'}")
        with timed("run --rm"):
            engine.docker("run", "--rm", "busybox", "true")
        engine.docker("network", "create", "net")
        serve = ("sh", "-c", "mkdir /www; echo hello >/www/index.html; exec httpd -f -h /www")
        web = ("--name", "web", "--network", "net", "-p", "8080:80", "--restart", "always")
        with timed("run -d with a port"):
            engine.docker("run", "-d", *web, "busybox", *serve)

        def reached() -> bool:
            engine.docker("exec", "web", "ping", "-c", "1", "web")
            page = lan.neighbour.run("curl", "-s", "-m", "3", f"http://{lan.HOST4}:8080")
            return page == "hello\n"

        with timed("reached by name and by port"):
            eventually(reached)
        with timed("restart"):
            engine.restart()
        eventually(reached)
        with timed("crash and start"):
            engine.crash()
            engine.start()
        eventually(reached)
        with timed("close"):
            lan.close()
            engine.close()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long the block took."""
    start = time.monotonic()
    yield
    say(f"  {what:28} {time.monotonic() - start:6.2f} s")


def say(line: str) -> None:
    """Write one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
