"""What a network stands on: the links of the host that it names, and the addresses that the host takes on it."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from math import inf
from typing import Any

import structlog
from msgspec.structs import replace
from netaddr import IPAddress

from pynetdriver.addresses.gateways import Gateways
from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.pools import Pools
from pynetdriver.errors import Conflict, Exhausted, PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.model import Facts, Network, Subnet
from pynetdriver.plan import Adopted, Parent, Plan
from pynetdriver.pool import last_free
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of

log = structlog.get_logger()

#: Links on which networks stand are looked at as endpoints come, but not for each of many.
FOLLOW_S = 1.0
#: So many addresses of a subnet are tried for the host.
HOST_ADDRESSES = 16


class HostFacts:
    """Finds networks their place on the host, and follows it."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        kernel: Kernel,
        neighbours: Neighbours,
        pools: Pools,
        gateways: Gateways,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._kernel = kernel
        self._neighbours = neighbours
        self._pools = pools
        self._gateways = gateways
        self._followed: dict[str, float] = {}

    async def of(self, network: Network) -> Facts:
        """Look at what a network to come stands on."""
        uplink, mtu = await self._kernel.netlink.uplink() or (None, Facts().uplink_mtu)
        names = backend_of(network).named_links(network, uplink)
        await self._journal.finish_on(set(names))
        found = [await self._kernel.netlink.describe(name) for name in names]
        return Facts(mtu, uplink, tuple(one for one in found if one is not None))

    async def check(self, network: Network) -> None:
        """Refuse what clashes with the host's addresses or other networks. Raises PynetError."""
        backend_of(network).check(network, self._registry.networks, await self._kernel.netlink.addresses())

    async def settle(self, network: Network) -> tuple[Network, Plan]:
        """Choose what the host takes for a network to come, and refuse it if it cannot be.

        Returns:
            The network with that, and its plan.

        Raises:
            PynetError: an address is somebody else's, the bridge is the engine's own, or the kernel refuses its links.
        """
        network = self._neighbours.doubting(await self._with_host_addresses(network))
        plan = backend_of(network).network_plan(network)
        for one in plan.objects:
            if isinstance(one, Adopted) and one.link in self._kernel.bridges.found.names:
                raise Conflict(f'"{one.link}" is the bridge of a network of the engine\'s own; choose another one')
        await self._neighbours.refuse_taken_gateways(network, plan)
        self._registry.know_network(replace(network, phase="creating"))
        if plan.trial:
            await self._kernel.try_out(plan.trial)
        return network, plan

    def warn(self, network: Network) -> Coroutine[Any, Any, None]:
        """Say which parents of a new network are down, without which containers reach nobody.

        Returns:
            What asks its LAN for silent gateways, which takes seconds.
        """
        parents = {one.link for one in self._registry.network_plan(network).objects if isinstance(one, Parent)}
        for link in network.facts.links:
            if link.name in parents and not link.up:
                log.warning(
                    f"parent is down, containers reach nobody until it is up: ip link set {link.name} up",
                    link=link.name,
                    network=network.id[:12],
                )
        return self._gateways.warn(network)

    async def follow_all(self) -> None:
        """Take notice that the links on which networks stand have other addresses or MACs by now.

        One that is not there (yet), or is not to be told, is what it was: one network decides nothing for the others.
        """
        for network in list(self._registry.networks.values()):
            try:
                await self.follow(network)
            except PynetError as error:
                log.error("cannot tell what a network stands on", network=network.id[:12], error=str(error))

    async def follow(self, network: Network, within_s: float = 0.0) -> Network:
        """Do so for one network, unless that was done within so many seconds; returns what it is then."""
        if time.monotonic() - self._followed.get(network.id, -inf) < within_s:
            return network
        if not backend_of(network).FOLLOWS_HOST:
            return network
        self._followed[network.id] = time.monotonic()
        names = backend_of(network).named_links(network, network.facts.uplink)
        former = [network.facts.link(name) for name in names]
        found = [await self._kernel.netlink.describe(name) for name in names]
        links = [new or (old if old and not old.ours else None) for new, old in zip(found, former, strict=True)]
        facts = replace(network.facts, links=tuple(one for one in links if one is not None))
        current = self._registry.networks.get(network.id)
        # As text, since networks of one subnet are equal whatever their own addresses are.
        if current is None or current.phase != network.phase or str(facts) == str(network.facts):
            return network
        self._registry.know_network(replace(current, facts=facts))
        self._neighbours.know(self._registry.networks[network.id])
        return self._registry.networks[network.id]

    async def _with_host_addresses(self, network: Network) -> Network:
        """Choose the addresses that the host takes on a network, such as nobody on its LAN has.

        Raises:
            Conflict: the one that the user named is in use.
            Exhausted: others have all that were tried.
        """
        wanted = backend_of(network).host_addresses(network)
        own = {one.ip for link in network.facts.links for one in link.addresses}
        subnets = []
        for subnet in network.subnets:
            if subnet.pool in wanted:
                taken = own.union(subnet.aux, [subnet.gateway] if subnet.gateway else [])
                subnet = replace(subnet, host=await self._host_address(network, subnet, wanted[subnet.pool], taken))
            subnets.append(subnet)
        return replace(network, subnets=tuple(subnets))

    async def _host_address(
        self, network: Network, subnet: Subnet, named: IPAddress | None, taken: set[IPAddress]
    ) -> IPAddress:
        for _ in range(HOST_ADDRESSES):
            held = self._pools.reserve(subnet.space, subnet.pool, named, taken)
            address = held or named or last_free(subnet.pool, taken)
            mac = await self._neighbours.holder(network, address)
            if mac is None:
                return address
            if named is not None:
                raise Conflict(f"address {address}, which is to be the host's own, is in use by {mac}; choose another")
            log.warning("address is in use on the LAN, passing it over", address=str(address), mac=mac)
            taken = taken | {address}
        raise Exhausted(f"other machines have the last addresses of {subnet.pool}; name one with host_access=ADDRESS")

    def forget(self, network_id: str) -> None:
        """Drop a network."""
        self._followed.pop(network_id, None)
