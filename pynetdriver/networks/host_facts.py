"""What a network stands on: the links of the host that it names, and the addresses that the host takes on it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from msgspec.structs import replace
from netaddr import IPAddress

from pynetdriver.addresses.gateways import Gateways
from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.pools import Pools
from pynetdriver.errors import Conflict, Exhausted, PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.model import Facts, Link, Network, Subnet
from pynetdriver.plan import Adopted, Parent, Plan
from pynetdriver.pool import last_free
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of

log = structlog.get_logger()

#: So many addresses of a subnet are tried for the host.
HOST_ADDRESSES = 16


class HostFacts:
    """Looks at what networks to come stand on, chooses the host's addresses there, and follows what changes."""

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
        #: Links that changed and were not read since, and the one that is being read.
        self._unread: set[str] = set()
        self._reading = ""
        self._lock = asyncio.Lock()

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

    def begin(self, network: Network) -> None:
        """Follow what a network stands on, which may have changed since it was looked at."""
        self._neighbours.know(network)
        self._kernel.health.followed.follow(_followed(network))

    def end(self, network: Network) -> None:
        """Ask nobody for addresses of a network that goes."""
        self._neighbours.forget(network)

    async def follow(self, network: Network) -> Network:
        """Return what a network is by all that the kernel has told so far of the links on which it stands.

        Raises:
            PynetError: a link that changed cannot be looked at.
        """
        names = _followed(network)
        if not names:
            return network
        if self._kernel.watch.read():  # and there may be more
            self._unread.update(names)
        self._unread |= self._kernel.health.followed.take(names)
        for name in names:
            if name in self._unread or name == self._reading:
                await self._read(name)
        return self._registry.networks.get(network.id, network)

    async def follow_changed(self) -> None:
        """Plan networks anew whose links changed.

        A link that cannot be looked at leaves its networks as they were, and is looked at again with the next call.
        """
        changed = self._kernel.health.followed.take()
        self._unread |= changed
        for name in changed:
            try:
                await self._read(name)
            except PynetError as error:
                log.error("cannot tell what a network stands on", link=name, error=str(error))

    async def _read(self, name: str) -> None:
        """Look at a link unless somebody did meanwhile, and plan the networks anew that stand on it."""
        async with self._lock:
            if name not in self._unread:
                return
            self._unread.discard(name)
            if not any(name in _followed(one) for one in self._registry.networks.values()):
                self._kernel.health.followed.forget(name)
                return
            self._reading = name
            try:
                link = await self._kernel.netlink.describe(name)
            except BaseException:
                self._unread.add(name)
                raise
            finally:
                self._reading = ""
            for network in list(self._registry.networks.values()):
                if name in _followed(network):
                    self._know(network, name, link)

    def _know(self, network: Network, name: str, link: Link | None) -> None:
        """Plan a network anew; a link that is not there (any more) is what it was, unless it was pynet's."""
        old = network.facts.link(name)
        link = link or (old if old and not old.ours else None)
        found = (link if one == name else network.facts.link(one) for one in _followed(network))
        facts = replace(network.facts, links=tuple(one for one in found if one is not None))
        # As text, since networks of one subnet are equal whatever their own addresses are.
        if str(facts) == str(network.facts):
            return
        network = replace(network, facts=facts)
        self._registry.know_network(network)
        if network.phase == "ready":
            self._neighbours.know(network)

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


def _followed(network: Network) -> tuple[str, ...]:
    """Name the links whose facts are those of the present; see `Backend.FOLLOWS_HOST`."""
    backend = backend_of(network)
    return backend.named_links(network, network.facts.uplink) if backend.FOLLOWS_HOST else ()
