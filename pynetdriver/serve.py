"""`pynet serve`: builds the daemon's objects once and passes them in, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import structlog

from pynetdriver import __version__
from pynetdriver.answers import Sample, admin_socket
from pynetdriver.claim import claim, owner
from pynetdriver.driver import NetworkDriver, Reserve
from pynetdriver.firewall.choice import make_firewall
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
from pynetdriver.reconcile import Reconciler
from pynetdriver.report import Report
from pynetdriver.restore import restore
from pynetdriver.server import Server, unix_socket
from pynetdriver.server.admin import admin_application
from pynetdriver.server.protocol import DEADLINE_S, Protocol, routes
from pynetdriver.store.sqlite import SqliteStore

log = structlog.get_logger()

#: What the kernel allows a process by default (fs.nr_open).
_DESCRIPTORS = 1_048_576
#: The first descriptor that a service manager passes (sd_listen_fds(3)).
_FIRST_PASSED = 3


async def serve(sockets: Sequence[Path], state_dir: Path, firewall: str) -> None:
    """Serve until SIGTERM or SIGINT; links and rules stay in place.

    Raises:
        PynetError: it cannot, or another daemon does already.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _allow_descriptors()
    with contextlib.ExitStack() as held:
        held.enter_context(claim(sockets[0], state_dir))
        # From now on who calls waits, which is better than a refusal: the engine tries again only after a second.
        listening = [held.enter_context(_listening(path)) for path in sockets]
        admin_path = admin_socket(sockets[0])
        admin_listening = held.enter_context(_listening(admin_path))
        await _serve(sockets, state_dir, firewall, listening, admin_listening, stop)
        log.info("stopped; links and rules stay in place")


async def _serve(
    sockets: Sequence[Path],
    state_dir: Path,
    firewall: str,
    listening: list[socket.socket],
    admin_listening: socket.socket,
    stop: asyncio.Event,
) -> None:
    store = SqliteStore(state_dir)
    netlink, ports, chains = Netlink(), HostPorts(), EngineChains()
    kernel = Kernel(netlink, make_firewall(firewall))
    journal = Journal(store, kernel)
    leasing, neighbours = Leasing(store), Neighbours(Conflicts())
    reserve: Reserve = lambda *asked: ipam.reserve(*asked)  # noqa: E731
    driver = NetworkDriver(journal, kernel, ports, chains, neighbours, leasing, reserve)
    pool6 = unique_local_prefix(_machine_id(state_dir))
    ipam = IpamDriver(store, netlink.networks_in_use, driver.still_held, neighbours, pool6)
    # Watched from before anything is compared, so that no change falls between.
    watch = Watch(kernel.health)
    monitor = Monitor(kernel, driver, ipam, watch)
    protocol = Protocol(routes(driver, ipam, monitor.engine_started), _unseen)
    report = Report(driver, ipam, journal, kernel, monitor, _no_samples, sockets, state_dir)
    reconciler = Reconciler(kernel, driver, journal)
    await restore(journal, kernel, driver)
    driver.keep_leases()
    watching = asyncio.create_task(monitor.run())
    # What is there by now stays, so no collection has to look at it again: a whole one took 30 ms.
    gc.collect()
    gc.freeze()
    servers = [
        Server(protocol.application(), listening, DEADLINE_S + 5),
        Server(
            admin_application(report.status, report.networks, _no_exposition, reconciler.reconcile),
            [admin_listening],
            grace_s=1,
        ),
    ]
    for server in servers:
        await server.start()
    _tell_service_manager("READY=1")
    log.info("serving", sockets=" ".join(map(str, sockets)), version=__version__, owner=owner())
    await stop.wait()
    _tell_service_manager("STOPPING=1")
    for server in servers:
        await server.stop()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    watch.close()
    await leasing.close()
    await kernel.conntrack.close()
    await netlink.close()
    ports.close()
    store.close()


def _unseen(method: str, status: int, seconds: float) -> None: ...


async def _no_samples() -> list[Sample]:
    return []


async def _no_exposition() -> tuple[bytes, str]:
    return b"", "text/plain"


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen at a path until the end of the block, on the service manager's socket if it passed one."""
    passed = _passed_sockets().get(str(path))
    if passed is not None:
        yield passed
        return
    with unix_socket(path) as one:
        try:
            yield one
        finally:
            path.unlink(missing_ok=True)


@cache
def _passed_sockets() -> dict[str, socket.socket]:
    """Map paths to the sockets that a service manager passed (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(os.environ.get("LISTEN_FDS", "0"))
    found = (socket.socket(fileno=one) for one in range(_FIRST_PASSED, _FIRST_PASSED + count))
    return {str(one.getsockname()): one for one in found if one.family == socket.AF_UNIX}


def _allow_descriptors() -> None:
    """Take as many as there may be: a published port needs two."""
    _, own = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (_DESCRIPTORS, own):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, own), max(most, own)))
            return


def _machine_id(state_dir: Path) -> str:
    """Name this host, or this installation where the host's own name for itself is hidden."""
    kept = state_dir / "machine-id"
    for path in (Path("/etc/machine-id"), kept):
        with contextlib.suppress(OSError):
            name = path.read_text().strip()
            if name:
                return name
    name = secrets.token_hex(16)
    kept.write_text(f"{name}\n")
    return name


def _tell_service_manager(state: str) -> None:
    """Speak sd_notify(3) if a service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
