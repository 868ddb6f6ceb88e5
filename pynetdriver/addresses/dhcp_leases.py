"""Leases of the LAN's DHCP server: obtained before an endpoint's link is made, kept while it lives, remembered after.

The engine gives every container run a new endpoint, so a server would take each for another machine. A container
therefore takes over a DHCP identity of the network (MAC and client id) that no container has at present, best one of
which the engine said the same. So it gets that one's address, also after a reboot.
"""

from __future__ import annotations

from collections import Counter

import structlog
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.addresses.source import Source
from pynetdriver.errors import Conflict, PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.lan.dhcp import LeaseManager
from pynetdriver.model import DhcpClient, DhcpIdentity, DhcpLease, Endpoint, Network, decode, encode
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry, backend_of
from pynetdriver.store import Change, Store

log = structlog.get_logger()

#: Less than the engine and the server wait, with what else a call takes (see `server.DEADLINE_S`).
_LEASE_S = 10.0
#: So many of a network are remembered, the last ones.
_IDENTITIES = 256
#: What they are called in the store.
_KIND = "tenant"


class DhcpLeases(Source):
    """Keeps leases of endpoints, remembers those of former ones, and readdresses containers whose lease changes."""

    def __init__(
        self, store: Store, registry: Registry, journal: Journal, kernel: Kernel, neighbours: Neighbours
    ) -> None:
        """Know of no identity yet; see `restore`."""
        self._store = store
        self._registry = registry
        self._journal = journal
        self._kernel = kernel
        self._neighbours = neighbours
        self._leases = LeaseManager(self._changed)
        #: Addresses that containers have still, since giving them those of their new leases failed.
        self._outdated: dict[str, IPNetwork] = {}
        #: By network and client id; who was seen last comes last.
        self._identities: dict[str, dict[str, DhcpIdentity]] = {}
        #: Endpoints by the key of the identity that they have.
        self._present: dict[str, str] = {}
        #: How kept leases went on: renewed, or had again after they were lost; lost.
        self.renewals: Counter[str] = Counter(renewed=0, lost=0)

    def restore(self) -> None:
        """Take up the stored identities. Raises PynetError."""
        for one in (decode(data, DhcpIdentity) for data in self._store.load(_KIND).values()):
            self._identities.setdefault(one.network_id, {})[one.client_id] = one

    async def obtain(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Get an address for an endpoint to come; returns it with that and what the server takes it for.

        Raises:
            PynetError: there is no server, or none that gives an address.
        """

        async def taken(address: IPAddress) -> str | None:
            other = self._registry.endpoint_at(network.id, address)
            if other is not None and other != endpoint.id:
                return self._registry.endpoints[other].mac
            own = await self._neighbours.own(network, address)
            return own or await self._neighbours.holder(network, address, endpoint.mac)

        given = bool(endpoint.client_id)
        former = self._absent(endpoint)
        if former is not None:
            mac = endpoint.mac if endpoint.mac_given else former.mac
            endpoint = replace(endpoint, mac=mac, client_id=former.client_id)
        client = _client_of(network, endpoint)
        endpoint = replace(endpoint, client_id=client.client_id.hex())
        key = _key(endpoint)
        if key in self._present:
            raise Conflict(f"another container of the network has MAC {endpoint.mac}; choose another --mac-address")
        self._present[key] = endpoint.id
        try:
            lease = await self._leases.acquire(client, former.lease if former else None, taken, _LEASE_S)
            try:
                self._remember(endpoint, lease, given=given)
            except BaseException:
                self._leases.give_back(client, lease)
                raise
        except BaseException:
            del self._present[key]
            raise
        return replace(endpoint, address4=lease.address, lease=lease)

    def is_settled(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint to come says who it is, or an absent identity has its traits."""
        former = self._absent(endpoint)
        return bool(endpoint.client_id) or (former is not None and former.traits == endpoint.traits)

    def predecessor(self, endpoint: Endpoint) -> str | None:
        """Name the endpoint that has the identity which another one asks for."""
        return self._present.get(_key(endpoint)) if endpoint.client_id else None

    def keep(self, endpoint: Endpoint) -> None:
        """Renew an endpoint's lease from now on, if it has one."""
        if endpoint.lease is not None:
            self._present[_key(endpoint)] = endpoint.id
            client = _client_of(self._registry.networks[endpoint.network_id], endpoint)
            self._leases.keep(endpoint.id, client, endpoint.lease)

    def take_up(self) -> None:
        """Go on renewing the leases of endpoints that an earlier process made."""
        for endpoint in self._registry.endpoints.values():
            if endpoint.phase == "ready":
                self.keep(endpoint)

    def release(self, endpoint: Endpoint, *, is_free: bool) -> None:
        """Renew no more; give the address back to the server if `is_free`, else leave it to the next container."""
        self._outdated.pop(endpoint.id, None)
        if endpoint.lease is None or self._present.pop(_key(endpoint), None) is None:
            return
        self._leases.forget(endpoint.id)
        identity = self._identity(endpoint)
        if is_free and identity is not None:
            client = _client_of(self._registry.networks[endpoint.network_id], endpoint)
            self._leases.give_back(client, identity.lease)
            self._renewed(endpoint, replace(identity.lease, lease_s=0))

    def _identity(self, endpoint: Endpoint) -> DhcpIdentity | None:
        return self._identities.get(endpoint.network_id, {}).get(endpoint.client_id)

    def _renewed(self, endpoint: Endpoint, lease: DhcpLease) -> None:
        """Remember what the server said last."""
        identity = self._identity(endpoint)
        try:
            self._remember(endpoint, lease, given=identity is not None and identity.given)
        except PynetError as error:
            log.error("could not note a DHCP lease", endpoint=endpoint.id[:12], error=str(error))

    def forget_network(self, network_id: str) -> None:
        """Forget the identities of a network."""
        identities = self._identities.pop(network_id, {})
        if identities:
            self._store.write(*(Change(_KIND, f"{network_id} {client_id}", None) for client_id in identities))

    async def close(self) -> None:
        """Renew nothing more: containers keep their addresses, and the next daemon renews them."""
        await self._leases.close()

    def _absent(self, endpoint: Endpoint) -> DhcpIdentity | None:
        """Find the identity that an endpoint is to have: the one that it names, or the last absent one of its traits.

        If there is none of its traits, the last absent one: the container may have got other ports.
        """
        if endpoint.client_id:
            return self._identity(endpoint)
        absent = [
            one
            for one in self._identities.get(endpoint.network_id, {}).values()
            if f"{one.network_id} {one.client_id}" not in self._present and not one.given
        ]
        return max(absent, key=lambda one: (one.traits == endpoint.traits, absent.index(one)), default=None)

    def _remember(self, endpoint: Endpoint, lease: DhcpLease, *, given: bool) -> None:
        network_id, client_id = endpoint.network_id, endpoint.client_id
        identity = DhcpIdentity(
            network_id=network_id,
            mac=endpoint.mac,
            client_id=client_id,
            lease=lease,
            given=given,
            traits=endpoint.traits,
        )
        identities = self._identities.setdefault(network_id, {})
        absent = [one for one in identities if one != client_id and f"{network_id} {one}" not in self._present]
        forgotten = absent[: max(0, len(identities) - _IDENTITIES)]
        self._store.write(
            Change(_KIND, _key(endpoint), encode(identity)),
            *(Change(_KIND, f"{network_id} {one}", None) for one in forgotten),
        )
        for one in (client_id, *forgotten):
            identities.pop(one, None)
        identities[client_id] = identity

    async def _changed(self, endpoint_id: str, lease: DhcpLease | None) -> None:
        """Follow what the DHCP server said: take a lost address from its container, or give it another one."""
        self.renewals["lost" if lease is None else "renewed"] += 1
        async with self._registry.lock(endpoint_id):
            former = self._registry.endpoints.get(endpoint_id)
            if former is None or former.phase != "ready" or former.lease is None or former.address4 is None:
                return
            has_lost = former.lease.lease_s == 0
            if lease is None:
                log.error(
                    "DHCP lease is lost, its container has no address until there is another",
                    endpoint=endpoint_id[:12],
                    address=str(former.address4.ip),
                )
                endpoint = replace(former, lease=replace(former.lease, gateway=None, routes=(), lease_s=0))
            else:
                self._renewed(former, lease)
                endpoint = replace(former, address4=lease.address, lease=lease)
            await self._journal.update(
                former, self._registry.endpoint_plan(former), endpoint, self._registry.endpoint_plan(endpoint)
            )
            self._registry.know(endpoint)
            inside = self._registry.sandbox_interface(endpoint)
            # As text, since networks of one subnet are equal whatever their own addresses are.
            differs = (
                has_lost
                or endpoint_id in self._outdated
                or str(inside) != str(self._registry.sandbox_interface(former))
            )
            if former.sandbox is not None and differs:
                gone = self._outdated.setdefault(endpoint_id, former.address4)
                await self._kernel.readdress(self._registry.endpoint_plan(former), former.sandbox, gone, inside)
                del self._outdated[endpoint_id]
                if lease is not None:
                    self._neighbours.announce(self._registry.networks[endpoint.network_id], endpoint)
                    log.warning(
                        "container has what a new DHCP lease says; the engine goes on showing what it had first",
                        endpoint=endpoint_id[:12],
                        address=str(lease.address.ip),
                    )


def _client_of(network: Network, endpoint: Endpoint) -> DhcpClient:
    client = backend_of(network).dhcp_client(network, endpoint)
    assert client is not None, "asked for endpoints of networks with DHCP alone"
    return client


def _key(endpoint: Endpoint) -> str:
    return f"{endpoint.network_id} {endpoint.client_id}"
