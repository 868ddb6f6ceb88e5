"""Networks are made and removed, with what the engine forgot to remove of them."""

from __future__ import annotations

import asyncio
from itertools import product

import structlog
from msgspec.structs import replace

from pynetdriver.addresses.sources import Sources
from pynetdriver.errors import Conflict, NetworkInTheWay
from pynetdriver.locks import Background
from pynetdriver.model import Facts, Network
from pynetdriver.networks.host_facts import HostFacts
from pynetdriver.networks.removal import Removal
from pynetdriver.pool import overlap
from pynetdriver.state.docker_user import DockerUser
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry

log = structlog.get_logger()


class Networks:
    """Makes and removes networks, all in the journal first.

    Checks and marks in memory come before the first `await`, so parallel calls see each other; the lock of an id is
    for the same call arriving twice.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        facts: HostFacts,
        removal: Removal,
        docker_user: DockerUser,
        sources: Sources,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._facts = facts
        self._removal = removal
        self._docker_user = docker_user
        self._sources = sources
        self._in_background = Background()

    async def create(self, network: Network) -> None:
        """Make a network; the same request again is answered again.

        Raises:
            PynetError: it cannot be made, and nothing of it is left.
        """
        async with self._registry.lock(network.id):
            known = self._registry.networks.get(network.id)
            if known is not None:
                if _as_requested(known) != _as_requested(network):
                    raise Conflict(f"network {network.id[:12]} exists already, made differently or being removed")
                self._registry.mention(network.id)
                return
            if self._journal.unfinished:  # their names, subnets and links may be wanted
                await self._journal.retry()
            network = await self._with_room(network)
            self._registry.know_network(replace(network, phase="creating"))
            try:
                network = await self._make(network)
            except BaseException:
                self._registry.forget_network(network.id)
                raise
            self._facts.begin(network)
            self._in_background(self._facts.warn(network))

    async def delete(self, network_id: str) -> None:
        """Remove a network and what the engine forgot to remove of it; an unknown one is gone already.

        It goes on when the call is over: the engine will not ask again. Raises PynetError.
        """
        await self._in_background.to_the_end(self._delete(network_id))

    async def present(self, network_id: str) -> Network:
        """Find the network that a call is about, as the host is now. Raises PynetError."""
        return await self._facts.follow(self._registry.network(network_id))

    async def _with_room(self, network: Network) -> Network:
        """See what the host is like, and that the network has its place there. Raises PynetError."""
        while True:
            before = set(self._registry.networks)
            network = replace(network, facts=await self._facts.of(network))
            await self._make_room(network)
            if before.issubset(self._registry.networks):
                return network  # else what was seen of the host may be what a network did that went meanwhile

    async def _make(self, network: Network) -> Network:
        network, plan = await self._facts.settle(network)
        await self._journal.create(network, plan)
        self._registry.know_network(network)
        try:
            await self._docker_user.allow()
        except BaseException:
            # The monitor removes what was written to DOCKER-USER already.
            await asyncio.shield(asyncio.ensure_future(self._journal.delete(network, plan)))
            raise
        return network

    async def _make_room(self, network: Network) -> None:
        """Check a new network against the host and the others.

        An engine never makes two networks whose pools overlap in one address space. So one in the way, of which
        it has said nothing since pynet started and on which there is no container, was removed before that.
        """
        while True:
            try:
                await self._facts.check(network)
                return
            except NetworkInTheWay as conflict:
                other = self._registry.networks[conflict.network_id]
                if (
                    self._registry.is_mentioned(other.id)
                    or await self._removal.is_lived_in(other)
                    or not _clash_in_one_space(network, other)
                ):
                    raise
                log.info("the engine has removed a network while pynet was away", network=other.id[:12])
                await self._delete(other.id)

    async def _delete(self, network_id: str) -> None:
        async with self._registry.lock(network_id):
            network = self._registry.networks.get(network_id)
            if network is None:
                return
            self._registry.know_network(replace(network, phase="deleting"))
            self._facts.end(network)
            for endpoint in self._registry.on(network.id):
                try:
                    await self._removal.remove_endpoint(endpoint.id, release=True)
                except Exception:
                    log.exception("could not remove an endpoint; trying again later", endpoint=endpoint.id[:12])
            plan = self._registry.network_plan(network)
            try:
                await self._journal.delete(network, plan)
            finally:
                self._registry.forget_network(network.id)
                self._sources.forget(network)
            if plan.segments and (plan.foreign or self._is_last()):
                await self._docker_user.allow()

    def _is_last(self) -> bool:
        """Tell whether pynet filters packets of no other network."""
        return not any(self._registry.network_plan(one).segments for one in self._registry.networks.values())


def _as_requested(network: Network) -> Network:
    """Leave out what pynet found and chose."""
    subnets = tuple(replace(one, host=None, doubted=False) for one in network.subnets)
    return replace(network, facts=Facts(), subnets=subnets)


def _clash_in_one_space(one: Network, other: Network) -> bool:
    return any(
        ours.space == theirs.space and ours.space not in ("", "null") and overlap(ours.pool, theirs.pool)
        for ours, theirs in product(one.subnets, other.subnets)
    )
