"""The ports of endpoints as they are: changed in store, rules and sockets at once."""

from __future__ import annotations

import structlog
from msgspec.structs import replace

from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.locks import aside
from pynetdriver.model import Endpoint
from pynetdriver.portmap import relayed_to
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of

log = structlog.get_logger()


class Ports:
    """What endpoints publish and open."""

    def __init__(self, registry: Registry, journal: Journal, kernel: Kernel, host_ports: HostPorts) -> None:
        self._registry = registry
        self._journal = journal
        self._kernel = kernel
        self._host_ports = host_ports

    async def change(self, former: Endpoint, endpoint: Endpoint) -> None:
        """Replace an endpoint by what it is with other ports; host ports that it has no more are free then.

        Raises:
            PynetError: it failed, and all is as before.
        """
        size = len(former.ports) + len(endpoint.ports)
        plans = await aside(lambda: [self._registry.endpoint_plan(one) for one in (former, endpoint)], size)
        await self._journal.update(former, plans[0], endpoint, plans[1])
        self._registry.know(endpoint)
        self._host_ports.let_go(endpoint.id, set(former.ports).difference(endpoint.ports))
        await self._host_ports.all_released(endpoint.id)

    def restore(self, endpoint: Endpoint) -> None:
        """Hold an endpoint's host ports again; one that was taken meanwhile stays published."""
        for error in self._host_ports.adopt(endpoint, endpoint.ports, self._isolated(endpoint)):
            log.warning("published port is no longer ours alone", endpoint=endpoint.id[:12], error=str(error))

    async def without_lost_ipv6(self, endpoint: Endpoint) -> Endpoint:
        """Take the IPv6 address from an endpoint whose link in the container does not have it.

        An engine takes such a one back and gives it to another container, but tells the IPAM driver alone (29, where
        a sysctl of the endpoint turned IPv6 off). What was published over it is relayed by IPv4 from then on.

        Raises:
            PynetError: it failed, and all is as before.
        """
        if endpoint.address6 is None or endpoint.sandbox is None:
            return endpoint
        plan = self._registry.endpoint_plan(endpoint)
        if not await self._kernel.has_lost(plan, endpoint.address6, endpoint.address4):
            return endpoint
        log.info("container has no IPv6", endpoint=endpoint.id[:12], address=str(endpoint.address6.ip))
        left = {version: one for version, one in endpoint.addresses.items() if version != 6}
        isolated = self._isolated(endpoint)
        relayed = {one: relayed_to(one, left, isolated) for one in endpoint.ports if one.host_port}
        kept = tuple(one for one in endpoint.ports if one.host_address.version == 4 or relayed.get(one))
        other = [one for one in relayed if relayed[one] != relayed_to(one, endpoint.addresses, isolated)]
        without = replace(endpoint, address6=None, released6=endpoint.address6, ports=kept)
        await self.change(endpoint, without)
        self._host_ports.release(endpoint.id, other)
        self._host_ports.adopt(without, set(other).intersection(kept), isolated)
        return without

    def _isolated(self, endpoint: Endpoint) -> bool:
        network = self._registry.networks[endpoint.network_id]
        publishing = backend_of(network).publishing(network)
        return publishing is not None and publishing.isolated
