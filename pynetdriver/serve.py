"""The daemon: builds its objects once and passes them in, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from pynetdriver import __version__
from pynetdriver.claim import owner
from pynetdriver.driver import NetworkDriver
from pynetdriver.errors import PynetError
from pynetdriver.firewall.choice import make_firewall
from pynetdriver.firewall.engine import EngineChains
from pynetdriver.healing import Healing
from pynetdriver.host import MANAGED
from pynetdriver.ipam import IpamDriver, unique_local_prefix
from pynetdriver.journal import Journal
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.watch import Watch
from pynetdriver.lan.conflicts import Conflicts
from pynetdriver.leasing import Leasing
from pynetdriver.locks import Locks
from pynetdriver.metrics import Metrics
from pynetdriver.monitor import Monitor
from pynetdriver.neighbours import Neighbours
from pynetdriver.reconcile import Reconciler
from pynetdriver.registry import Registry
from pynetdriver.report import Report
from pynetdriver.restore import restore
from pynetdriver.seldom import Seldom
from pynetdriver.server import Server
from pynetdriver.server.admin import ADMIN_BOUNDS, METRICS_BOUNDS, admin_application, metrics_application
from pynetdriver.server.protocol import DEADLINE_S, Protocol, routes
from pynetdriver.siting import Siting
from pynetdriver.sockets import tcp_socket
from pynetdriver.store.sqlite import SqliteStore

log = structlog.get_logger()

#: An engine kills a plugin ten seconds after it told it to stop, which would leave the sockets on the host.
_MANAGED_GRACE_S = 7

#: What the kernel allows a process by default (fs.nr_open).
_DESCRIPTORS = 1_048_576


async def serve(
    engine_sockets: Mapping[Path, socket.socket],
    admin_socket: socket.socket,
    state_dir: Path,
    firewall: str,
    metrics_address: str,
) -> None:
    """Serve on sockets that listen until SIGTERM or SIGINT; links and rules stay in place.

    Raises:
        PynetError: it cannot.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().set_exception_handler(_unexpected)
    _allow_descriptors()
    metrics_sockets = [tcp_socket(metrics_address)] if metrics_address else []
    store = SqliteStore(state_dir)
    netlink, chains = Netlink(), EngineChains()
    kernel = Kernel(netlink, make_firewall(firewall))
    ports = HostPorts(lambda: protocol.in_hand > 0, kernel.bridges.names)
    journal = Journal(store, kernel, chains)
    registry, locks, neighbours = Registry(), Locks(), Neighbours(Conflicts(), netlink.is_local)
    leasing = Leasing(store, registry, locks, journal, kernel, neighbours)
    siting = Siting(registry, journal, netlink, neighbours, lambda *asked: ipam.reserve(*asked))
    healing = Healing(registry, locks, journal, kernel, siting)
    driver = NetworkDriver(registry, locks, journal, kernel, ports, chains, neighbours, leasing, siting, healing)
    pool6 = unique_local_prefix(_machine_id(state_dir))
    ipam = IpamDriver(store, netlink.networks_in_use, driver.still_held, neighbours, pool6)
    # Watched from before anything is compared, so that no change falls between.
    watch = Watch(kernel.health)
    monitor = Monitor(kernel, registry, journal, driver, healing, ipam, watch)
    metrics = Metrics(registry, ipam, kernel, monitor, neighbours, leasing)
    protocol = Protocol(routes(driver, ipam, monitor.engine_started), metrics.observe_call)
    report = Report(registry, healing, ipam, journal, kernel, monitor, metrics.samples, list(engine_sockets), state_dir)
    reconciler = Reconciler(kernel, registry, driver, healing, journal)
    await restore(journal, kernel, registry, driver, siting, healing)
    leasing.keep_all()
    watching = asyncio.create_task(monitor.run())
    watching.add_done_callback(lambda _: stop.set())  # nothing would be mended any more
    # What is there by now stays, so no collection has to look at it again: a whole one took 30 ms.
    gc.collect()
    gc.freeze()
    servers = [
        Server(protocol.application(), engine_sockets.values(), _MANAGED_GRACE_S if MANAGED else DEADLINE_S + 5),
        Server(
            admin_application(report.status, report.networks, metrics.exposition, reconciler.reconcile),
            [admin_socket],
            grace_s=1,
            bounds=ADMIN_BOUNDS,
        ),
        Server(metrics_application(metrics.recent), metrics_sockets, grace_s=1, bounds=METRICS_BOUNDS),
    ]
    for server in servers:
        await server.start()
    _tell_service_manager("READY=1")
    log.info("serving", sockets=" ".join(map(str, engine_sockets)), version=__version__, owner=owner())
    await stop.wait()
    _tell_service_manager("STOPPING=1")
    for server in servers:
        await server.stop()
    watching.cancel()
    (ended_by,) = await asyncio.gather(watching, return_exceptions=True)
    watch.close()
    await leasing.close()
    await kernel.conntrack.close()
    await netlink.close()
    ports.close()
    store.close()
    if ended_by is not None and not isinstance(ended_by, asyncio.CancelledError):
        log.error("the watch over links and rules ended", exc_info=ended_by)
        raise PynetError(f"pynet cannot watch links and rules: {ended_by!r}; start it again")
    log.info("stopped; links and rules stay in place")


_seldom = Seldom()


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no one else caught."""
    error = context.get("exception")
    # The message may name a task or a socket, of which there is no end.
    event = f"unexpected {type(error).__name__}" if error is not None else context["message"].partition("<")[0].strip()
    _seldom.warning(event, said=context["message"], exc_info=error)


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
    with contextlib.suppress(OSError):  # pools that are asked for are elsewhere after the next start
        kept.write_text(f"{name}\n")
    return name


def _tell_service_manager(state: str) -> None:
    """Speak sd_notify(3) if a service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
