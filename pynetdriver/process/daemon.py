"""The daemon: its objects are built once and passed in, and ended in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from netaddr import IPNetwork

from pynetdriver import __version__
from pynetdriver.addresses.dhcp_leases import DhcpLeases
from pynetdriver.addresses.gateways import Gateways
from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.pools import Pools, unique_local_prefix
from pynetdriver.addresses.reclaim import Reclaim
from pynetdriver.addresses.sources import Sources
from pynetdriver.admin.metrics import Metrics
from pynetdriver.admin.report import Place, Report
from pynetdriver.admin.server import ADMIN_BOUNDS, METRICS_BOUNDS, admin_application, metrics_application
from pynetdriver.docker.ipam_driver import IpamDriver
from pynetdriver.docker.network_driver import NetworkDriver
from pynetdriver.docker.protocol import DEADLINE_S, Protocol, routes
from pynetdriver.errors import PynetError
from pynetdriver.firewall.choice import make_firewall
from pynetdriver.firewall.engine import EngineChains
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.lan.conflicts import Conflicts
from pynetdriver.locks import Calls
from pynetdriver.model import Network
from pynetdriver.networks.endpoints import Endpoints
from pynetdriver.networks.host_facts import HostFacts
from pynetdriver.networks.networks import Networks
from pynetdriver.networks.ports import Ports
from pynetdriver.networks.publishing import Publishing
from pynetdriver.networks.removal import Removal
from pynetdriver.networks.repair import Repair
from pynetdriver.networks.sandboxes import Sandboxes
from pynetdriver.paths import MANAGED
from pynetdriver.process.lock import owner
from pynetdriver.process.sockets import tcp_socket
from pynetdriver.seldom import Seldom
from pynetdriver.server import Server
from pynetdriver.state.docker_user import DockerUser
from pynetdriver.state.journal import Journal, Subject
from pynetdriver.state.liveness import Liveness
from pynetdriver.state.registry import Registry
from pynetdriver.state.switches import Switches
from pynetdriver.store import Store
from pynetdriver.store.sqlite import SqliteStore
from pynetdriver.watchdog import restore
from pynetdriver.watchdog.engine import EngineWatch
from pynetdriver.watchdog.loop import run_loops
from pynetdriver.watchdog.monitor import Monitor
from pynetdriver.watchdog.reconcile import Reconciler
from pynetdriver.watchdog.repairs import Repairs
from pynetdriver.watchdog.sweep import Sweep

log = structlog.get_logger()

#: An engine kills a plugin ten seconds after it told it to stop, which would leave the sockets on the host.
_MANAGED_GRACE_S = 7

#: What the kernel allows a process by default (fs.nr_open).
_DESCRIPTORS = 1_048_576


class Daemon:
    """What a daemon is made of, but for its sockets, each part with the few that it uses."""

    def __init__(self, store: Store, kernel: Kernel, host_ports: HostPorts, pool6: IPNetwork) -> None:
        """Know nothing of the host yet; see `restore`.

        Args:
            pool6: where IPv6 pools come from when none is asked for, a /48 of this host's own.
        """
        self.kernel = kernel
        chains = EngineChains()
        self.registry = Registry()
        self.switches = Switches(store, kernel, chains)
        self.journal = Journal(store, kernel, self.switches, host_ports)
        self.liveness = Liveness(self.registry, kernel)
        self.docker_user = DockerUser(chains, self.registry, kernel, self.switches)
        self.neighbours = Neighbours(Conflicts(), kernel.netlink.is_local)
        self.dhcp_leases = DhcpLeases(store, self.registry, self.journal, kernel, self.neighbours)
        gateways = Gateways(self.registry, self.journal, self.neighbours, kernel.netlink)
        self.sources = Sources(self.neighbours, gateways, self.dhcp_leases)
        self.ports = Ports(self.registry, self.journal, kernel, host_ports)
        self.removal = Removal(self.registry, self.journal, self.liveness, self.sources, self.ports, host_ports)
        reclaim = Reclaim(self.registry, self.liveness, self.removal.reclaim)
        self.pools = Pools(store, kernel.netlink.networks_in_use, self.neighbours, reclaim, pool6)
        self.facts = HostFacts(self.registry, self.journal, kernel, self.neighbours, self.pools, gateways)
        self.repair = Repair(self.registry, kernel, self.switches, self.facts)
        self.ipam = IpamDriver(self.pools)
        networks = Networks(
            self.registry,
            self.journal,
            self.facts,
            self.removal,
            self.docker_user,
            self.sources,
        )
        endpoints = Endpoints(self.registry, self.journal, self.removal, self.repair, self.sources)
        sandboxes = Sandboxes(self.registry, self.journal, kernel, self.ports, self.neighbours)
        publishing = Publishing(self.registry, self.journal, host_ports, self.ports, self.removal)
        self.driver = NetworkDriver(networks, endpoints, self.removal, sandboxes, publishing)
        self.repairs = Repairs()
        self.sweep = Sweep(self.registry, self.journal, self.liveness, self.removal, self.repair)
        self.monitor = Monitor(kernel, self.registry, self.facts, self.repair, self.switches, self.repairs)
        self.engine = EngineWatch(kernel, self.registry, self.docker_user, self.sweep, self.repairs)

    def engine_started(self) -> None:
        """Take note of an engine that introduced itself."""
        self.liveness.engine_started()
        self.engine.look_soon()

    async def restore(self) -> None:
        """Bring the kernel to what the store says.

        Raises:
            PynetError: a stored network has options that this pynet does not know; nothing is touched then.
        """
        for one in (self.switches, self.pools, self.dhcp_leases):
            one.restore()
        networks, endpoints = self.journal.load()
        known = {one.id for one in networks}
        self.registry.take_up(networks, [one for one in endpoints if one.network_id in known])
        for network in networks:
            self.facts.begin(network)
        await self.facts.follow_changed()
        found = await restore.sort(self.registry, self.kernel, self.repair, networks, endpoints)
        for endpoint in found.endpoints:
            self.ports.restore(endpoint)
        await restore.bring_back(self.registry, self.kernel, self.switches, self.docker_user, found)
        await restore.remove_unwanted(self.journal, found, self._forget)
        await restore.collect(self.kernel, found.wanted.values())
        self.sources.take_up()
        log.info("restored", networks=len(self.registry.networks), endpoints=len(self.registry.endpoints))

    def _forget(self, record: Subject) -> None:
        if isinstance(record, Network):
            self.registry.forget_network(record.id)
            self.sources.forget(record)
        else:
            self.registry.forget(record)

    async def run(self) -> None:
        """Watch over what was made until cancelled; ends with the first loop that does."""
        async with asyncio.TaskGroup() as loops:
            for one in (self.monitor.run(), self.engine.run(), self.sweep.run(), run_loops(self.pools.ask_next)):
                loops.create_task(one)

    async def close(self) -> None:
        """Let go of what is not the host's; links and rules stay in place."""
        self.kernel.watch.close()
        await self.sources.close()
        await self.kernel.conntrack.close()
        await self.kernel.netlink.close()


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
    async with contextlib.AsyncExitStack() as stack:
        metrics_sockets = [tcp_socket(metrics_address)] if metrics_address else []
        store = SqliteStore(state_dir)
        stack.callback(store.close)
        calls, kernel = Calls(), Kernel(Netlink(), make_firewall(firewall))
        host_ports = HostPorts(calls, kernel.bridges.names)
        stack.callback(host_ports.close)
        daemon = Daemon(store, kernel, host_ports, unique_local_prefix(_machine_id(state_dir)))
        stack.push_async_callback(daemon.close)
        await daemon.restore()
        metrics = Metrics(daemon.registry, daemon.pools, kernel, daemon.repairs, daemon.neighbours, daemon.dhcp_leases)
        report = Report(
            daemon.registry,
            daemon.pools,
            daemon.journal,
            kernel,
            daemon.repairs,
            Place(owner(), [*engine_sockets], state_dir),
        )
        reconciler = Reconciler(
            kernel, daemon.registry, daemon.journal, daemon.docker_user, daemon.repair, daemon.sweep
        )
        protocol = Protocol(routes(daemon.driver, daemon.ipam, daemon.engine_started), metrics.observe_call, calls)
        admin = admin_application(report, metrics, reconciler)
        servers = [
            Server(protocol.application(), engine_sockets.values(), _MANAGED_GRACE_S if MANAGED else DEADLINE_S + 5),
            Server(admin, [admin_socket], grace_s=1, bounds=ADMIN_BOUNDS),
            Server(metrics_application(metrics.recent), metrics_sockets, grace_s=1, bounds=METRICS_BOUNDS),
        ]
        _shorten_garbage_collections()
        await _run(daemon, servers, stop, " ".join(map(str, engine_sockets)))
    log.info("stopped; links and rules stay in place")


