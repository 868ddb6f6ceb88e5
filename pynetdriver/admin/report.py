"""What pynet says of itself: its state, its networks with their endpoints and ports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pynetdriver import __version__
from pynetdriver.addresses.pools import Pools
from pynetdriver.admin import answers
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.sandbox import names_inside
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import shim_link
from pynetdriver.plan import Adopted, Bridge, Dummy, Parent, Plan, Upper
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry
from pynetdriver.watchdog.repairs import Repairs


@dataclass(frozen=True)
class Place:
    """What and where the daemon is: how it was started, the engine's sockets, and its state."""

    owner: str
    sockets: Sequence[Path]
    state_dir: Path


class Report:
    """Answers about what others hold; changes nothing."""

    def __init__(
        self,
        registry: Registry,
        pools: Pools,
        journal: Journal,
        kernel: Kernel,
        repairs: Repairs,
        place: Place,
    ) -> None:
        self._registry = registry
        self._pools = pools
        self._journal = journal
        self._kernel = kernel
        self._repairs = repairs
        self._place = place
        self._since = time.time()

    async def status(self, metrics: list[answers.Sample]) -> answers.Status:
        """Describe the daemon, with these metrics."""
        endpoints = self._registry.endpoints.values()
        return answers.Status(
            version=__version__,
            owner=self._place.owner,
            since=self._since,
            sockets=[str(path) for path in self._place.sockets],
            state_dir=str(self._place.state_dir),
            firewall=self._kernel.firewall.kind,
            networks=len(self._registry.networks),
            endpoints=len(endpoints),
            ports=sum(len(one.ports) for one in endpoints),
            pools=[
                answers.PoolUse(
                    subnet=str(one.subnet), range=_text(one.range), space=one.space, size=one.size, used=one.used
                )
                for one in self._pools.use()
            ],
            repairs=[answers.Repair(**one._asdict()) for one in self._repairs.last],
            unfinished=sorted(map(str, self._journal.unfinished)),
            unsound=sorted(self._registry.unsound),
            metrics=metrics,
        )

    async def networks(self) -> list[answers.Network]:
        """Describe all networks; what links are called in containers is looked up, outside the event loop."""
        inside = await asyncio.to_thread(names_inside) if self._registry.endpoints else {}
        members: dict[str, list[answers.Endpoint]] = {}
        for one in self._registry.endpoints.values():
            if one.network_id in self._registry.networks:
                members.setdefault(one.network_id, []).append(_endpoint(one, self._registry.endpoint_plan(one), inside))
        return [self._network(one, members.get(one.id, [])) for one in self._registry.networks.values()]

    def _network(self, network: Network, endpoints: list[answers.Endpoint]) -> answers.Network:
        return answers.Network(
            id=network.id,
            backend=network.backend,
            link=_link(self._registry.network_plan(network)),
            internal=network.internal,
            options=network.options,
            subnets=[
                answers.Subnet(
                    pool=str(one.pool),
                    gateway=_text(one.default_gateway or one.gateway),
                    host=_text(one.host or (one.gateway if one.default_gateway else None)),
                )
                for one in network.subnets
            ],
            sound=network.id not in self._registry.unsound,
            endpoints=endpoints,
        )


def _endpoint(endpoint: Endpoint, plan: Plan, inside: dict[str, str]) -> answers.Endpoint:
    lease = endpoint.lease
    return answers.Endpoint(
        id=endpoint.id,
        mac=endpoint.mac,
        addresses=[str(one) for one in (endpoint.address4, endpoint.address6) if one is not None],
        interface=next((inside[name] for name in (*plan.anchors, *plan.moving) if name in inside), None),
        link=next(iter(plan.anchors), None),
        joined=endpoint.sandbox is not None,
        lease_until=lease.obtained + lease.lease_s if lease and lease.lease_s is not None else None,
        ports=[
            answers.Port(
                protocol=one.protocol,
                host_address=str(one.host_address),
                host_port=one.host_port,
                address=str(
                    endpoint.addresses.get(one.host_address.version) or next(iter(endpoint.addresses.values()))
                ),
                port=one.port,
            )
            for one in endpoint.ports
        ],
    )


def _link(plan: Plan) -> str | None:
    """Name the link that a network is: its bridge, or what its containers' links stand on."""
    found = None
    for one in plan.objects:
        match one:
            case Upper() if one.name == shim_link(one.lower):
                pass  # the host's own
            case Bridge() | Dummy() | Upper(shared=True):
                found = one.name
            case Adopted() | Parent():
                found = one.link
    return found


def _text(value: object) -> str | None:
    return None if value is None else str(value)
