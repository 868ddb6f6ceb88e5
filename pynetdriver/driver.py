"""NetworkDriver: what the engine asks for networks and endpoints, in the order in which things must happen.

Checks and marks in memory come before the first `await`, so parallel calls see each other; a lock per id
is for the same call arriving twice.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from itertools import product
from math import inf
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import messages as wire
from pynetdriver.admission import requested_endpoint, requested_network, requested_options
from pynetdriver.backends import Backend, backend_named, interior
from pynetdriver.errors import Conflict, Exhausted, InvalidRequest, NetworkInTheWay, PynetError
from pynetdriver.firewall.engine import EngineChains
from pynetdriver.journal import Journal
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts, PortTaken
from pynetdriver.leasing import Leasing
from pynetdriver.locks import Locks
from pynetdriver.model import DhcpLease, Endpoint, Facts, Network, PortMapping, Station, Subnet
from pynetdriver.names import PREFIX_LENGTH
from pynetdriver.neighbours import Neighbours
from pynetdriver.plan import Interior, Plan, Segment
from pynetdriver.pool import last_free, overlap
from pynetdriver.portmap import PortRequest, port_requests, split_opened, split_satisfied

log = structlog.get_logger()

T = TypeVar("T")

Reserve = Callable[[str, IPNetwork, IPAddress | None, Iterable[IPAddress]], IPAddress | None]

#: The engine joins an endpoint at once after it made it, and deletes it at once after it left.
FORGOTTEN_S = 300
#: It moves the link into the sandbox at once after Join, or, up to engine 27, when the container's task is there.
MOVING_S = 60
DYING_S = 10
#: Links on which networks stand are looked at as endpoints come, but not for each of many.
FOLLOW_S = 1.0
#: So many addresses of a subnet are tried for the host.
HOST_ADDRESSES = 16


class NetworkDriver:
    """Networks and endpoints, all in memory, all in the journal first."""

    def __init__(
        self,
        journal: Journal,
        kernel: Kernel,
        ports: HostPorts,
        chains: EngineChains,
        neighbours: Neighbours,
        leasing: Leasing,
        reserve: Reserve,
    ) -> None:
        """Begin with nothing; see `restore`.

        Args:
            reserve: holds an address of one of pynet's own pools, given by address space and subnet: the named one,
                or the last that is free and not among others; answers None for a pool that is not pynet's.
        """
        self._neighbours = neighbours
        self._leasing = leasing
        leasing.tell(self._lease_changed)
        self._reserve = reserve
        self._journal = journal
        self._kernel = kernel
        self._ports = ports
        self._chains = chains
        self._lock = Locks()
        self.networks: dict[str, Network] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self._prefixes: set[str] = set()
        #: Networks that are not on the host as they should be; they are tried again before anything joins them.
        self.unsound: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unmentioned: set[str] = set()
        self._engine_since = -inf
        self._joined: dict[str, float] = {}
        self._adrift: dict[str, float] = {}
        self._followed: dict[str, float] = {}
        #: Addresses that containers have still, since giving them those of their new leases failed.
        self._outdated: dict[str, IPNetwork] = {}
        #: Endpoints by the LAN and address that they have there, over all networks.
        self._by_lan: dict[tuple[str, IPAddress], str] = {}

    # Networks

    async def create_network(self, request: wire.CreateNetworkRequest) -> wire.Empty:
        """Make a network; the same request again is answered again."""
        network = requested_network(request)
        backend = backend_named(network.backend)
        async with self._lock(network.id):
            known = self.networks.get(network.id)
            if known is not None:
                if _as_requested(known) != _as_requested(network):
                    raise Conflict(f"network {network.id[:12]} exists already, made differently or being removed")
                self._unmentioned.discard(network.id)
                return wire.Empty()
            while True:
                before = set(self.networks)
                network = replace(network, facts=await self._facts(network))
                await self._make_room(network)
                if before.issubset(self.networks):
                    break  # else what was seen of the host may be what a network did that went meanwhile
            self.networks[network.id] = replace(network, phase="creating")
            try:
                network = await self._with_host_addresses(network)
                plan = backend.network_plan(network)
                self.networks[network.id] = replace(network, phase="creating")
                if plan.trial:
                    await self._kernel.netlink.try_upper(plan.trial)
                await self._journal.create(network, plan)
                try:
                    await self.allow_forwarding()
                except BaseException:
                    # What of it is in DOCKER-USER already, the monitor removes.
                    await asyncio.shield(asyncio.ensure_future(self._journal.delete(network, plan)))
                    raise
            except BaseException:
                del self.networks[network.id]
                raise
            self.networks[network.id] = network
            self._neighbours.know(network)
        return wire.Empty()

    async def delete_network(self, request: wire.NetworkRequest) -> wire.Empty:
        """Remove a network and what the engine forgot to remove of it; an unknown one is gone already."""
        await self._to_the_end(self._delete_network(request.network_id))
        return wire.Empty()

    async def check_gateways(self, request: wire.GwAllocCheckRequest) -> wire.GwAllocCheckResponse:
        """Tell which families of a network to come need no gateway address."""
        name, given = requested_options(request.options)
        internal = request.options is not None and request.options.internal
        skipped = backend_named(name).skipped_gateways(given, internal)
        return wire.GwAllocCheckResponse(skip_ipv4=4 in skipped, skip_ipv6=6 in skipped)

    # Endpoints

    async def create_endpoint(self, request: wire.CreateEndpointRequest) -> wire.CreateEndpointResponse:
        """Make an endpoint's link; answers the MAC if the engine left it open."""
        network = self._network(request.network_id)
        if time.monotonic() - self._followed.get(network.id, -FOLLOW_S) >= FOLLOW_S:
            network = await self._follow_host(network)
        endpoint = requested_endpoint(request, network)
        async with self._lock(endpoint.id):
            known = self.endpoints.get(endpoint.id)
            if known is not None:
                if _endpoint_as_requested(known) != _endpoint_as_requested(endpoint):
                    raise Conflict(f"endpoint {endpoint.id[:12]} exists already, made differently or being removed")
                return _endpoint_answer(known)
            if endpoint.id[:PREFIX_LENGTH] in self._prefixes:
                raise Conflict(f"endpoint {endpoint.id[:12]} has the link name of another; start the container again")
            for address in endpoint.addresses.values():
                await self._collect_if_dead(self._by_lan.get((self._lan(network.id), address)))
            for address in endpoint.addresses.values():
                holder = self._by_lan.get((self._lan(network.id), address))
                if holder is not None:
                    where = self.endpoints[holder].network_id
                    which = "the same network" if where == network.id else f"network {where[:12]}"
                    raise Conflict(f"address {address} is in use by endpoint {holder[:12]} of {which}")
            self._network(network.id)
            self._know(replace(endpoint, phase="creating"))
            try:
                if self._backend(network).station(network, endpoint) is None:
                    await self._neighbours.refuse_held(network, endpoint)
                else:
                    endpoint = await self._leased(network, endpoint)
                around = self.network_plan(network)
                if network.id in self.unsound or self._kernel.netlink.is_missing(around.links):
                    await self._kernel.apply_objects(around)
                    # Not waited for: who removes the network has its lock, and waits for this endpoint's.
                    self._in_background(self._repair(network.id, set()))
                await self._journal.create(endpoint, self.endpoint_plan(endpoint))
            except BaseException:
                self._end_lease(endpoint, release=True)
                self._forget(endpoint)
                raise
            self._know(endpoint)
            self._keep_lease(endpoint)
            self._neighbours.taken_up(network, endpoint)
        return _endpoint_answer(endpoint)

    async def delete_endpoint(self, request: wire.EndpointRequest) -> wire.Empty:
        """Remove an endpoint; an unknown one is gone already."""
        await self._to_the_end(self._delete_endpoint(request.endpoint_id, release=True))
        return wire.Empty()

    async def oper_info(self, request: wire.EndpointRequest) -> wire.OperInfoResponse:
        """Answer at once, whatever is asked: up to engine 27 an error here fails a container's start."""
        return wire.OperInfoResponse()

    async def join(self, request: wire.JoinRequest) -> wire.JoinResponse:
        """Name the link to move into the sandbox, made again if it was lost since."""
        async with self._lock(request.endpoint_id):
            endpoint = self._endpoint(request)
            if endpoint.sandbox not in (None, request.sandbox_key):
                raise Conflict(f"endpoint {endpoint.id[:12]} is joined to another sandbox; leave that first")
            network = self._network(endpoint.network_id)
            plan = self.endpoint_plan(endpoint)
            if self._kernel.netlink.is_missing([*plan.anchors, *(() if endpoint.sandbox else plan.moving)]):
                await self._kernel.apply_objects(plan)
            if endpoint.sandbox is None:
                endpoint = replace(endpoint, sandbox=request.sandbox_key)
                self._journal.write(endpoint)
                self._know(endpoint)
                self._joined[endpoint.id] = time.monotonic()
                self._neighbours.announce(network, endpoint)
        attachment = backend_named(network.backend).attachment(network, endpoint)
        return wire.JoinResponse(
            interface_name=wire.InterfaceName(attachment.link, attachment.prefix, endpoint.ifname or ""),
            gateway=str(attachment.gateway4 or ""),
            gateway_ipv6=str(attachment.gateway6 or ""),
            static_routes=list(attachment.routes),
            # Without it the engine would add a second interface on a bridge of its own.
            disable_gateway_service=not (attachment.gateway4 or attachment.gateway6),
        )

    async def leave(self, request: wire.EndpointRequest) -> wire.Empty:
        """Forget the sandbox and unpublish; the link is still inside and goes with DeleteEndpoint."""
        async with self._lock(request.endpoint_id):
            endpoint = self.endpoints.get(request.endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and (endpoint.sandbox or endpoint.ports):
                await self._set_ports(endpoint, replace(endpoint, sandbox=None, ports=()))
        return wire.Empty()

    async def program(self, request: wire.ProgramRequest) -> wire.Empty:
        """Publish the container's ports here, in place of what was published before."""
        async with self._lock(request.endpoint_id):
            endpoint = self._endpoint(request)
            network = self._network(endpoint.network_id)
            if network.internal:
                return wire.Empty()
            if endpoint.sandbox is None:
                raise Conflict(f"endpoint {endpoint.id[:12]} has not joined a sandbox; nothing can be published there")
            options = request.options or wire.ProgramOptions()
            publishing = self._backend(network).publishing(network)
            if publishing is None:
                if options.port_map:
                    log.warning(
                        "ports of this network are reached at the container's own address, not at the host's",
                        endpoint=endpoint.id[:12],
                    )
                return wire.Empty()
            opened, bindings, holding = split_opened(options.port_map or [], endpoint, publishing.untranslated)
            # An IPv6 address that is open by itself is not to be reached by way of IPv4.
            six_to_four = not options.no_proxy_6to4 and holding.address6 == endpoint.address6
            requests = port_requests(bindings, holding, publishing.addresses, six_to_four=six_to_four)
            kept, wanted = split_satisfied(requests, endpoint.ports)
            given_up = set(endpoint.ports).difference(kept)
            self._ports.release(endpoint.id, given_up)
            new: tuple[PortMapping, ...] = ()
            try:
                new = await self._hold(endpoint, wanted, publishing.apart)
                await self._set_ports(endpoint, replace(endpoint, ports=(*opened, *kept, *new)))
            except BaseException:
                self._ports.release(endpoint.id, new)
                self._ports.adopt(endpoint, given_up, publishing.apart)
                raise
        return wire.Empty()

    async def revoke(self, request: wire.EndpointRequest) -> wire.Empty:
        """Unpublish; nothing published or an unknown endpoint is fine."""
        async with self._lock(request.endpoint_id):
            endpoint = self.endpoints.get(request.endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and endpoint.ports:
                await self._set_ports(endpoint, replace(endpoint, ports=()))
        return wire.Empty()

    # What the host knows and the engine does not say

    def engine_started(self) -> None:
        """Note that an engine introduced itself: sandboxes of one before it may be dead or dying."""
        self._engine_since = time.monotonic()

    async def collect_dead(self) -> None:
        """Remove endpoints that the engine will not mention again.

        Those are the ones whose link went with its sandbox, and those that are in no sandbox long after the
        engine would have put them there or deleted them.
        """
        now, plans = time.monotonic(), {}
        for number, endpoint in enumerate(list(self.endpoints.values())):
            if endpoint.phase == "ready" and endpoint.network_id in self.networks:
                plans[endpoint.id] = self.endpoint_plan(endpoint)
            if number % 100 == 99:
                await asyncio.sleep(0)  # let calls go first
        there = await self._kernel.links_of_plans(plans.values())
        adrift: dict[str, float] = {}
        for number, (id, plan) in enumerate(plans.items()):
            if id not in self.endpoints or self.endpoints[id].phase != "ready":
                continue
            endpoint = self.endpoints[id]
            if endpoint.sandbox is None or not there.here.isdisjoint(plan.moving):
                adrift[id] = self._adrift.get(id, now)
            forgotten = now - adrift.get(id, now) > FORGOTTEN_S
            # A link that went with the one that it stood on is made again when that is back.
            gone = forgotten or not (there.has(plan) or self._kernel.netlink.is_missing(plan.lowers))
            if gone and not forgotten and plan.lowers:
                gone = not await self.is_revived(endpoint, plan)
            if gone and self.endpoints.get(id) is endpoint:
                log.info("endpoint is gone, removing what is left", endpoint=id[:12])
                await self._delete_endpoint(id)
            if number % 100 == 99:
                await asyncio.sleep(0)
        self._adrift = adrift

    async def repair(self, owners: Iterable[str], *, switches: bool = False) -> set[str]:
        """Apply again what owners want, a network before its endpoints; returns whose is right now.

        Args:
            switches: turn those of the host as well that somebody may have turned on purpose.
        """
        damaged: dict[str, set[str]] = {}
        for kind, _, id in (owner.partition(":") for owner in owners):
            endpoint = self.endpoints.get(id) if kind == "endpoint" else None
            if endpoint is not None:
                damaged.setdefault(endpoint.network_id, set()).add(id)
            elif kind == "network":
                damaged.setdefault(id, set())
        return set().union(*await asyncio.gather(*(self._repair(*one, switches) for one in damaged.items())))

    def owns(self, owner: str) -> bool:
        """Tell whether a plan's owner is known still."""
        id = owner.partition(":")[2]
        return id in self.networks or id in self.endpoints

    async def _repair(self, network_id: str, endpoint_ids: set[str], switches: bool = False) -> set[str]:
        """Mend a network, also if only ports are to be mended: they go nowhere but to a bridge that it may use."""
        repaired: set[str] = set()
        if network_id in self.unsound:
            endpoint_ids = {one.id for one in self.endpoints.values() if one.network_id == network_id}
        lost = await self._lost(endpoint_ids)
        for id in (network_id, *endpoint_ids):
            # What is being made or removed is not to be waited for.
            if not self._is_whole(network_id, id):
                continue
            async with self._lock(id):
                if not self._is_whole(network_id, id):
                    continue
                network = self.networks[network_id]
                if id == network_id:
                    network = await self._follow_host(network)
                plan = self.network_plan(network) if id == network_id else self.endpoint_plan(self.endpoints[id])
                try:
                    if not await self._kernel.stands(plan):
                        return repaired  # others have to make it again, or to bring it up
                    if not self._kernel.netlink.is_missing(plan.anchors):
                        if plan.foreign or switches:
                            self._journal.use_settings(plan)
                        await self._kernel.mend(plan)
                        if id in lost:
                            await self._rebuild(self.endpoints[id], plan)
                        repaired.add(plan.owner)
                        self.unsound.discard(id)
                except PynetError as error:
                    # A link that is going at this moment is told of once it is gone.
                    is_going = getattr(error.__cause__, "code", None) == errno.ENODEV
                    if not is_going and not self._kernel.netlink.is_missing(plan.anchors):
                        log.error("cannot mend", owner=plan.owner, error=str(error))
                    if id == network_id:
                        self.unsound.add(id)
                        return repaired
        return repaired

    async def _lost(self, endpoint_ids: Iterable[str]) -> set[str]:
        """Tell which endpoints' links are nowhere, as far as one look shows."""
        plans = {id: self.endpoint_plan(self.endpoints[id]) for id in endpoint_ids if id in self.endpoints}
        there = await self._kernel.links_of_plans(plans.values())
        return {id for id, plan in plans.items() if plan.lowers and not there.has(plan)}

    async def _rebuild(self, endpoint: Endpoint, plan: Plan) -> bool:
        """Make a link again that is nowhere, in the container that had it; tells whether it is there."""
        if (await self._kernel.links_of_plans([plan])).has(plan):
            return True
        if endpoint.sandbox is None or self._kernel.netlink.is_missing(plan.lowers):
            return False
        await self._kernel.rebuild(plan, endpoint.sandbox, self._interior(endpoint))
        return True

    async def is_revived(self, endpoint: Endpoint, plan: Plan) -> bool:
        """Tell whether a link is there after all or could be made again, what it stood on being back just now."""
        async with self._lock(endpoint.id):
            if self.endpoints.get(endpoint.id) is not endpoint:
                return True  # others see to it
            with suppress(PynetError):
                return await self._rebuild(endpoint, plan)
            return False

    def _is_whole(self, network_id: str, id: str) -> bool:
        records = (self.networks.get(network_id), self.networks.get(id) or self.endpoints.get(id))
        return all(one is not None and one.phase == "ready" for one in records)

    async def finish_removals(self) -> None:
        """Try again what could not be removed; host ports of endpoints are free only then."""
        for record in await self._journal.retry():
            if isinstance(record, Endpoint):
                self._ports.release(record.id, record.ports)

    async def still_held(self, pool: IPNetwork, address: IPAddress) -> bool:
        """Tell whether an address of a network is in use; one of a pool that is not a network's counts as used."""
        for network in self.networks.values():
            for subnet in network.subnets:
                if subnet.pool == pool:
                    if address in (subnet.gateway, subnet.host) or address in subnet.aux:
                        return True
                    holder = self.endpoints.get(self._by_lan.get((self._lan(network.id), address), ""))
                    if holder is None:
                        return False
                    leaving = holder.phase == "deleting" or await self._is_dead(holder)
                    return not leaving or not await self._collect_if_dead(holder.id)
        return True

    async def _leased(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Get an endpoint's address from the LAN's DHCP server. Raises PynetError."""
        await self._collect_if_dead(self._leasing.holder(endpoint))

        async def taken(address: IPAddress) -> str | None:
            holder = self._by_lan.get((self._lan(network.id), address))
            if holder is not None and holder != endpoint.id:
                return self.endpoints[holder].mac
            own = (link.mac for link in network.facts.links if address in {one.ip for one in link.addresses})
            return next(own, None) or await self._neighbours.holder(network, address, endpoint.mac)

        endpoint = await self._leasing.obtain(endpoint, self._station, taken)
        self._know(replace(endpoint, phase="creating"))
        return endpoint

    def _station(self, endpoint: Endpoint) -> Station:
        network = self.networks[endpoint.network_id]
        station = self._backend(network).station(network, endpoint)
        assert station is not None, "asked for endpoints of networks with DHCP alone"
        return station

    def _keep_lease(self, endpoint: Endpoint) -> None:
        if endpoint.lease is not None:
            self._leasing.keep(endpoint, self._station(endpoint))

    def _end_lease(self, endpoint: Endpoint, *, release: bool) -> None:
        if endpoint.lease is not None:
            self._leasing.end(endpoint, self._station(endpoint), release=release)

    def keep_leases(self) -> None:
        """Go on renewing the leases of endpoints that an earlier process made."""
        for endpoint in self.endpoints.values():
            if endpoint.phase == "ready":
                self._keep_lease(endpoint)

    async def _lease_changed(self, endpoint_id: str, lease: DhcpLease | None) -> None:
        """Follow what the DHCP server said: a container whose address is lost loses it, another one it gets."""
        async with self._lock(endpoint_id):
            former = self.endpoints.get(endpoint_id)
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
                self._leasing.renewed(former, lease)
                endpoint = replace(former, address4=lease.address, lease=lease)
            await self._journal.update(former, self.endpoint_plan(former), endpoint, self.endpoint_plan(endpoint))
            self._forget_addresses(former)
            self._know(endpoint)
            inside = self._interior(endpoint)
            # As text, since networks of one subnet are equal whatever their own addresses are.
            differs = has_lost or endpoint_id in self._outdated or str(inside) != str(self._interior(former))
            if former.sandbox is not None and differs:
                gone = self._outdated.setdefault(endpoint_id, former.address4)
                await self._kernel.readdress(self.endpoint_plan(former), former.sandbox, gone, inside)
                del self._outdated[endpoint_id]
                if lease is not None:
                    self._neighbours.announce(self.networks[endpoint.network_id], endpoint)
                    log.warning(
                        "container has what a new DHCP lease says; the engine goes on showing what it had first",
                        endpoint=endpoint_id[:12],
                        address=str(lease.address.ip),
                    )

    def _interior(self, endpoint: Endpoint) -> Interior:
        network = self.networks[endpoint.network_id]
        return interior(self._backend(network).attachment(network, endpoint), endpoint)

    def network_plan(self, network: Network) -> Plan:
        """Tell what a network wants."""
        return self._backend(network).network_plan(network)

    def endpoint_plan(self, endpoint: Endpoint) -> Plan:
        """Tell what an endpoint wants."""
        network = self.networks[endpoint.network_id]
        return self._backend(network).endpoint_plan(network, endpoint)

    def restore(self, networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> None:
        """Take up networks and endpoints of an earlier process."""
        self.networks = {one.id: one for one in networks}
        for network in self.networks.values():
            self._neighbours.know(network)
        self._unmentioned = set(self.networks)
        for endpoint in endpoints:
            self._know(endpoint)

    def drop(self, record: Network | Endpoint) -> None:
        """Forget what is being removed by others."""
        if isinstance(record, Network):
            self.networks.pop(record.id, None)
            self._neighbours.forget(record)
            self._leasing.forget_network(record.id)
        else:
            self._forget(record)

    def restore_ports(self, endpoint: Endpoint) -> None:
        """Hold an endpoint's host ports again; one that was taken meanwhile stays published."""
        network = self.networks[endpoint.network_id]
        publishing = self._backend(network).publishing(network)
        for error in self._ports.adopt(endpoint, endpoint.ports, publishing is not None and publishing.apart):
            log.warning("published port is no longer ours alone", endpoint=endpoint.id[:12], error=str(error))

    async def allow_forwarding(self) -> bool:
        """Have the engine's own rules let through what pynet's have judged; tells if they did not. Raises HostError."""
        segments = self._segments()
        if segments:
            return await self._chains.allow(_shared(segments))
        await self._chains.disallow()
        return False

    async def forwarding_is_missing(self) -> bool:
        """Tell whether the engine's own rules lack what `allow_forwarding` puts there. Raises HostError."""
        segments = self._segments()
        return bool(segments) and await self._chains.lack(_shared(segments))

    def _segments(self) -> list[Segment]:
        return [one for network in self.networks.values() for one in self.network_plan(network).segments]

    async def _facts(self, network: Network) -> Facts:
        netlink = self._kernel.netlink
        uplink, mtu = await netlink.uplink() or (None, Facts().uplink_mtu)
        names = self._backend(network).named_links(network, uplink)
        await self._journal.finish_on(set(names))
        found = [await netlink.describe(name) for name in names]
        return Facts(mtu, uplink, tuple(one for one in found if one is not None))

    async def follow_host(self) -> None:
        """Take notice that the links on which networks stand have other addresses or MACs by now.

        One that is not there (yet) is what it was: others make it, unless pynet did.
        """
        for network in list(self.networks.values()):
            await self._follow_host(network)

    async def _follow_host(self, network: Network) -> Network:
        if not self._backend(network).FOLLOWS_HOST:
            return network
        self._followed[network.id] = time.monotonic()
        names = self._backend(network).named_links(network, network.facts.uplink)
        former = [network.facts.link(name) for name in names]
        found = [await self._kernel.netlink.describe(name) for name in names]
        links = [new or (old if old and not old.ours else None) for new, old in zip(found, former, strict=True)]
        facts = replace(network.facts, links=tuple(one for one in links if one is not None))
        current = self.networks.get(network.id)
        # As text, since networks of one subnet are equal whatever their own addresses are.
        if current is None or current.phase != network.phase or str(facts) == str(network.facts):
            return network
        self.networks[network.id] = replace(network, facts=facts)
        self._neighbours.know(self.networks[network.id])
        return self.networks[network.id]

    async def _with_host_addresses(self, network: Network) -> Network:
        """Choose the addresses that the host takes on a network, such as nobody on its LAN has.

        Raises:
            Conflict: the one that the user named is in use.
            Exhausted: others have all that were tried.
        """
        wanted = self._backend(network).host_addresses(network)
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
            held = self._reserve(subnet.space, subnet.pool, named, taken)
            address = held or named or last_free(subnet.pool, taken)
            mac = await self._neighbours.holder(network, address)
            if mac is None:
                return address
            if named is not None:
                raise Conflict(f"address {address}, which is to be the host's own, is in use by {mac}; choose another")
            log.warning("address is in use on the LAN, passing it over", address=str(address), mac=mac)
            taken = taken | {address}
        raise Exhausted(f"other machines have the last addresses of {subnet.pool}; name one with host_access=ADDRESS")

    async def _make_room(self, network: Network) -> None:
        """Check a new network against the host and the others.

        An engine never makes two networks whose pools overlap in one address space. So one in the way, of which
        it has said nothing since pynet started and on which there is no container, was removed before that.
        """
        backend = self._backend(network)
        while True:
            addresses = await self._kernel.netlink.addresses()
            try:
                backend.check(network, self.networks, addresses)
                return
            except NetworkInTheWay as conflict:
                other = self.networks[conflict.network_id]
                if (
                    other.id not in self._unmentioned
                    or await self._is_lived_in(other)
                    or not _clash_in_one_space(network, other)
                ):
                    raise
                log.info("the engine has removed a network while pynet was away", network=other.id[:12])
                await self._delete_network(other.id)

    async def _is_lived_in(self, network: Network) -> bool:
        for endpoint in [one for one in self.endpoints.values() if one.network_id == network.id]:
            if not await self._is_dead(endpoint):
                return True
        return False

    async def _to_the_end(self, removal: Coroutine[None, None, None]) -> None:
        """Wait for a removal that goes on when its call is over: the engine will not ask again."""
        await asyncio.shield(self._in_background(removal))

    def _in_background(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _delete_network(self, network_id: str) -> None:
        async with self._lock(network_id):
            network = self.networks.get(network_id)
            if network is None:
                return
            self.networks[network.id] = replace(network, phase="deleting")
            self._neighbours.forget(network)
            for endpoint in [one for one in self.endpoints.values() if one.network_id == network.id]:
                try:
                    await self._delete_endpoint(endpoint.id, release=True)
                except Exception:
                    log.exception("could not remove an endpoint; trying again later", endpoint=endpoint.id[:12])
            plan = self.network_plan(network)
            try:
                await self._journal.delete(network, plan)
            finally:
                del self.networks[network.id]
                self.unsound.discard(network.id)
                self._followed.pop(network.id, None)
                self._leasing.forget_network(network.id)
            judged = (one for one in self.networks.values() if self.network_plan(one).segments)
            if plan.segments and (plan.foreign or next(judged, None) is None):
                await self.allow_forwarding()

    async def _delete_endpoint(self, endpoint_id: str, *, release: bool = False) -> None:
        """Remove an endpoint; the address of one that died is left to the container that comes in its place."""
        async with self._lock(endpoint_id):
            endpoint = self.endpoints.get(endpoint_id)
            if endpoint is None:
                return
            self._know(replace(endpoint, phase="deleting"))
            self._end_lease(endpoint, release=release)
            try:
                await self._journal.delete(endpoint, self.endpoint_plan(endpoint))
                self._ports.release(endpoint.id, endpoint.ports)
            finally:
                self._forget(endpoint)

    async def _set_ports(self, former: Endpoint, endpoint: Endpoint) -> None:
        await self._journal.update(former, self.endpoint_plan(former), endpoint, self.endpoint_plan(endpoint))
        self._know(endpoint)
        self._ports.release(endpoint.id, set(former.ports).difference(endpoint.ports))

    async def _hold(self, endpoint: Endpoint, wanted: list[PortRequest], apart: bool) -> tuple[PortMapping, ...]:
        while True:
            try:
                return self._ports.hold(endpoint, wanted, apart)
            except PortTaken as taken:
                if taken.holder == endpoint.id or not await self._collect_if_dead(taken.holder):
                    raise await asyncio.to_thread(taken.named) from None

    async def _collect_if_dead(self, endpoint_id: str | None) -> bool:
        """Remove an endpoint that only we still know of: after a crash the engine does not say so."""
        endpoint = self.endpoints.get(endpoint_id or "")
        if endpoint is None or endpoint.phase == "creating":
            return False
        while endpoint.phase == "ready" and not await self._is_dead(endpoint):
            # The kernel takes a moment to clear away the sandboxes of an engine that died.
            stale = self._joined.get(endpoint.id, -inf) < self._engine_since
            if not stale or time.monotonic() >= self._engine_since + DYING_S:
                return False
            await asyncio.sleep(0.1)
            current = self.endpoints.get(endpoint.id)
            if current is None:
                return True
            endpoint = current
        await self._delete_endpoint(endpoint.id)
        return True

    async def _is_dead(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint may give way to one that needs what it holds.

        It may if it is in no sandbox: the engine has promised its addresses to another one meanwhile. Up to
        engine 27 the link moves into the sandbox some time after Join.
        """
        plan = self.endpoint_plan(endpoint)
        if endpoint.sandbox is None:
            return True
        there = await self._kernel.links_of_plans([plan])
        if not there.has(plan):
            return not self._kernel.netlink.is_missing(plan.lowers)
        moved = there.here.isdisjoint(plan.moving)
        return not moved and time.monotonic() - self._joined.get(endpoint.id, -MOVING_S) >= MOVING_S

    def _know(self, endpoint: Endpoint) -> None:
        self.endpoints[endpoint.id] = endpoint
        self._prefixes.add(endpoint.id[:PREFIX_LENGTH])
        lan = self._lan(endpoint.network_id)
        for address in endpoint.addresses.values():
            self._by_lan[lan, address] = endpoint.id

    def _forget(self, endpoint: Endpoint) -> None:
        self.endpoints.pop(endpoint.id, None)
        self._prefixes.discard(endpoint.id[:PREFIX_LENGTH])
        self._joined.pop(endpoint.id, None)
        self._outdated.pop(endpoint.id, None)
        self._forget_addresses(endpoint)

    def _forget_addresses(self, endpoint: Endpoint) -> None:
        lan = self._lan(endpoint.network_id)
        for address in endpoint.addresses.values():
            if self._by_lan.get((lan, address)) == endpoint.id:
                del self._by_lan[lan, address]

    def _lan(self, network_id: str) -> str:
        """Name the LAN that a network's addresses are on: that of a link, or one of its own."""
        network = self.networks.get(network_id)
        lan = self._backend(network).lan(network) if network is not None else None
        return lan.link if lan is not None else network_id

    def _network(self, network_id: str) -> Network:
        network = self.networks.get(network_id)
        if network is None:
            raise InvalidRequest(f"network {network_id[:12]} is not known to pynet; remove it and create it again")
        if network.phase != "ready":
            raise Conflict(f"network {network_id[:12]} is being made or removed")
        self._unmentioned.discard(network_id)
        return network

    def _endpoint(self, request: wire.EndpointRequest) -> Endpoint:
        endpoint = self.endpoints.get(request.endpoint_id)
        if endpoint is None or endpoint.network_id != request.network_id:
            raise InvalidRequest(
                f"endpoint {request.endpoint_id[:12]} is not known on network {request.network_id[:12]};"
                " start the container again"
            )
        if endpoint.phase != "ready":
            raise Conflict(f"endpoint {endpoint.id[:12]} is being made or removed")
        return endpoint

    @staticmethod
    def _backend(network: Network) -> Backend:
        return backend_named(network.backend)


def _endpoint_as_requested(endpoint: Endpoint) -> str:
    """Leave out what became of it, and what a DHCP server gave.

    As text, since networks of one subnet are equal whatever their own addresses are.
    """
    address4 = None if endpoint.lease else endpoint.address4
    mac = endpoint.mac if endpoint.mac_given else ""
    return str(replace(endpoint, sandbox=None, ports=(), lease=None, client_id="", address4=address4, mac=mac))


def _endpoint_answer(endpoint: Endpoint) -> wire.CreateEndpointResponse:
    """Say what the request left open, and nothing else: the engine takes that for an attempt to change it."""
    mac = "" if endpoint.mac_given else endpoint.mac
    address = str(endpoint.lease.address) if endpoint.lease else ""
    return wire.CreateEndpointResponse(wire.EndpointInterface(mac_address=mac, address=address))


def _shared(segments: Iterable[Segment]) -> dict[str, tuple[IPNetwork, ...]]:
    return {one.link: one.subnets for one in segments if one.shared}


def _as_requested(network: Network) -> Network:
    """Leave out what pynet found and chose."""
    subnets = tuple(replace(one, host=None) for one in network.subnets)
    return replace(network, facts=Facts(), subnets=subnets)


def _clash_in_one_space(one: Network, other: Network) -> bool:
    return any(
        ours.space == theirs.space and ours.space not in ("", "null") and overlap(ours.pool, theirs.pool)
        for ours, theirs in product(one.subnets, other.subnets)
    )