def _shorten_garbage_collections() -> None:
    """Exclude the objects that exist by now from garbage collections: a full one took 30 ms."""
    gc.collect()
    gc.freeze()


async def _run(daemon: Daemon, servers: Sequence[Server], stop: asyncio.Event, sockets: str) -> None:
    """Serve until told to stop, or until a loop of the daemon ends: nothing would be repaired any more."""
    watching = asyncio.create_task(daemon.run())
    watching.add_done_callback(lambda _: stop.set())
    try:
        for server in servers:
            await server.start()
        _tell_service_manager("READY=1")
        log.info("serving", sockets=sockets, version=__version__, owner=owner())
        await stop.wait()
        _tell_service_manager("STOPPING=1")
    finally:
        for server in servers:
            await server.stop()
        watching.cancel()
        (ended_by,) = await asyncio.gather(watching, return_exceptions=True)
    while isinstance(ended_by, BaseExceptionGroup):  # each group of loops makes one
        ended_by = ended_by.exceptions[0]
    if ended_by is not None and not isinstance(ended_by, asyncio.CancelledError):
        log.error("the watch over links and rules ended", exc_info=ended_by)
        raise PynetError(f"pynet cannot watch links and rules: {ended_by!r}; start it again")


_seldom = Seldom()


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no one else caught."""
    error = context.get("exception")
    # The message may name a task or a socket, of which there is no end.
    event = f"unexpected {type(error).__name__}" if error is not None else context["message"].partition("<")[0].strip()
    _seldom.warning(event, said=context["message"], exc_info=error)


def _allow_descriptors() -> None:
    """Raise the limit of descriptors to the maximum: a published port needs two."""
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
