"""Endpoints join the sandboxes of containers and leave them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.backends import Attachment
from pynetdriver.errors import Conflict
from pynetdriver.kernel import Kernel
from pynetdriver.model import Endpoint, Network, PortMapping
from pynetdriver.networks.ports import Ports
from pynetdriver.portmap import RequestedPorts, split_opened
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of


class Sandboxes:
    """Knows into which sandbox an endpoint's link is moved; ports at its own address are open meanwhile."""

    def __init__(
        self, registry: Registry, journal: Journal, kernel: Kernel, ports: Ports, neighbours: Neighbours
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._kernel = kernel
        self._ports = ports
        self._neighbours = neighbours

    async def join(
        self, network_id: str, endpoint_id: str, key: str, ports: Callable[[], RequestedPorts | None]
    ) -> tuple[Endpoint, Attachment]:
        """Name the link to move into the sandbox of this key, made again if it was lost since.

        Ports at the container's own address are open from here to `leave`, by whichever network its default route
        leads.

        Args:
            ports: reads what is asked for, which may be much, and matters on few networks.

        Raises:
            PynetError: it is in another sandbox, or its link cannot be made again.
        """
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoint(network_id, endpoint_id)
            if endpoint.sandbox not in (None, key):
                raise Conflict(f"endpoint {endpoint.id[:12]} is joined to another sandbox; leave that first")
            network = self._registry.network(network_id)
            plan = self._registry.endpoint_plan(endpoint)
            if self._kernel.netlink.is_missing([*plan.anchors, *(() if endpoint.sandbox else plan.moving)]):
                await self._kernel.apply_objects(plan)
            joined = replace(endpoint, sandbox=key, ports=_opened_at_join(network, endpoint, ports))
            if joined.ports != endpoint.ports:
                await self._ports.change(endpoint, joined)
            elif joined.sandbox != endpoint.sandbox:
                self._journal.write(joined)
                self._registry.know(joined)
            if endpoint.sandbox is None:
                self._neighbours.announce(network, joined)
        return joined, backend_of(network).attachment(network, joined)

    async def leave(self, endpoint_id: str) -> None:
        """Forget the sandbox and unpublish; the link is still inside and goes with the endpoint. Raises PynetError."""
        async with self._registry.lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and (endpoint.sandbox or endpoint.ports):
                await self._ports.change(endpoint, replace(endpoint, sandbox=None, ports=()))


def _opened_at_join(
    network: Network, endpoint: Endpoint, ports: Callable[[], RequestedPorts | None]
) -> tuple[PortMapping, ...]:
    """Tell an endpoint's ports with those that are open at its own address; what is published stays."""
    publishing = backend_of(network).publishing(network)
    if network.internal or publishing is None or not publishing.untranslated:
        return endpoint.ports
    asked = ports()
    if asked is None:
        return endpoint.ports
    opened, _, _ = split_opened(asked.bindings, endpoint, publishing.untranslated)
    return (*opened, *(one for one in endpoint.ports if one.host_port))
