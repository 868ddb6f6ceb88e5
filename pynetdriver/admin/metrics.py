"""Metrics for Prometheus: calls as they happen, all else read from those who know it when somebody asks."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from pynetdriver import __version__
from pynetdriver.addresses.dhcp_leases import DhcpLeases
from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.pools import Pools
from pynetdriver.admin.answers import Sample
from pynetdriver.backends import NAMES
from pynetdriver.errors import HostError, outcome
from pynetdriver.firewall import Count, Direction, Flow
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.traffic import Traffic, traffic_of
from pynetdriver.model import Endpoint, Network
from pynetdriver.pool import PoolUse
from pynetdriver.seldom import Seldom
from pynetdriver.state.registry import Registry
from pynetdriver.watchdog.repairs import Repairs

_seldom = Seldom()

T = TypeVar("T")

#: Seconds; most calls take some milliseconds, and none more than `server.protocol.DEADLINE_S`.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_ENDPOINT = ["network", "endpoint", "direction"]
_PORT = ["network", "endpoint", "protocol", "host_address", "host_port", "container_port", "direction"]
_DIRECTIONS: tuple[Direction, ...] = ("in", "out")
_SHORT = 12
_RECENT_S = 1.0


class Metrics:
    """All metrics of this daemon."""

    def __init__(
        self,
        registry: Registry,
        pools: Pools,
        kernel: Kernel,
        repairs: Repairs,
        neighbours: Neighbours,
        dhcp_leases: DhcpLeases,
    ) -> None:
        """Begin to count calls."""
        self._registry = registry
        self._pools = pools
        self._kernel = kernel
        self._repairs = repairs
        self._neighbours = neighbours
        self._dhcp_leases = dhcp_leases
        self._one_at_a_time = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._recent: tuple[bytes, str] | None = None
        self._recent_until = 0.0
        # When a series began is left out: it is a series more for each.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._collectors = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._collectors)
        self._calls = prometheus_client.Counter(
            "pynet_calls", "Calls of the engine.", ["method", "outcome"], registry=self._collectors
        )
        self._seconds = prometheus_client.Histogram(
            "pynet_call_seconds", "How long calls took.", ["method"], buckets=_BUCKETS, registry=self._collectors
        )

    def observe_call(self, method: str, status: int, seconds: float) -> None:
        """Count a call; `status` is that of HTTP."""
        self._calls.labels(method, outcome(status)).inc()
        self._seconds.labels(method).observe(seconds)

    async def exposition(self) -> tuple[bytes, str]:
        """Write all metrics in Prometheus' text format; returns that and its content type."""
        text = await self._asked(prometheus_client.generate_latest)
        return text, CONTENT_TYPE_PLAIN_0_0_4

    async def recent(self) -> tuple[bytes, str]:
        """As `exposition`, at most a second old: who asks more often than that costs no more."""
        loop = asyncio.get_running_loop()
        async with self._renewing:
            if self._recent is None or loop.time() > self._recent_until:
                self._recent = await self.exposition()
                self._recent_until = loop.time() + _RECENT_S
        return self._recent

    async def samples(self) -> list[Sample]:
        """List all values."""
        return await self._asked(_samples)

    async def _asked(self, written: Callable[[Collector], T]) -> T:
        """Look at everything, and have it written in a thread; who asks meanwhile has to wait."""
        async with self._one_at_a_time:
            snapshot = Snapshot(
                counted=self._collectors,
                networks=dict(self._registry.networks),
                endpoints=list(self._registry.endpoints.values()),
                pools=self._pools.use(),
                repairs=dict(self._repairs.counted),
                conflicts=self._neighbours.conflicts,
                renewals=dict(self._dhcp_leases.renewals),
                carried=await self._carried(),
            )
            return await asyncio.to_thread(written, snapshot)

    async def _carried(self) -> dict[Flow, Count] | None:
        try:
            return await self._kernel.firewall.traffic()
        except HostError as error:
            _seldom.warning("no metrics of published ports", error=str(error))
            return None


