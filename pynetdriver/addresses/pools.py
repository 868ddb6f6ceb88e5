"""Pools that the engine holds, and which of their addresses are held: in memory, and in the store before the answer.

Calls wait for the host's routes and, at most 0.1 s, for answers from the LAN.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import Protocol

import structlog
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver.addresses.reclaim import Reclaim
from pynetdriver.errors import Conflict, Exhausted, InvalidRequest, PynetError, shortened
from pynetdriver.locks import Locks
from pynetdriver.model import Lease, Pool, decode, encode
from pynetdriver.pool import POOLS4, Allocator, PoolKey, PoolUse, free_pool, overlap
from pynetdriver.store import Change, Store

log = structlog.get_logger()

#: An address is requested before the endpoint that has it is made.
CLAIMING_S = 60
#: How many addresses are asked for at once: ahead of time, and after the next one was found in use.
_AHEAD, _AT_ONCE = 4, 64
#: Of so many pools at a time.
_POOLS = 16
#: So often the next addresses may be in use before it is given up.
_CONFLICTS = 16
#: What the LAN said of an address is taken for true for a minute.
_ASK_AHEAD_S = 45.0


class Others(Protocol):
    """Who else holds addresses of a pool on its LAN; nobody does where there is none to ask."""

    @property
    def pools(self) -> Collection[PoolKey]:
        """The pools that are on a LAN."""
        ...

    async def held_by(self, pool: PoolKey, address: IPAddress) -> str | None:
        """Return the MAC of who holds an address; at once if it was asked for a moment ago, else within 0.1 s."""
        ...

    async def ask_ahead(self, pool: PoolKey, addresses: Collection[IPAddress]) -> dict[IPAddress, str]:
        """Ask for addresses that will be needed; returns the MACs of those who hold some."""
        ...


class Pools:
    """Gives pools and addresses, each once."""

    def __init__(
        self,
        store: Store,
        networks_in_use: Callable[[], Awaitable[list[IPNetwork]]],
        others: Others,
        reclaim: Reclaim,
        pool6: IPNetwork,
    ) -> None:
        """Know of no pool yet; see `restore`.

        Args:
            networks_in_use: lists what the host has routes to or addresses in.
            others: tells who else on its LAN holds addresses of a pool that one of pynet's networks has.
            reclaim: decides whether an address that is held is in use on this host.
            pool6: where IPv6 pools come from when none is asked for, a /48 of this host's own.
        """
        self._store = store
        self._networks_in_use = networks_in_use
        self._others = others
        self._reclaim = reclaim
        self._pool6 = pool6
        #: Pools of which addresses were given, so that others come up there.
        self._given: asyncio.Queue[str] = asyncio.Queue()
        self._given_at: dict[str, float] = {}
        self._started = time.monotonic()
        self._lock = Locks()
        self._pools: dict[str, Pool] = {}
        self._allocators: dict[str, Allocator] = {}
        self._releases = 0
        #: Pools, and addresses with theirs, that could not be let go: done as soon as somebody asks for something.
        self._late_pools: set[str] = set()
        self._late: dict[str, set[IPAddress]] = {}

    def restore(self) -> None:
        """Take up the stored pools; addresses of pools that are gone go, too. Raises PynetError."""
        self._pools = {key: decode(data, Pool) for key, data in self._store.load("pool").items()}
        self._allocators = {key: Allocator(pool.subnet, pool.range) for key, pool in self._pools.items()}
        leases: dict[str, list[Lease]] = {key: [] for key in self._pools}
        for key, data in self._store.load("lease").items():
            lease = decode(data, Lease)
            if lease.pool_id not in leases:
                with contextlib.suppress(PynetError):
                    self._store.write(Change("lease", key, None))
                continue
            leases[lease.pool_id].append(lease)
            self._releases = max(self._releases, lease.released or 0)
        for key, found in leases.items():
            self._allocators[key].restore(
                held=[one.address for one in found if one.released is None],
                released=[
                    one.address for one in sorted(found, key=lambda one: one.released or 0) if one.released is not None
                ],
            )

    def use(self) -> list[PoolUse]:
        """Say how much of each pool is held."""
        return [
            PoolUse(
                subnet=pool.subnet,
                range=pool.range,
                space=pool.space,
                size=self._allocators[key].size,
                used=self._allocators[key].used,
            )
            for key, pool in self._pools.items()
        ]

    async def hold(self, space: str, subnet: IPNetwork | None, within: IPNetwork | None, version: int) -> Pool:
        """Hold a pool of an address space: this one, or one that overlaps nothing.

        The engine asks again, keeping the first, when it dislikes a pool, so each answer differs.

        Args:
            within: the range of the subnet that addresses are given from.
            version: of IP, if there is no subnet.

        Raises:
            Conflict: the subnet overlaps a pool of the space.
            Exhausted: there is none that overlaps nothing.
        """
        with contextlib.suppress(PynetError):
            for id in list(self._late_pools):
                self._release_pool(id)
        if subnet is None:
            in_use = await self._networks_in_use()
            held = [pool.subnet for pool in self._pools.values()]
            subnet = free_pool(version, POOLS4 if version == 4 else [self._pool6], [*in_use, *held])
        for other in self._pools.values():
            if other.space == space and overlap(other.subnet, subnet):
                raise Conflict(f"subnet {subnet} overlaps {other.subnet}, which another network holds; choose another")
        parts = [space, str(subnet), *([str(within)] if within else [])]
        pool = Pool(id="/".join(parts), space=space, subnet=subnet, range=within)
        self._store.write(Change("pool", pool.id, encode(pool)))
        self._pools[pool.id] = pool
        self._allocators[pool.id] = Allocator(subnet, within)
        return pool

    def has(self, id: str) -> bool:
        """Tell whether a pool is held."""
        return id in self._pools

    def release(self, id: str) -> None:
        """Let a pool go with all its addresses; an unknown one is gone already. Raises PynetError."""
        if id in self._pools:
            self._release_pool(id)

    def _release_pool(self, id: str) -> None:
        self._late_pools.add(id)
        leases = [key for key in self._store.load("lease") if key.startswith(f"{id} ")]
        self._store.write(*(Change("lease", key, None) for key in leases), Change("pool", id, None))
        del self._pools[id], self._allocators[id]
        self._late_pools.discard(id)
        self._late.pop(id, None)

    async def hold_address(self, pool_id: str, wanted: IPAddress | None) -> IPNetwork:
        """Hold an address of a pool: this one, or the next that is free.

        Returns:
            The address with the prefix length of its subnet.

        Raises:
            InvalidRequest: the pool or the address is none that could be given.
            Conflict: somebody has the address.
            Exhausted: none is free.
        """
        async with self._lock(pool_id):
            pool = self._pools.get(pool_id)
            if pool is None:
                name = shortened(pool_id)
                raise InvalidRequest(f'pool "{name}" is not known to pynet; create the network again')
            allocator = self._allocators[pool.id]
            with contextlib.suppress(PynetError):
                for late in list(self._late.get(pool.id, ())):
                    self._release_address(pool.id, late)
            try:
                if wanted is None:
                    await self._pass_over_conflicts(pool, allocator)
                address = allocator.take(wanted)
            except (Conflict, Exhausted) as refusal:
                forgotten = await self._forgotten(pool, wanted)
                if forgotten is None or self._allocators.get(pool.id) is not allocator:
                    raise refusal from None
                allocator.give_back(forgotten)
                address = allocator.take(forgotten)
            if self._allocators.get(pool.id) is not allocator:
                raise InvalidRequest(f'pool "{shortened(pool_id)}" is being removed')
            lease = Lease(pool_id=pool.id, address=address)
            try:
                self._store.write(_lease(lease))
            except BaseException:
                allocator.give_back(address)
                raise
            self._late.get(pool.id, set()).discard(address)
            self._given_at[_key(lease)] = time.monotonic()
            self._given.put_nowait(pool.id)
        return IPNetwork(f"{address}/{pool.subnet.prefixlen}")

    async def _pass_over_conflicts(self, pool: Pool, allocator: Allocator) -> None:
        """See that the next address is one that nobody on the LAN has; those that are held come last from now on.

        Raises:
            Exhausted: others hold all that are left.
        """
        for _ in range(_CONFLICTS):
            upcoming = allocator.upcoming(1)
            if not upcoming:
                return  # which `take` says
            holder = await self._others.held_by(_of(pool), upcoming[0])
            if holder is None:
                return
            found = {upcoming[0]: holder}
            found |= await self._others.ask_ahead(_of(pool), allocator.upcoming(_AT_ONCE))
            _postpone(allocator, found)
        raise Exhausted(f"other machines on the LAN use the addresses of pool {pool.subnet} that are left")

    async def ask_ahead(self, pool_ids: Collection[str] | None = None) -> None:
        """Ask for the addresses that will be given next, so that no container's start has to wait for that.

        Args:
            pool_ids: of these pools, of all if it is None.
        """
        on_lans = self._others.pools
        pools = [self._pools[id] for id in (self._pools if pool_ids is None else pool_ids) if id in self._pools]
        asked = [one for one in pools if _of(one) in on_lans]
        for start in range(0, len(asked), _POOLS):
            await asyncio.gather(*(self._ask_ahead(one) for one in asked[start : start + _POOLS]))

    async def _ask_ahead(self, pool: Pool) -> None:
        allocator = self._allocators[pool.id]
        _postpone(allocator, await self._others.ask_ahead(_of(pool), allocator.upcoming(_AHEAD)))

    async def ask_next(self) -> None:
        """Ask for the next addresses soon after one was given, or before what is known of all is out of date."""
        pools: set[str] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_AHEAD_S):
                pools.add(await self._given.get())
        while not self._given.empty():
            pools.add(self._given.get_nowait())
        await self.ask_ahead(pools or None)

    def reserve(
        self, space: str, subnet: IPNetwork, named: IPAddress | None, taken: Iterable[IPAddress]
    ) -> IPAddress | None:
        """Hold an address of a pool for the host itself: the named one, or the last that is free and not taken.

        It goes with the pool. None if the pool is not one of pynet's. Raises Exhausted.
        """
        for pool in self._pools.values():
            if _of(pool) == (space, subnet):
                allocator = self._allocators[pool.id]
                if named is None or not allocator.holds(named):
                    named = allocator.take_last(taken) if named is None else allocator.take(named)
                    self._store.write(_lease(Lease(pool_id=pool.id, address=named)))
                return named
        return None

    async def _forgotten(self, pool: Pool, wanted: IPAddress | None) -> IPAddress | None:
        """Find a held address that no endpoint has: the engine released it while pynet did not run.

        One granted a moment ago has no endpoint yet. Of those granted before pynet's start that is not known, but
        an engine asks for a certain address only when it has released it.
        """
        unknown = self._started if wanted is None else -CLAIMING_S
        for address in [wanted] if wanted else self._allocators[pool.id].held():
            granted = self._given_at.get(_key(Lease(pool_id=pool.id, address=address)), unknown)
            if time.monotonic() - granted >= CLAIMING_S and await self._reclaim.is_free(_of(pool), address):
                return address
        return None

    def release_address(self, pool_id: str, address: IPAddress) -> None:
        """Let an address go; it is the last to be given again. One that is not held is fine. Raises PynetError."""
        allocator = self._allocators.get(pool_id)
        if allocator is not None and allocator.holds(address):
            self._release_address(pool_id, address)

    def _release_address(self, pool_id: str, address: IPAddress) -> None:
        late = self._late.setdefault(pool_id, set())
        late.add(address)
        self._releases += 1
        lease = Lease(pool_id=pool_id, address=address, released=self._releases)
        self._store.write(_lease(lease))
        late.discard(address)
        self._given_at.pop(_key(lease), None)
        forgotten = self._allocators[pool_id].give_back(address)
        if forgotten is not None:
            self._store.write(Change("lease", _key(replace(lease, address=forgotten)), None))


def _postpone(allocator: Allocator, held: Mapping[IPAddress, str]) -> None:
    """Give addresses that others on the LAN have only after all others."""
    for address, mac in held.items():
        if not allocator.holds(address):
            log.warning("address is in use on the LAN, passing it over", address=str(address), mac=mac)
            allocator.postpone(address)


def _of(pool: Pool) -> PoolKey:
    return pool.space, pool.subnet


def _lease(lease: Lease) -> Change:
    return Change("lease", _key(lease), encode(lease))


def _key(lease: Lease) -> str:
    return f"{lease.pool_id} {lease.address}"


def unique_local_prefix(seed: str) -> IPNetwork:
    """Derive this host's own /48 of fd00::/8 (RFC 4193, section 3.2) from something that stays the same."""
    global_id = int.from_bytes(sha256(b"pynet " + seed.encode()).digest()[:5])
    return IPNetwork(f"{IPAddress((0xFD << 120) | (global_id << 80), 6)}/48")
