"""Other machines on the LANs of networks, which may have an address that a container is about to get."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import structlog
from msgspec.structs import replace
from netaddr import IPAddress

from pynetdriver.backends import OWN_ADDRESS, backend_named
from pynetdriver.errors import Conflict, PynetError
from pynetdriver.lan.announce import Announcer
from pynetdriver.lan.conflicts import Conflicts
from pynetdriver.model import Endpoint, Network, Subnet
from pynetdriver.plan import Address, Plan
from pynetdriver.pool import PoolKey, is_host_address

log = structlog.get_logger()

#: A router may have to be woken, and a port of a switch that just came up takes its time.
_GATEWAY_WAITS_S = (0.0, 1.0, 2.0)


class Neighbours:
    """Knows which pools are on a LAN, and asks there. A LAN that cannot be asked has no neighbours."""

    def __init__(self, conflicts: Conflicts, is_local: Callable[[IPAddress], Awaitable[bool]]) -> None:
        """Know of no network yet; `is_local` tells whether the host has an address at present."""
        self._conflicts = conflicts
        self._is_local = is_local
        self._announcer = Announcer()
        self._networks: dict[PoolKey, Network] = {}
        #: How many addresses others on LANs were found to have, and which these are, by link and address.
        self.conflicts = 0
        self._theirs: set[tuple[str, IPAddress]] = set()

    def know(self, network: Network) -> None:
        """Take note of a network that is there."""
        if _asked(network) or network.facts.links:
            self._networks.update(((subnet.space, subnet.pool), network) for subnet in network.subnets)

    def forget(self, network: Network) -> None:
        """Take note of a network that goes."""
        for subnet in network.subnets:
            known = self._networks.get((subnet.space, subnet.pool))
            if known is not None and known.id == network.id:
                del self._networks[subnet.space, subnet.pool]
                link = _asked(network)
                self._theirs = {one for one in self._theirs if one[0] != link or one[1] not in subnet.pool}

    @property
    def pools(self) -> Collection[PoolKey]:
        """The pools that are on a LAN; see `pools.Others`."""
        return self._networks.keys()

    async def held_by(self, pool: PoolKey, address: IPAddress) -> str | None:
        """Tell who else has an address of a pool; see `pools.Others`."""
        network = self._networks.get(pool)
        if network is None:
            return None
        return await self.own(network, address) or await self.holder(network, address)

    async def ask_ahead(self, pool: PoolKey, addresses: Collection[IPAddress]) -> dict[IPAddress, str]:
        """Ask for addresses that will be given; see `pools.Others`."""
        network = self._networks.get(pool)
        link = _asked(network) if network is not None else None
        if link is None or not addresses:
            return {}
        try:
            found = await self._conflicts.ask_ahead(link, addresses)
        except PynetError as error:
            log.debug("cannot ask for addresses ahead of time", error=str(error))
            return {}
        for address in addresses:
            self._note(link, address, address in found)
        return found

    async def holder(self, network: Network, address: IPAddress, *own: str) -> str | None:
        """Tell the MAC of who has an address on a network's LAN, but for those that are `own`."""
        link = _asked(network)
        if link is None:
            return None
        try:
            mac = await self._conflicts.holder(link, address, own)
        except PynetError as error:
            log.info("cannot ask whether an address is in use", address=str(address), error=str(error))
            return None
        self._note(link, address, mac is not None)
        return mac

    def _note(self, link: str, address: IPAddress, is_theirs: bool) -> None:
        """Count an address once for as long as others have it."""
        if is_theirs and (link, address) not in self._theirs:
            self.conflicts += 1
            self._theirs.add((link, address))
        elif not is_theirs:
            self._theirs.discard((link, address))

    def doubting(self, network: Network) -> Network:
        """Mark the gateways that the IPAM driver may have made up: it does not know the address of the LAN's router.

        The engine does not say which these are. Its IPAM and pynet's take the first address of the subnet, or of the
        `--ip-range`, which is a multiple of 4 unless that is a range of less than four addresses. On a bridge the host
        takes the gateway's address itself.
        """
        if _asked(network) is None or network.internal or not backend_named(network.backend).FOLLOWS_HOST:
            return network
        return replace(network, subnets=tuple(replace(one, doubted=_may_be_made_up(one)) for one in network.subnets))

    async def answers(self, network: Network, address: IPAddress) -> bool | None:
        """Tell whether the host or another machine on a network's LAN has an address, None if nobody can be asked."""
        link = _asked(network)
        if link is None or await self._is_local(address):
            return True
        try:
            for _ in range(2):
                # What is remembered may be from before the router was there.
                if await self._conflicts.ask_ahead(link, [address]):
                    return True
        except PynetError as error:
            log.info("cannot ask whether there is a router", address=str(address), error=str(error))
            return None
        return False

    async def own(self, network: Network, address: IPAddress) -> str | None:
        """Return the MAC of the link on which a network stands if the host itself has the address at present."""
        backend = backend_named(network.backend)
        lan = backend.lan(network)
        if lan is not None and not backend.FOLLOWS_HOST:
            # What is known of the link is from before pynet gave it addresses.
            macs = [link.mac for link in network.facts.links if link.name == lan.link]
            return macs[0] if macs and await self._is_local(address) else None
        return next((one.mac for one in network.facts.links if address in {net.ip for net in one.addresses}), None)

    async def refuse_taken_gateways(self, network: Network, plan: Plan) -> None:
        """Refuse a network to come if another machine has a gateway address that the host would take. Raises Conflict.

        Args:
            plan: the network's.
        """
        wanted = {one.address.ip for one in plan.objects if isinstance(one, Address)}
        gateways = [one.gateway for one in network.subnets if one.gateway in wanted]
        macs = await asyncio.gather(*(self.holder(network, one) for one in gateways))
        for gateway, mac in zip(gateways, macs, strict=True):
            if mac is not None:
                raise Conflict(
                    f'gateway {gateway}, which the host would take, is in use on the LAN of "{_asked(network)}" by'
                    f" {mac}; give the host's own address or a free one with --gateway, and containers another way out"
                    f" with --aux-address DefaultGatewayIPv{gateway.version}={gateway}"
                )

    async def refuse_held(self, network: Network, endpoint: Endpoint) -> None:
        """Refuse the addresses of an endpoint to come if this host or another machine has one. Raises Conflict."""
        addresses = list(endpoint.addresses.values())
        for address in addresses:
            if await self.own(network, address) is not None:
                raise Conflict(OWN_ADDRESS.format(address))
        macs = await asyncio.gather(*(self.holder(network, address, endpoint.mac) for address in addresses))
        for address, mac in zip(addresses, macs, strict=True):
            if mac is not None:
                raise Conflict(
                    f'address {address} is in use on the LAN of "{_asked(network)}" by {mac}; choose another, or keep'
                    " containers from it with --aux-address or --ip-range when the network is created"
                )

    async def silent_gateways(self, network: Network) -> tuple[str, list[IPAddress], list[IPAddress]]:
        """Ask a network's LAN for the gateways of its containers, some times within seconds.

        Returns:
            The LAN's link, the gateways for which nobody answered, and those that somebody has; none if nobody can be
            asked.
        """
        link = _asked(network)
        if link is None or network.internal:
            return "", [], []
        skipped = backend_named(network.backend).skipped_gateways(network.options, network.internal)
        ways = [subnet.default_gateway or subnet.gateway for subnet in network.subnets]
        asked = [one for one in ways if one is not None and one.version not in skipped]
        silent = [one for one in asked if not await self._is_local(one)]
        for wait_s in _GATEWAY_WAITS_S if silent else ():
            await asyncio.sleep(wait_s)
            try:
                found = await self._conflicts.ask_ahead(link, silent)
            except PynetError as error:
                log.debug("cannot ask for gateways", link=link, error=str(error))
                return link, [], []
            silent = [one for one in silent if one not in found]
        return link, silent, [one for one in asked if one not in silent]

    def taken_up(self, network: Network, endpoint: Endpoint) -> None:
        """Forget what was known of addresses that a container has now."""
        for address in endpoint.addresses.values():
            self._conflicts.forget(_asked(network) or "", address)

    def announce(self, network: Network, endpoint: Endpoint) -> None:
        """Announce an endpoint's addresses on the LAN: engines before 28 do not, and no engine knows leased ones."""
        lan = backend_named(network.backend).lan(network)
        if lan is not None:
            self._announcer.announce(lan.link, endpoint.mac, endpoint.addresses.values())


def _may_be_made_up(subnet: Subnet) -> bool:
    gateway, pool = subnet.gateway, subnet.pool
    if gateway is None or subnet.default_gateway is not None:
        return False
    return int(gateway) % 4 == 0 or not is_host_address(gateway - 1, pool)


def _asked(network: Network) -> str | None:
    lan = backend_named(network.backend).lan(network)
    return lan.link if lan is not None and lan.asked else None