@dataclass(frozen=True)
class Snapshot(Collector):
    """The daemon at one moment; what links carried is read when it is written."""

    counted: Collector
    networks: dict[str, Network]
    endpoints: list[Endpoint]
    pools: list[PoolUse]
    repairs: dict[str, int]
    conflicts: int
    renewals: dict[str, int]
    carried: dict[Flow, Count] | None

    def collect(self) -> Iterator[Metric]:
        """List all metrics; for threads."""
        yield from self.counted.collect()
        yield _gauge("pynet_build_info", "Which pynet this is.", ["version"], [((__version__,), 1)])
        yield from self._numbers()
        yield from self._pools()
        yield _counter("pynet_repairs", "What others had damaged and was repaired.", ["kind"], _by_word(self.repairs))
        yield _counter(
            "pynet_conflicts", "Addresses that others on a LAN were found to have.", [], [((), self.conflicts)]
        )
        yield _counter(
            "pynet_lease_renewals", "How leases of DHCP servers went on.", ["outcome"], _by_word(self.renewals)
        )
        yield from self._links()
        yield from self._published()

    def _numbers(self) -> Iterator[Metric]:
        backends = {network.id: network.backend for network in self.networks.values()}
        networks, endpoints, ports = (Tally(dict.fromkeys(NAMES, 0)) for _ in range(3))
        networks.update(backends.values())
        for one in self.endpoints:
            if one.network_id in backends:
                endpoints[backends[one.network_id]] += 1
                ports[backends[one.network_id]] += len(one.ports)
        yield _gauge("pynet_networks", "Networks.", ["backend"], _by_word(networks))
        yield _gauge("pynet_endpoints", "Attachments of containers.", ["backend"], _by_word(endpoints))
        yield _gauge("pynet_ports", "Published ports.", ["backend"], _by_word(ports))

    def _pools(self) -> Iterator[Metric]:
        labels = ["subnet", "space"]
        size = [((str(one.subnet), one.space), one.size) for one in self.pools]
        used = [((str(one.subnet), one.space), one.used) for one in self.pools]
        yield _gauge("pynet_pool_addresses", "Addresses that a pool of pynet's IPAM can give.", labels, size)
        yield _gauge("pynet_pool_used", "Addresses of a pool that are held.", labels, used)

    def _links(self) -> Iterator[Metric]:
        try:
            found = traffic_of([one.id for one in self.endpoints])
        except HostError as error:
            _seldom.warning("no metrics of endpoints", error=str(error))
            return
        yield from _traffic("pynet_endpoint", "of a container's interface", _ENDPOINT, self._by_endpoint(found))

    def _by_endpoint(self, found: Mapping[str, Traffic]) -> Iterator[tuple[tuple[str, ...], int, int]]:
        for one in self.endpoints:
            if one.id in found:
                traffic, words = found[one.id], (one.network_id[:_SHORT], one.id[:_SHORT])
                yield (*words, "rx"), traffic.received, traffic.received_packets
                yield (*words, "tx"), traffic.sent, traffic.sent_packets

    def _published(self) -> Iterator[Metric]:
        if self.carried is not None:
            yield from _traffic("pynet_port", "through a published port", _PORT, self._by_port(self.carried))

    def _by_port(self, carried: Mapping[Flow, Count]) -> Iterator[tuple[tuple[str, ...], int, int]]:
        for one in self.endpoints:
            for port in one.ports:
                # What comes over IPv6 for a container without it is relayed.
                if not port.host_port or port.host_address.version not in one.addresses:
                    continue
                address = str(port.host_address)
                words = (one.network_id[:_SHORT], one.id[:_SHORT], port.protocol, address, str(port.host_port))
                for direction in _DIRECTIONS:
                    count = carried.get(Flow(direction, port.protocol, address, port.host_port), Count(0, 0))
                    yield (*words, str(port.port), direction), count.octets, count.packets


def _traffic(
    what: str, meaning: str, labels: list[str], found: Iterable[tuple[tuple[str, ...], int, int]]
) -> Iterator[Metric]:
    """Make the metrics of bytes and packets; each of `found` has its labels, then bytes, then packets."""
    octets = CounterMetricFamily(f"{what}_bytes", f"Bytes {meaning}.", labels=labels)
    packets = CounterMetricFamily(f"{what}_packets", f"Packets {meaning}.", labels=labels)
    for words, more_octets, more_packets in found:
        octets.add_metric(words, more_octets)
        packets.add_metric(words, more_packets)
    yield from (octets, packets)


def _gauge(name: str, what: str, labels: list[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    metric = GaugeMetricFamily(name, what, labels=labels)
    for words, value in values:
        metric.add_metric(words, value)
    return metric


def _counter(name: str, what: str, labels: list[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    metric = CounterMetricFamily(name, what, labels=labels)
    for words, value in values:
        metric.add_metric(words, value)
    return metric


def _by_word(values: Mapping[str, int]) -> list[tuple[Sequence[str], float]]:
    return [((word,), value) for word, value in values.items()]


def _samples(collector: Collector) -> list[Sample]:
    return [
        Sample(name=one.name, labels=one.labels, value=one.value)
        for metric in collector.collect()
        for one in metric.samples
    ]
