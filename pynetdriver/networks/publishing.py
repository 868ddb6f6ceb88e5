"""Ports of containers are published on the host and revoked."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog
from msgspec.structs import replace

from pynetdriver.backends import Publishing as How
from pynetdriver.errors import Conflict
from pynetdriver.kernel.hostport import HostPorts, PortTaken
from pynetdriver.locks import aside, in_parts
from pynetdriver.model import Endpoint, PortMapping
from pynetdriver.networks.ports import Ports
from pynetdriver.networks.removal import Removal
from pynetdriver.portmap import (
    PortRequest,
    RequestedPorts,
    narrowest_first,
    port_requests,
    split_opened,
    split_satisfied,
)
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of

log = structlog.get_logger()


class Publishing:
    """Holds the host ports that are asked for, and leads them into containers."""

    def __init__(
        self, registry: Registry, journal: Journal, host_ports: HostPorts, ports: Ports, removal: Removal
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._host_ports = host_ports
        self._ports = ports
        self._removal = removal

    async def publish(self, network_id: str, endpoint_id: str, ports: RequestedPorts) -> None:
        """Publish the container's ports here, in place of what was published before.

        Raises:
            PynetError: a port is in use or cannot be published; what was published before still is.
        """
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoint(network_id, endpoint_id)
            network = self._registry.network(network_id)
            if network.internal:
                return
            if endpoint.sandbox is None:
                raise Conflict(f"endpoint {endpoint.id[:12]} has not joined a sandbox; nothing can be published there")
            how = backend_of(network).publishing(network)
            if how is None:
                if ports.bindings:
                    log.warning(
                        "ports of this network are reached at the container's own address, not at the host's",
                        endpoint=endpoint.id[:12],
                    )
                return
            if ports.bindings or endpoint.ports:
                endpoint = await self._ports.without_lost_ipv6(endpoint)
            size = len(ports.bindings) + len(endpoint.ports)
            opened, kept, wanted = await aside(partial(_asked_ports, ports, endpoint, how), size)
            given_up = set(endpoint.ports).difference(kept)
            new: tuple[PortMapping, ...] = ()
            try:
                await self._host_ports.release_in_parts(endpoint.id, given_up)
                new = await self._hold(endpoint, wanted, how.isolated)
                await self._ports.change(endpoint, replace(endpoint, ports=(*opened, *kept, *new)))
            except BaseException:
                if self._registry.endpoints.get(endpoint.id) is endpoint:  # else the new ones are published already
                    self._host_ports.let_go(endpoint.id, new)
                    self._host_ports.adopt(endpoint, given_up, how.isolated)
                raise

    async def revoke(self, endpoint_id: str) -> None:
        """Unpublish on the host; nothing published or an unknown endpoint is fine. Raises PynetError."""
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and any(one.host_port for one in endpoint.ports):
                opened = tuple(one for one in endpoint.ports if not one.host_port)
                await self._ports.change(endpoint, replace(endpoint, ports=opened))

    async def _hold(self, endpoint: Endpoint, wanted: list[PortRequest], isolated: bool) -> tuple[PortMapping, ...]:
        held: list[PortMapping] = []
        try:
            async for part in in_parts(narrowest_first(wanted)):
                held += await self._hold_part(endpoint, part, isolated)
        except BaseException:
            self._host_ports.let_go(endpoint.id, held)
            raise
        return tuple(held)

    async def _hold_part(
        self, endpoint: Endpoint, wanted: list[PortRequest], isolated: bool
    ) -> tuple[PortMapping, ...]:
        while True:
            try:
                return self._host_ports.hold(endpoint, wanted, isolated)
            except PortTaken as taken:
                if not await self._freed(endpoint, taken.endpoint_id):
                    raise await asyncio.to_thread(taken.named) from None

    async def _freed(self, endpoint: Endpoint, other: str | None) -> bool:
        """Tell whether a port may be free now that an endpoint holds which is going, gone or dead."""
        if other is None:
            return False
        if self._host_ports.is_releasing(other):
            await self._host_ports.all_released(other)
            return True
        if await self._journal.finish(lambda record, _: record.id == other):
            return True
        if other not in self._registry.endpoints:
            self._host_ports.let_go(other, self._host_ports.held_by(other))
            return True
        return other != endpoint.id and await self._removal.reclaim(other)


def _asked_ports(
    ports: RequestedPorts, endpoint: Endpoint, how: How
) -> tuple[list[PortMapping], list[PortMapping], list[PortRequest]]:
    """Tell what is opened, which ports stay published, and which are to be."""
    opened, bindings, holding = split_opened(ports.bindings, endpoint, how.untranslated)
    # An IPv6 address that is open by itself is not to be reached by way of IPv4.
    six_to_four = ports.six_to_four and holding.address6 == endpoint.address6
    requests = port_requests(bindings, holding, how.addresses, six_to_four=six_to_four)
    return opened, *split_satisfied(requests, endpoint.ports)
