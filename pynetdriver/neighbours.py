"""Other machines on the LANs of networks, which may have an address that a container is about to get."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog
from netaddr import IPAddress

from pynetdriver.backends import backend_named
from pynetdriver.errors import Conflict, PynetError
from pynetdriver.ipam import PoolKey
from pynetdriver.lan.announce import Announcer
from pynetdriver.lan.conflicts import Conflicts
from pynetdriver.model import Endpoint, Network

log = structlog.get_logger()


class Neighbours:
    """Knows which pools are on a LAN, and asks there. A LAN that cannot be asked has no neighbours."""

    def __init__(self, conflicts: Conflicts) -> None:
        self._conflicts = conflicts
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
        """The pools that are on a LAN; see `ipam.Others`."""
        return self._networks.keys()

    async def held_by(self, pool: PoolKey, address: IPAddress) -> str | None:
        """Tell who else has an address of a pool; see `ipam.Others`."""
        network = self._networks.get(pool)
        if network is None:
            return None
        own = (link.mac for link in network.facts.links if address in {one.ip for one in link.addresses})
        return next(own, None) or await self.holder(network, address)

    async def ask_ahead(self, pool: PoolKey, addresses: Collection[IPAddress]) -> dict[IPAddress, str]:
        """Ask for addresses that will be given; see `ipam.Others`."""
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

    async def refuse_held(self, network: Network, endpoint: Endpoint) -> None:
        """Refuse the addresses of an endpoint to come if another machine has one. Raises Conflict."""
        addresses = list(endpoint.addresses.values())
        macs = await asyncio.gather(*(self.holder(network, address, endpoint.mac) for address in addresses))
        for address, mac in zip(addresses, macs, strict=True):
            if mac is not None:
                raise Conflict(
                    f'address {address} is in use on the LAN of "{_asked(network)}" by {mac}; choose another, or keep'
                    " containers from it with --aux-address or --ip-range when the network is created"
                )

    def taken_up(self, network: Network, endpoint: Endpoint) -> None:
        """Take note that addresses are a container's by now: what was known of them before is void."""
        for address in endpoint.addresses.values():
            self._conflicts.forget(_asked(network) or "", address)

    def announce(self, network: Network, endpoint: Endpoint) -> None:
        """Tell the LAN whose addresses are: engines before 28 do not, none does of leased ones, and caches are long."""
        lan = backend_named(network.backend).lan(network)
        if lan is not None:
            self._announcer.announce(lan.link, endpoint.mac, endpoint.addresses.values())


def _asked(network: Network) -> str | None:
    lan = backend_named(network.backend).lan(network)
    return lan.link if lan is not None and lan.asked else None
