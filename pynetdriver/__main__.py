"""The command `pynet`: reads settings, builds the objects once, passes them in."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import structlog

from pynetdriver import __version__
from pynetdriver.driver import NetworkDriver, Reserve
from pynetdriver.errors import PynetError
from pynetdriver.firewall.choice import KINDS, make_firewall
from pynetdriver.firewall.engine import EngineChains
from pynetdriver.ipam import IpamDriver, unique_local_prefix
from pynetdriver.journal import Journal
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.watch import Watch
from pynetdriver.lan.conflicts import Conflicts
from pynetdriver.leasing import Leasing
from pynetdriver.monitor import Monitor
from pynetdriver.neighbours import Neighbours
from pynetdriver.restore import restore
from pynetdriver.server import Server, routes
from pynetdriver.store.sqlite import SqliteStore

log = structlog.get_logger()

#: One lock a network namespace, so one daemon in it.
_LOCKS = Path("/run/pynet")
#: What the kernel allows a process by default (fs.nr_open).
_DESCRIPTORS = 1_048_576


@click.group()
@click.version_option(__version__, prog_name="pynet")
def main() -> None:
    """A network driver for Docker: docker network create -d pynet."""


@main.command(context_settings={"auto_envvar_prefix": "PYNET"})
@click.option(
    "--socket",
    "socket_path",
    envvar="PYNET_SOCKET",
    type=click.Path(path_type=Path),
    default=Path("/run/docker/plugins/pynet.sock"),
    show_default=True,
    help="Where the engine looks for the driver.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/pynet"),
    show_default=True,
    help="Where networks, endpoints and leases are kept.",
)
@click.option(
    "--firewall",
    type=click.Choice(KINDS),
    default="auto",
    show_default=True,
    help="What holds pynet's rules: a table of nftables, or chains in the tables of legacy iptables. auto is iptables "
    "if this host's own rules are in the legacy tables alone or, where that does not tell, if `iptables --version` "
    "says (legacy); else nftables.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least severe messages to write.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people or for programs.",
)
def serve(socket_path: Path, state_dir: Path, firewall: str, log_level: str, log_format: str) -> None:
    """Run the driver in the foreground.

    Every flag has an environment twin: PYNET_SOCKET, PYNET_STATE_DIR and so on. SIGTERM and SIGINT finish
    the calls in hand and leave links and rules in place.
    """
    _configure_log(log_level, log_format)
    try:
        asyncio.run(_serve(socket_path, state_dir, firewall))
    except PynetError as error:
        raise click.ClickException(str(error)) from error


async def _serve(socket_path: Path, state_dir: Path, firewall: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _allow_descriptors()
    store = SqliteStore(state_dir)
    with _only_daemon(state_dir):
        netlink, ports, chains = Netlink(), HostPorts(), EngineChains()
        kernel = Kernel(netlink, make_firewall(firewall))
        journal = Journal(store, kernel)
        leasing, neighbours = Leasing(store), Neighbours(Conflicts())
        reserve: Reserve = lambda *asked: ipam.reserve(*asked)  # noqa: E731
        driver = NetworkDriver(journal, kernel, ports, chains, neighbours, leasing, reserve)
        pool6 = unique_local_prefix(_machine_id())
        ipam = IpamDriver(store, netlink.networks_in_use, driver.still_held, neighbours, pool6)
        # Watched from before anything is compared, so that no change falls between.
        watch = Watch(kernel.health)
        monitor = Monitor(kernel, driver, ipam, watch)
        server = Server(socket_path, routes(driver, ipam, monitor.engine_started))
        await restore(journal, kernel, driver)
        driver.keep_leases()
        watching = asyncio.create_task(monitor.run())
        # What is there by now stays, so no collection has to look at it again: a whole one took 30 ms.
        gc.collect()
        gc.freeze()
        await server.start()
        _tell_service_manager("READY=1")
        log.info("serving", socket=str(socket_path), version=__version__)
        await stop.wait()
        _tell_service_manager("STOPPING=1")
        await server.stop()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        watch.close()
        await leasing.close()
        await kernel.conntrack.close()
        await netlink.close()
        ports.close()
        store.close()
        log.info("stopped; links and rules stay in place")


def _allow_descriptors() -> None:
    """Take as many as there may be: a published port needs two."""
    _, own = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (_DESCRIPTORS, own):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, own), max(most, own)))
            return


@contextlib.contextmanager
def _only_daemon(state_dir: Path) -> Iterator[None]:
    """Refuse to share the host's network or a state folder with another daemon."""
    host_lock = _LOCKS / f"{Path('/proc/self/ns/net').stat().st_ino}.lock"
    with (
        _locked(host_lock, "another pynet manages this host's network already; stop it first"),
        _locked(state_dir / "lock", f"another pynet uses {state_dir} already; stop it first"),
    ):
        yield


@contextlib.contextmanager
def _locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a file that root alone can open; the kernel lets go of it with the process (flock(2))."""
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
            path.chmod(0o600)
            fcntl.flock(held.enter_context(path.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PynetError(refusal) from None
        except OSError as error:
            raise PynetError(f"cannot lock {path}: {error.strerror}") from error
        yield


def _machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        with contextlib.suppress(OSError):
            return path.read_text().strip()
    return socket.gethostname()


def _tell_service_manager(state: str) -> None:
    """Speak sd_notify(3) if a service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def _configure_log(level: str, form: str) -> None:
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main()
