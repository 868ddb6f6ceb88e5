"""Leases of the LAN's DHCP server: obtained before an endpoint's link is made, kept while it lives, remembered after.

The engine gives every container run a new endpoint, so a server would take each for another machine. A container
is therefore taken for one of the network's tenants of before that is not there now: with its MAC or client id it gets
that one's address, also after a reboot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace
from netaddr import IPAddress

from pynetdriver.errors import Conflict, PynetError
from pynetdriver.lan.dhcp import DhcpClient
from pynetdriver.model import DhcpLease, Endpoint, Station, Tenant, decode, encode
from pynetdriver.store import Change, Store

log = structlog.get_logger()

#: Less than the engine and the server wait, with what else a call takes (see `server.DEADLINE_S`).
_LEASE_S = 10.0
#: Of so many of a network the last ones are remembered.
_TENANTS = 256

StationOf = Callable[[Endpoint], Station]
Changed = Callable[[str, DhcpLease | None], Awaitable[None]]
Taken = Callable[[IPAddress], Awaitable[str | None]]


class Leasing:
    """Who has which lease, and who had it before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = DhcpClient(self._told)
        self._changed: Changed | None = None
        #: By network and client id; who was seen last comes last.
        self._tenants: dict[str, dict[str, Tenant]] = {}
        for one in (decode(data, Tenant) for data in store.load("tenant").values()):
            self._tenants.setdefault(one.network_id, {})[one.client_id] = one
        #: Endpoints by the key of the tenant that they are.
        self._present: dict[str, str] = {}
        #: How kept leases went on: renewed, or had again after they were lost; lost.
        self.renewals: Counter[str] = Counter(renewed=0, lost=0)

    def tell(self, changed: Changed) -> None:
        """Say whom to tell of an endpoint's lease that changed or, as None, was lost."""
        self._changed = changed

    async def obtain(self, endpoint: Endpoint, station_of: StationOf, taken: Taken | None) -> Endpoint:
        """Get an address for an endpoint to come; returns it with that and what the server takes it for.

        Args:
            taken: tells who has an address already.

        Raises:
            PynetError: there is no server, or none that gives an address.
        """
        given = bool(endpoint.client_id)
        former = self._absent(endpoint)
        if former is not None:
            mac = endpoint.mac if endpoint.mac_given else former.mac
            endpoint = replace(endpoint, mac=mac, client_id=former.client_id)
        station = station_of(endpoint)
        endpoint = replace(endpoint, client_id=station.client_id.hex())
        key = _key(endpoint)
        if key in self._present:
            raise Conflict(f"another container of the network has MAC {endpoint.mac}; choose another --mac-address")
        self._present[key] = endpoint.id
        try:
            lease = await self._client.acquire(station, former.lease if former else None, taken, _LEASE_S)
            try:
                self._remember(endpoint, lease, given=given)
            except BaseException:
                self._client.give_back(station, lease)
                raise
        except BaseException:
            del self._present[key]
            raise
        return replace(endpoint, address4=lease.address, lease=lease)

    def holder(self, endpoint: Endpoint) -> str | None:
        """Name the endpoint that is taken for what another one says it is."""
        return self._present.get(_key(endpoint)) if endpoint.client_id else None

    def keep(self, endpoint: Endpoint, station: Station) -> None:
        """Renew an endpoint's lease from now on."""
        if endpoint.lease is not None:
            self._present[_key(endpoint)] = endpoint.id
            self._client.keep(endpoint.id, station, endpoint.lease)

    def end(self, endpoint: Endpoint, station: Station, *, release: bool) -> None:
        """Renew no more, and tell the server if the address is to be free; else the next container finds it its own."""
        if endpoint.lease is None or self._present.pop(_key(endpoint), None) is None:
            return
        self._client.forget(endpoint.id)
        tenant = self._tenant(endpoint)
        if release and tenant is not None:
            self._client.give_back(station, tenant.lease)
            self.renewed(endpoint, replace(tenant.lease, lease_s=0))

    def _tenant(self, endpoint: Endpoint) -> Tenant | None:
        return self._tenants.get(endpoint.network_id, {}).get(endpoint.client_id)

    def renewed(self, endpoint: Endpoint, lease: DhcpLease) -> None:
        """Remember what the server said last."""
        tenant = self._tenant(endpoint)
        try:
            self._remember(endpoint, lease, given=tenant is not None and tenant.given)
        except PynetError as error:
            log.error("could not note a DHCP lease", endpoint=endpoint.id[:12], error=str(error))

    def forget_network(self, network_id: str) -> None:
        """Forget who was on a network."""
        tenants = self._tenants.pop(network_id, {})
        if tenants:
            self._store.write(*(Change("tenant", f"{network_id} {client_id}", None) for client_id in tenants))

    async def close(self) -> None:
        """Renew nothing more: the containers live on, and the next daemon goes on."""
        await self._client.close()

    def _absent(self, endpoint: Endpoint) -> Tenant | None:
        """Find the tenant that an endpoint is to be: the one that it says it is, or the last that is not there."""
        if endpoint.client_id:
            return self._tenant(endpoint)
        for one in reversed(self._tenants.get(endpoint.network_id, {}).values()):
            if f"{one.network_id} {one.client_id}" not in self._present and not one.given:
                return one
        return None

    def _remember(self, endpoint: Endpoint, lease: DhcpLease, *, given: bool) -> None:
        network_id, client_id = endpoint.network_id, endpoint.client_id
        tenant = Tenant(network_id=network_id, mac=endpoint.mac, client_id=client_id, lease=lease, given=given)
        tenants = self._tenants.setdefault(network_id, {})
        absent = [one for one in tenants if one != client_id and f"{network_id} {one}" not in self._present]
        forgotten = absent[: max(0, len(tenants) - _TENANTS)]
        self._store.write(
            Change("tenant", _key(endpoint), encode(tenant)),
            *(Change("tenant", f"{network_id} {one}", None) for one in forgotten),
        )
        for one in (client_id, *forgotten):
            tenants.pop(one, None)
        tenants[client_id] = tenant

    async def _told(self, endpoint_id: str, lease: DhcpLease | None) -> None:
        self.renewals["lost" if lease is None else "renewed"] += 1
        if self._changed is not None:
            await self._changed(endpoint_id, lease)


def _key(endpoint: Endpoint) -> str:
    return f"{endpoint.network_id} {endpoint.client_id}"
