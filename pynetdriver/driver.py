"""NetworkDriver: what the engine asks for networks and endpoints, in the order in which things must happen.

Checks and marks in memory come before the first `await`, so parallel calls see each other; a lock per id
is for the same call arriving twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Coroutine, Iterable
from functools import partial
from itertools import product
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver import messages as wire
from pynetdriver.backends import Publishing, backend_named
from pynetdriver.collecting import Collector
from pynetdriver.docker.requests import requested_endpoint, requested_network, requested_options, requested_ports
from pynetdriver.errors import Conflict, NetworkInTheWay
from pynetdriver.firewall.engine import EngineChains
from pynetdriver.healing import Healing
from pynetdriver.ipam import PoolKey
from pynetdriver.journal import Journal
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts, PortTaken
from pynetdriver.leasing import Leasing
from pynetdriver.locks import Locks, aside, in_parts
from pynetdriver.model import Endpoint, Facts, Network, PortMapping
from pynetdriver.neighbours import Neighbours
from pynetdriver.plan import Adopted, Parent, Plan, Segment, StaticRoute
from pynetdriver.pool import overlap
from pynetdriver.portmap import (
    PortRequest,
    RequestedPorts,
    narrowest_first,
    port_requests,
    relayed_to,
    split_opened,
    split_satisfied,
)
from pynetdriver.registry import Registry, backend_of
from pynetdriver.siting import FOLLOW_S, Siting

log = structlog.get_logger()

T = TypeVar("T")

#: Host ports that are released in one turn; more of them take parts, between which others have their turn.
_AT_ONCE = 50


class NetworkDriver:
    """Makes and removes networks and endpoints, all in the journal first."""

    def __init__(
        self,
        registry: Registry,
        locks: Locks,
        journal: Journal,
        kernel: Kernel,
        ports: HostPorts,
        chains: EngineChains,
        neighbours: Neighbours,
        leasing: Leasing,
        siting: Siting,
        healing: Healing,
    ) -> None:
        self._registry = registry
        self._lock = locks
        self._journal = journal
        self._kernel = kernel
        self._ports = ports
        self._chains = chains
        self._neighbours = neighbours
        self._leasing = leasing
        self._siting = siting
        self._healing = healing
        journal.removed = self._removed
        self.collector = Collector(registry, kernel, healing, self._delete_endpoint)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releasing: dict[str, asyncio.Task[None]] = {}

    # Networks

    async def create_network(self, request: wire.CreateNetworkRequest) -> wire.Empty:
        """Make a network; the same request again is answered again."""
        network = requested_network(request)
        backend = backend_named(network.backend)
        async with self._lock(network.id):
            known = self._registry.networks.get(network.id)
            if known is not None:
                if _as_requested(known) != _as_requested(network):
                    raise Conflict(f"network {network.id[:12]} exists already, made differently or being removed")
                self._registry.unmentioned.discard(network.id)
                return wire.Empty()
            if self._journal.unfinished:  # their names, subnets and links may be wanted
                await self.finish_removals()
            while True:
                before = set(self._registry.networks)
                network = replace(network, facts=await self._siting.facts(network))
                await self._make_room(network)
                if before.issubset(self._registry.networks):
                    break  # else what was seen of the host may be what a network did that went meanwhile
            self._registry.networks[network.id] = replace(network, phase="creating")
            try:
                network = self._neighbours.doubting(await self._siting.with_host_addresses(network))
                plan = backend.network_plan(network)
                self._leave_to_the_engine(plan)
                await self._neighbours.refuse_taken_gateways(network, plan)
                self._registry.networks[network.id] = replace(network, phase="creating")
                if plan.trial:
                    await self._kernel.netlink.try_upper(plan.trial)
                await self._journal.create(network, plan)
                self._registry.networks[network.id] = network
                try:
                    await self.allow_forwarding()
                except BaseException:
                    # What of it is in DOCKER-USER already, the monitor removes.
                    await asyncio.shield(asyncio.ensure_future(self._journal.delete(network, plan)))
                    raise
            except BaseException:
                del self._registry.networks[network.id]
                raise
            self._neighbours.know(network)
            parents = {one.link for one in plan.objects if isinstance(one, Parent)}
            for link in network.facts.links:
                if link.name in parents and not link.up:
                    log.warning(
                        f"parent is down, containers reach nobody until it is up: ip link set {link.name} up",
                        link=link.name,
                        network=network.id[:12],
                    )
            self._in_background(self._warn_of_gateways(network))
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
        network = self._registry.network(request.network_id)
        network = await self._siting.follow(network, within_s=FOLLOW_S)
        endpoint = requested_endpoint(request, network)
        async with self._lock(endpoint.id):
            known = self._registry.endpoints.get(endpoint.id)
            if known is not None:
                if _endpoint_as_requested(known) != _endpoint_as_requested(endpoint):
                    raise Conflict(f"endpoint {endpoint.id[:12]} exists already, made differently or being removed")
                return _endpoint_answer(known)
            if self._registry.has_link_of(endpoint.id):
                raise Conflict(f"endpoint {endpoint.id[:12]} has the link name of another; start the container again")
            await self._journal.finish(lambda record, _: _has_address_of(record, endpoint))
            for address in endpoint.addresses.values():
                holder = self._registry.holder(network.id, address)
                if not await self.collector.collect_if_dead(holder) and holder and address.version == 6:
                    await self._let_go_ipv6(network.id, holder)
            for address in endpoint.addresses.values():
                holder = self._registry.holder(network.id, address)
                if holder is not None:
                    where = self._registry.endpoints[holder].network_id
                    which = "the same network" if where == network.id else f"network {where[:12]}"
                    raise Conflict(f"address {address} is in use by endpoint {holder[:12]} of {which}")
            self._registry.network(network.id)
            self._registry.know(replace(endpoint, phase="creating"))
            try:
                if backend_of(network).station(network, endpoint) is None:
                    cut_off, _ = await asyncio.gather(
                        self._cut_off(network, endpoint), self._neighbours.refuse_held(network, endpoint)
                    )
                    endpoint = replace(endpoint, cut_off=cut_off)
                else:
                    await self.collector.collect_if_dead(self._leasing.holder(endpoint))
                    await self.collector.collect_died(endpoint, partial(self._leasing.is_settled, endpoint))
                    endpoint = await self._leasing.obtain(network, endpoint)
                    self._registry.know(replace(endpoint, phase="creating"))
                around = self._registry.network_plan(network)
                if network.id in self._healing.unsound or self._kernel.netlink.is_missing(around.links):
                    await self._kernel.apply_objects(around)
                    # Not waited for: who removes the network has its lock, and waits for this endpoint's.
                    self._in_background(self._healing.repair_network(network.id, set()))
                await self._journal.create(endpoint, self._registry.endpoint_plan(endpoint))
            except BaseException:
                self._leasing.end(endpoint, release=True)
                self._forget(endpoint)
                raise
            self._registry.know(endpoint)
            self._leasing.keep(endpoint)
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
        """Name the link to move into the sandbox, made again if it was lost since.

        Ports at the container's own address are open from here to Leave, by whichever network its default route leads.
        """
        ports = await _requested_ports(request.options)
        async with self._lock(request.endpoint_id):
            endpoint = self._registry.endpoint(request.network_id, request.endpoint_id)
            if endpoint.sandbox not in (None, request.sandbox_key):
                raise Conflict(f"endpoint {endpoint.id[:12]} is joined to another sandbox; leave that first")
            network = self._registry.network(endpoint.network_id)
            plan = self._registry.endpoint_plan(endpoint)
            if self._kernel.netlink.is_missing([*plan.anchors, *(() if endpoint.sandbox else plan.moving)]):
                await self._kernel.apply_objects(plan)
            joined = replace(endpoint, sandbox=request.sandbox_key, ports=_opened_at_join(network, endpoint, ports))
            if joined.ports != endpoint.ports:
                await self._set_ports(endpoint, joined)
            elif joined.sandbox != endpoint.sandbox:
                self._journal.write(joined)
                self._registry.know(joined)
            if endpoint.sandbox is None:
                self.collector.joined(endpoint.id)
                self._neighbours.announce(network, joined)
            endpoint = joined
        attachment = backend_named(network.backend).attachment(network, endpoint)
        return wire.JoinResponse(
            interface_name=wire.InterfaceName(attachment.link, attachment.prefix, endpoint.ifname or ""),
            gateway=str(attachment.gateway4 or ""),
            gateway_ipv6=str(attachment.gateway6 or ""),
            static_routes=[_static_route(one) for one in attachment.routes],
            # Without it the engine would add a second interface on a bridge of its own.
            disable_gateway_service=not (attachment.gateway4 or attachment.gateway6),
        )

    async def leave(self, request: wire.EndpointRequest) -> wire.Empty:
        """Forget the sandbox and unpublish; the link is still inside and goes with DeleteEndpoint."""
        async with self._lock(request.endpoint_id):
            endpoint = self._registry.endpoints.get(request.endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and (endpoint.sandbox or endpoint.ports):
                await self._set_ports(endpoint, replace(endpoint, sandbox=None, ports=()))
                self.collector.left(endpoint.id)
        return wire.Empty()

    async def program(self, request: wire.ProgramRequest) -> wire.Empty:
        """Publish the container's ports here, in place of what was published before."""
        ports = await _requested_ports(request.options) or RequestedPorts()
        async with self._lock(request.endpoint_id):
            endpoint = self._registry.endpoint(request.network_id, request.endpoint_id)
            network = self._registry.network(endpoint.network_id)
            if network.internal:
                return wire.Empty()
            if endpoint.sandbox is None:
                raise Conflict(f"endpoint {endpoint.id[:12]} has not joined a sandbox; nothing can be published there")
            publishing = backend_of(network).publishing(network)
            if publishing is None:
                if ports.bindings:
                    log.warning(
                        "ports of this network are reached at the container's own address, not at the host's",
                        endpoint=endpoint.id[:12],
                    )
                return wire.Empty()
            if ports.bindings or endpoint.ports:
                endpoint = await self._without_lost_ipv6(endpoint)
            size = len(ports.bindings) + len(endpoint.ports)
            opened, kept, wanted = await aside(partial(_asked_ports, ports, endpoint, publishing), size)
            given_up = set(endpoint.ports).difference(kept)
            new: tuple[PortMapping, ...] = ()
            try:
                await self._release(endpoint.id, given_up)
                new = await self._hold(endpoint, wanted, publishing.apart)
                await self._set_ports(endpoint, replace(endpoint, ports=(*opened, *kept, *new)))
            except BaseException:
                if self._registry.endpoints.get(endpoint.id) is endpoint:  # else the new ones are published already
                    self._let_go(endpoint.id, new)
                    self._ports.adopt(endpoint, given_up, publishing.apart)
                raise
        return wire.Empty()

    async def revoke(self, request: wire.EndpointRequest) -> wire.Empty:
        """Unpublish on the host; nothing published or an unknown endpoint is fine."""
        async with self._lock(request.endpoint_id):
            endpoint = self._registry.endpoints.get(request.endpoint_id)
            if endpoint is not None and endpoint.phase == "ready" and any(one.host_port for one in endpoint.ports):
                opened = tuple(one for one in endpoint.ports if not one.host_port)
                await self._set_ports(endpoint, replace(endpoint, ports=opened))
        return wire.Empty()

    # What the host knows and the engine does not say

    async def finish_removals(self) -> None:
        """Try again what could not be removed; host ports of endpoints are free only then."""
        await self._journal.retry()

    def _removed(self, record: Network | Endpoint) -> None:
        if isinstance(record, Endpoint):
            self._let_go(record.id, self._ports.held_by(record.id))

    async def still_held(self, pool: PoolKey, address: IPAddress) -> bool:
        """Tell whether an address of a network is in use; one of a pool that is not a network's counts as used."""
        for network in self._registry.networks.values():
            for subnet in network.subnets:
                if (subnet.space, subnet.pool) == pool:
                    if address in (subnet.gateway, subnet.host) or address in subnet.aux:
                        return True
                    holder = self._registry.endpoints.get(self._registry.holder(network.id, address) or "")
                    if holder is None:
                        return False
                    leaving = holder.phase == "deleting" or await self.collector.is_dead(holder)
                    return not leaving or not await self.collector.collect_if_dead(holder.id)
        return True

    def restore(self, networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> None:
        """Take up networks and endpoints of an earlier process."""
        self._registry.networks = {one.id: one for one in networks}
        for network in self._registry.networks.values():
            self._neighbours.know(network)
        self._registry.unmentioned = set(self._registry.networks)
        for endpoint in endpoints:
            self._registry.know(endpoint)

    def drop(self, record: Network | Endpoint) -> None:
        """Forget what is being removed by others."""
        if isinstance(record, Network):
            self._registry.networks.pop(record.id, None)
            self._neighbours.forget(record)
            self._leasing.forget_network(record.id)
        else:
            self._forget(record)

    def restore_ports(self, endpoint: Endpoint) -> None:
        """Hold an endpoint's host ports again; one that was taken meanwhile stays published."""
        network = self._registry.networks[endpoint.network_id]
        publishing = backend_of(network).publishing(network)
        for error in self._ports.adopt(endpoint, endpoint.ports, publishing is not None and publishing.apart):
            log.warning("published port is no longer ours alone", endpoint=endpoint.id[:12], error=str(error))

    async def follow_engine_bridges(self, *, at_start: bool = False) -> None:
        """Read which bridges are the engine's, and have the rules know. Raises HostError.

        What is passed on to the engine's rules is so in DOCKER-USER before pynet lets it through, and for longer.

        Args:
            at_start: what keeps strangers apart is written afterwards, with all other rules.
        """
        former, found = self._kernel.bridges.found, await self._kernel.engine_bridges()
        if found == former:
            return
        await self._kernel.firewall.set_engine_bridges(
            dataclasses.replace(found, judged=found.judged - (found.passed_on - former.passed_on))
        )
        self._kernel.bridges.found = found
        try:
            if found.passed_on != former.passed_on:
                await self.allow_forwarding()
            await self._kernel.firewall.set_engine_bridges(found)
            if found.names != former.names and not at_start:
                await self._journal.follow_engine_bridges()
        except BaseException:
            self._kernel.bridges.found = former  # so that it is tried again
            raise

    async def allow_forwarding(self) -> bool:
        """Have the engine's own rules let through what pynet's have judged; tells if they did not. Raises HostError.

        Bridges of the engine's that it found open are closed as well.
        """
        segments = self._registry.segments()
        try:
            if segments:
                return await self._chains.allow(_shared(segments), self._kernel.bridges.found.passed_on)
            await self._chains.disallow()
        finally:
            await self._chains.close(self._journal.closed)
        return False

    async def missing_beside_engine(self) -> list[str]:
        """Say what the engine's own rules lack of what `allow_forwarding` puts there. Raises HostError."""
        found, segments = [], self._registry.segments()
        if segments and await self._chains.lack(_shared(segments), self._kernel.bridges.found.passed_on):
            found.append("the engine's chain DOCKER-USER lacks what lets pynet's packets through")
        if await self._chains.is_open(self._journal.closed):
            found.append("FORWARD does not end with what closes the engine's bridges to strangers")
        return found

    def _leave_to_the_engine(self, plan: Plan) -> None:
        """Refuse to adopt a bridge of a network of the engine's own. Raises Conflict."""
        for one in plan.objects:
            if isinstance(one, Adopted) and one.link in self._kernel.bridges.found.names:
                raise Conflict(f'"{one.link}" is the bridge of a network of the engine\'s own; choose another one')

    async def _make_room(self, network: Network) -> None:
        """Check a new network against the host and the others.

        An engine never makes two networks whose pools overlap in one address space. So one in the way, of which
        it has said nothing since pynet started and on which there is no container, was removed before that.
        """
        backend = backend_of(network)
        while True:
            addresses = await self._kernel.netlink.addresses()
            try:
                backend.check(network, self._registry.networks, addresses)
                return
            except NetworkInTheWay as conflict:
                other = self._registry.networks[conflict.network_id]
                if (
                    other.id not in self._registry.unmentioned
                    or await self.collector.is_lived_in(other)
                    or not _clash_in_one_space(network, other)
                ):
                    raise
                log.info("the engine has removed a network while pynet was away", network=other.id[:12])
                await self._delete_network(other.id)

    async def _to_the_end(self, removal: Coroutine[None, None, None]) -> None:
        """Wait for a removal that goes on when its call is over: the engine will not ask again."""
        await asyncio.shield(self._in_background(removal))

    async def _warn_of_gateways(self, network: Network) -> None:
        """Say that containers will have no way out, since nobody is at the gateway that they are told."""
        link, silent, there = await self._neighbours.silent_gateways(network)
        for subnet in network.subnets:
            if subnet.doubted and subnet.gateway in there:
                self._trust(network.id, subnet.pool)
        for gateway in silent:
            if network.id not in self._registry.networks or self._registry.holder(network.id, gateway):
                continue
            router = await self._kernel.netlink.router(link, gateway.version)
            log.warning(
                "nobody on the LAN answers for this network's gateway, so its containers have no way out;"
                " make it again with --gateway ROUTER",
                network=network.id[:12],
                parent=link,
                gateway=str(gateway),
                router_of_this_host=str(router) if router else "none there",
            )

    def _in_background(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _delete_network(self, network_id: str) -> None:
        async with self._lock(network_id):
            network = self._registry.networks.get(network_id)
            if network is None:
                return
            self._registry.networks[network.id] = replace(network, phase="deleting")
            self._neighbours.forget(network)
            for endpoint in [one for one in self._registry.endpoints.values() if one.network_id == network.id]:
                try:
                    await self._delete_endpoint(endpoint.id, release=True)
                except Exception:
                    log.exception("could not remove an endpoint; trying again later", endpoint=endpoint.id[:12])
            plan = self._registry.network_plan(network)
            try:
                await self._journal.delete(network, plan)
            finally:
                del self._registry.networks[network.id]
                self._healing.unsound.discard(network.id)
                self._siting.forget(network.id)
                self._leasing.forget_network(network.id)
            judged = (one for one in self._registry.networks.values() if self._registry.network_plan(one).segments)
            if plan.segments and (plan.foreign or next(judged, None) is None):
                await self.allow_forwarding()

    async def _delete_endpoint(self, endpoint_id: str, *, release: bool = False) -> None:
        """Remove an endpoint; the address of one that died is left to the container that comes in its place."""
        async with self._lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is None:
                return
            self._registry.know(replace(endpoint, phase="deleting"))
            self._leasing.end(endpoint, release=release)
            try:
                await self._journal.delete(endpoint, self._registry.endpoint_plan(endpoint))
            finally:
                self._forget(endpoint)
            await self._all_released(endpoint.id)

    def _forget(self, endpoint: Endpoint) -> None:
        self._registry.forget(endpoint)
        self.collector.forget(endpoint.id)

    async def _let_go_ipv6(self, network_id: str, endpoint_id: str) -> None:
        """Have an endpoint of the network give up its IPv6 address if it has lost it."""
        async with self._lock(endpoint_id):
            endpoint = self._registry.endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.network_id == network_id and endpoint.phase == "ready":
                await self._without_lost_ipv6(endpoint)

    async def _without_lost_ipv6(self, endpoint: Endpoint) -> Endpoint:
        """Take the IPv6 address from an endpoint whose link in the container does not have it.

        An engine takes such a one back and gives it to another container, but tells the IPAM driver alone (29, where
        a sysctl of the endpoint turned IPv6 off). What was published over it is relayed by IPv4 from then on.
        """
        if endpoint.address6 is None or endpoint.sandbox is None:
            return endpoint
        if not await self._kernel.has_lost(
            self._registry.endpoint_plan(endpoint), endpoint.address6, endpoint.address4
        ):
            return endpoint
        log.info("container has no IPv6", endpoint=endpoint.id[:12], address=str(endpoint.address6.ip))
        network = self._registry.networks[endpoint.network_id]
        publishing = backend_of(network).publishing(network)
        left = {version: one for version, one in endpoint.addresses.items() if version != 6}
        apart = publishing is not None and publishing.apart
        relayed = {one: relayed_to(one, left, apart) for one in endpoint.ports if one.host_port}
        kept = tuple(one for one in endpoint.ports if one.host_address.version == 4 or relayed.get(one))
        other = [one for one in relayed if relayed[one] != relayed_to(one, endpoint.addresses, apart)]
        without = replace(endpoint, address6=None, released6=endpoint.address6, ports=kept)
        await self._set_ports(endpoint, without)
        self._ports.release(endpoint.id, other)
        self._ports.adopt(without, set(other).intersection(kept), apart)
        return without

    async def _cut_off(self, network: Network, endpoint: Endpoint) -> tuple[int, ...]:
        """Tell the IP versions in which the endpoint's gateway is doubted and nobody has it; remember if somebody does.

        On a LAN that cannot be asked it is taken for right.
        """
        addresses = endpoint.addresses.values()
        doubted = [one for one in network.subnets if one.doubted and any(address in one.pool for address in addresses)]
        gateways = [one.gateway for one in doubted if one.gateway]
        answers = await asyncio.gather(*(self._neighbours.answers(network, gateway) for gateway in gateways))
        cut_off = []
        for subnet, answered in zip(doubted, answers, strict=True):
            if answered:
                self._trust(network.id, subnet.pool)
            elif answered is not None:
                cut_off.append(subnet.pool.version)
                log.warning(
                    "nobody on the LAN has the gateway, so the container gets no default route by it;"
                    " give the router's address with --gateway when the network is created",
                    endpoint=endpoint.id[:12],
                    gateway=str(subnet.gateway),
                )
        return tuple(cut_off)

    def _trust(self, network_id: str, pool: IPNetwork) -> None:
        network = self._registry.networks.get(network_id)
        if network is not None and network.phase == "ready":
            subnets = tuple(replace(one, doubted=one.doubted and one.pool != pool) for one in network.subnets)
            self._registry.networks[network_id] = replace(network, subnets=subnets)
            self._journal.write(self._registry.networks[network_id])

    async def _set_ports(self, former: Endpoint, endpoint: Endpoint) -> None:
        size = len(former.ports) + len(endpoint.ports)
        plans = await aside(lambda: [self._registry.endpoint_plan(one) for one in (former, endpoint)], size)
        await self._journal.update(former, plans[0], endpoint, plans[1])
        self._registry.know(endpoint)
        self._let_go(endpoint.id, set(former.ports).difference(endpoint.ports))
        await self._all_released(endpoint.id)

    def _let_go(self, endpoint_id: str, ports: Collection[PortMapping]) -> None:
        """Release ports, to the end also when the call is over; who needs one of them waits."""
        if not ports:
            return
        if len(ports) <= _AT_ONCE:
            self._ports.release(endpoint_id, ports)
            return
        former = self._releasing.get(endpoint_id)

        async def release() -> None:
            if former is not None:
                await former
            await self._release(endpoint_id, ports)
            if self._releasing.get(endpoint_id) is task:
                del self._releasing[endpoint_id]

        task = self._releasing[endpoint_id] = self._in_background(release())

    async def _all_released(self, endpoint_id: str) -> None:
        while endpoint_id in self._releasing:
            await asyncio.shield(self._releasing[endpoint_id])

    async def _release(self, endpoint_id: str, ports: Collection[PortMapping]) -> None:
        async for part in in_parts(ports):
            self._ports.release(endpoint_id, part)

    async def _hold(self, endpoint: Endpoint, wanted: list[PortRequest], apart: bool) -> tuple[PortMapping, ...]:
        held: list[PortMapping] = []
        try:
            async for part in in_parts(narrowest_first(wanted)):
                held += await self._hold_part(endpoint, part, apart)
        except BaseException:
            self._let_go(endpoint.id, held)
            raise
        return tuple(held)

    async def _hold_part(self, endpoint: Endpoint, wanted: list[PortRequest], apart: bool) -> tuple[PortMapping, ...]:
        while True:
            try:
                return self._ports.hold(endpoint, wanted, apart)
            except PortTaken as taken:
                if taken.holder in self._releasing:
                    await self._all_released(taken.holder)
                    continue
                if await self._journal.finish(lambda record, _, holder=taken.holder: record.id == holder):  # type: ignore[misc]
                    continue
                if taken.holder and taken.holder not in self._registry.endpoints:
                    self._let_go(taken.holder, self._ports.held_by(taken.holder))
                    continue
                if taken.holder == endpoint.id or not await self.collector.collect_if_dead(taken.holder):
                    raise await asyncio.to_thread(taken.named) from None


async def _requested_ports(options: wire.PortOptions | None) -> RequestedPorts | None:
    size = len(options.port_map or ()) if options else 0
    return await aside(partial(requested_ports, options), size)


def _static_route(route: StaticRoute) -> wire.StaticRoute:
    """Write a route of a sandbox; its kind is 0 with a next hop, 1 without."""
    if route.next_hop is None:
        return wire.StaticRoute(str(route.destination), 1)
    return wire.StaticRoute(str(route.destination), 0, str(route.next_hop))


def _opened_at_join(network: Network, endpoint: Endpoint, ports: RequestedPorts | None) -> tuple[PortMapping, ...]:
    """Tell an endpoint's ports with those that are open at its own address; what is published stays."""
    publishing = backend_of(network).publishing(network)
    if network.internal or publishing is None or not publishing.untranslated:
        return endpoint.ports
    if ports is None:
        return endpoint.ports
    opened, _, _ = split_opened(ports.bindings, endpoint, publishing.untranslated)
    return (*opened, *(one for one in endpoint.ports if one.host_port))


def _has_address_of(record: Network | Endpoint, endpoint: Endpoint) -> bool:
    """Tell whether an endpoint that is not wholly removed has an address of another one."""
    return isinstance(record, Endpoint) and not set(endpoint.addresses.values()).isdisjoint(record.addresses.values())


def _asked_ports(
    ports: RequestedPorts, endpoint: Endpoint, publishing: Publishing
) -> tuple[list[PortMapping], list[PortMapping], list[PortRequest]]:
    """Tell what is opened, which ports stay published, and which are to be."""
    opened, bindings, holding = split_opened(ports.bindings, endpoint, publishing.untranslated)
    # An IPv6 address that is open by itself is not to be reached by way of IPv4.
    six_to_four = ports.six_to_four and holding.address6 == endpoint.address6
    requests = port_requests(bindings, holding, publishing.addresses, six_to_four=six_to_four)
    return opened, *split_satisfied(requests, endpoint.ports)


def _endpoint_as_requested(endpoint: Endpoint) -> str:
    """Leave out what became of it, and what a DHCP server gave.

    As text, since networks of one subnet are equal whatever their own addresses are.
    """
    address4 = None if endpoint.lease else endpoint.address4
    mac = endpoint.mac if endpoint.mac_given else ""
    became = {"sandbox": None, "ports": (), "lease": None, "client_id": "", "cut_off": (), "released6": None}
    address6 = endpoint.address6 or endpoint.released6
    return str(replace(endpoint, **became, address4=address4, address6=address6, mac=mac))


def _endpoint_answer(endpoint: Endpoint) -> wire.CreateEndpointResponse:
    """Say what the request left open, and nothing else: the engine takes that for an attempt to change it."""
    mac = "" if endpoint.mac_given else endpoint.mac
    address = str(endpoint.lease.address) if endpoint.lease else ""
    return wire.CreateEndpointResponse(wire.EndpointInterface(mac_address=mac, address=address))


def _shared(segments: Iterable[Segment]) -> dict[str, tuple[IPNetwork, ...]]:
    return {one.link: one.subnets for one in segments if one.shared}


def _as_requested(network: Network) -> Network:
    """Leave out what pynet found and chose."""
    subnets = tuple(replace(one, host=None, doubted=False) for one in network.subnets)
    return replace(network, facts=Facts(), subnets=subnets)


def _clash_in_one_space(one: Network, other: Network) -> bool:
    return any(
        ours.space == theirs.space and ours.space not in ("", "null") and overlap(ours.pool, theirs.pool)
        for ours, theirs in product(one.subnets, other.subnets)
    )
