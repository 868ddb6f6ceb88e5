"""Host ports, held by bound sockets so that no process and no other driver takes them.

The ruleset translates packets before the sockets would see them. What it cannot translate goes to `relay`: IPv6 to
::1 or for IPv4, what containers that are kept apart send to each other's ports, and broadcasts. Other sockets never
listen and are never read.
TCP is bound without SO_REUSEADDR on purpose, since two sockets that both have it may share a port; see `portsocket`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netaddr import IPAddress

from pynetdriver.errors import Conflict, Exhausted, HostError, InvalidRequest, PynetError
from pynetdriver.kernel.portsocket import BROADCASTS, NOTHING, bind, is_only_closed, let_in, process_at
from pynetdriver.kernel.relay import Relay
from pynetdriver.locks import PART, Calls, in_parts
from pynetdriver.model import Endpoint, PortMapping
from pynetdriver.plan import bracketed
from pynetdriver.portmap import PortRequest, broadcasts_to, narrowest_first, relayed_to

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class HostPorts:
    """All host ports that endpoints of pynet hold."""

    def __init__(self, calls: Calls | None = None, engine_bridges: Callable[[], Set[str]] = frozenset) -> None:
        """Hold nothing yet; both arguments are for `Relay`."""
        self._endpoints: dict[tuple[str, int], dict[IPAddress, str]] = {}
        self._held: dict[str, dict[PortMapping, socket.socket | None]] = {}
        self._next_ephemeral = 0
        #: Tasks that release ports in parts, by endpoint.
        self._releasing: dict[str, asyncio.Task[None]] = {}
        self._relay = Relay(calls or Calls(), engine_bridges)

    def hold(
        self, endpoint: Endpoint, requests: Iterable[PortRequest], isolated: bool = False
    ) -> tuple[PortMapping, ...]:
        """Take host ports for an endpoint, all or none.

        Args:
            isolated: see `portmap.relayed_to`.

        Raises:
            PortTaken: a port is in use; the sentence says by whom where that can be known.
            Exhausted: nothing in the range is free.
            InvalidRequest: the host does not have the address.
        """
        new: list[PortMapping] = []
        relayed = partial(_relayed, addresses=endpoint.addresses, isolated=isolated)
        try:
            for request in narrowest_first(requests):
                new += self._hold_one(endpoint.id, request, relayed)
        except BaseException:
            self.release(endpoint.id, new)
            raise
        return tuple(new)

    def adopt(self, endpoint: Endpoint, mappings: Iterable[PortMapping], isolated: bool = False) -> list[PynetError]:
        """Take all ports that an endpoint has had already; one that cannot be bound is held without a socket.

        Returns what stood in the way: another process that took a port meanwhile, or an address that is gone.
        """
        failed: list[PynetError] = []
        addresses = endpoint.addresses
        for mapping in mappings:
            if not mapping.host_port or mapping in self._held.get(endpoint.id, {}):
                continue
            bound, relayed = None, _relayed(mapping, addresses, isolated)
            try:
                bound = self._bind(mapping, relayed)
            except PynetError as error:
                failed.append(error)
            self._keep(endpoint.id, mapping, bound, relayed)
        return failed

    def release(self, endpoint_id: str, mappings: Iterable[PortMapping]) -> None:
        """Free some of what an endpoint holds."""
        held = self._held.get(endpoint_id, {})
        for mapping in held.keys() & set(mappings):
            bound = held.pop(mapping)
            if bound is not None:
                self._relay.close(bound)
                bound.close()
            key = (mapping.protocol, mapping.host_port)
            addresses = self._endpoints.get(key, {})
            if addresses.get(mapping.host_address) == endpoint_id:
                del addresses[mapping.host_address]
            if not addresses:
                self._endpoints.pop(key, None)
        if not held:
            self._held.pop(endpoint_id, None)

    def let_go(self, endpoint_id: str, mappings: Collection[PortMapping]) -> None:
        """Free some of what an endpoint holds; many of them in parts, to the end also when the call is over."""
        if len(mappings) <= PART:
            self.release(endpoint_id, mappings)
            return
        former = self._releasing.get(endpoint_id)

        async def release() -> None:
            if former is not None:
                await former
            await self.release_in_parts(endpoint_id, mappings)
            if self._releasing.get(endpoint_id) is task:
                del self._releasing[endpoint_id]

        task = self._releasing[endpoint_id] = asyncio.ensure_future(release())

    async def release_in_parts(self, endpoint_id: str, mappings: Collection[PortMapping]) -> None:
        """Free some of what an endpoint holds, with turns for others."""
        async for part in in_parts(mappings):
            self.release(endpoint_id, part)

    def is_releasing(self, endpoint_id: str | None) -> bool:
        """Tell whether an endpoint is letting ports go."""
        return endpoint_id in self._releasing

    async def all_released(self, endpoint_id: str) -> None:
        """Wait until everything is free that an endpoint has let go."""
        while endpoint_id in self._releasing:
            await asyncio.shield(self._releasing[endpoint_id])

    def held_by(self, endpoint_id: str) -> list[PortMapping]:
        """Tell all that an endpoint holds, also what its record no longer has."""
        return list(self._held.get(endpoint_id, ()))

    def close(self) -> None:
        """Free everything."""
        for endpoint_id, held in list(self._held.items()):
            self.release(endpoint_id, list(held))

    def endpoint_with(self, protocol: str, address: IPAddress, port: int) -> str | None:
        """Tell which endpoint holds a port on an address that overlaps the given one."""
        for held, endpoint_id in self._endpoints.get((protocol, port), {}).items():
            if held.version == address.version and (held == address or not int(held) or not int(address)):
                return endpoint_id
        return None

    def _hold_one(
        self, endpoint_id: str, request: PortRequest, relayed_by: Callable[[PortMapping], _Relayed]
    ) -> list[PortMapping]:
        conflict: Conflict | None = None
        for number in self._candidates(request):
            mappings = [PortMapping(request.protocol, one, number, request.port) for one in request.host_addresses]
            relayed = [relayed_by(mapping) for mapping in mappings]
            bound: list[socket.socket | None] = []
            try:
                for mapping, to in zip(mappings, relayed, strict=True):
                    bound.append(self._bind(mapping, to, named=request.low == request.high != 0))
            except BaseException as error:
                for one in bound:
                    if one is not None:
                        one.close()
                if not isinstance(error, Conflict):
                    raise
                conflict = error
                continue
            for mapping, one, to in zip(mappings, bound, relayed, strict=True):
                self._keep(endpoint_id, mapping, one, to)
            return mappings
        if conflict is not None and request.low == request.high != 0:
            raise conflict
        low, high = (request.low, request.high) if request.low else _ephemeral_range()
        raise Exhausted(f"no free {request.protocol} host port from {low} to {high} for container port {request.port}")

    def _candidates(self, request: PortRequest) -> Iterator[int]:
        if request.low:
            yield from range(request.low, request.high + 1)
            return
        low, high = _ephemeral_range()
        for _ in range(low, high + 1):
            # Onward from the last choice, so that a port just freed is not given again at once.
            self._next_ephemeral = max(low, self._next_ephemeral + 1)
            if self._next_ephemeral > high:
                self._next_ephemeral = low
            yield self._next_ephemeral

    def _keep(self, endpoint_id: str, mapping: PortMapping, bound: socket.socket | None, to: _Relayed) -> None:
        self._held.setdefault(endpoint_id, {})[mapping] = bound
        at = self._endpoints.setdefault((mapping.protocol, mapping.host_port), {})
        at.setdefault(mapping.host_address, endpoint_id)
        if bound is not None and to.addresses:
            self._relay.open(bound, mapping.protocol, to.addresses, mapping.port, to.only_broadcasts)

    def _bind(self, mapping: PortMapping, to: _Relayed, named: bool = True) -> socket.socket | None:
        protocol, address, number = mapping.protocol, mapping.host_address, mapping.host_port
        endpoint_id = self.endpoint_with(protocol, address, number)
        if endpoint_id is not None:
            raise PortTaken(_where(mapping), protocol, number, endpoint_id)
        try:
            bound = bind(
                protocol,
                address,
                number,
                (lambda: named and is_only_closed(number, self._relay.is_ending(number))),
                listen=bool(to.addresses) and protocol == "tcp",
            )
            if bound is not None and protocol == "udp" and not to.addresses:
                let_in(bound, NOTHING)  # nobody reads it: what others broadcast would fill it, 200 KB each
            elif bound is not None and to.only_broadcasts:
                let_in(bound, BROADCASTS)
            return bound
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(_where(mapping), protocol, number, None) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidRequest(
                    f"cannot publish on {_where(mapping)}: this host has no address {address};"
                    " publish on one that it has"
                ) from None
            raise HostError.of(error.errno or errno.EIO, f"hold host port {_where(mapping)}") from error


@dataclass(frozen=True)
class _Relayed:
    """To which addresses of a container goes, best first, what comes to a socket; and whether only broadcasts do."""

    addresses: tuple[IPAddress, ...]
    only_broadcasts: bool


def _relayed(mapping: PortMapping, addresses: Mapping[int, IPAddress], isolated: bool) -> _Relayed:
    to = relayed_to(mapping, addresses, isolated)
    return _Relayed(to, False) if to else _Relayed(broadcasts_to(mapping, addresses), True)


def _where(mapping: PortMapping) -> str:
    return f"{bracketed(mapping.host_address)}:{mapping.host_port}/{mapping.protocol}"


class PortTaken(Conflict):
    """A host port is in use; `endpoint_id` is the endpoint if it is one of pynet's."""

    def __init__(self, where: str, protocol: str, number: int, endpoint_id: str | None) -> None:
        by = f"pynet's endpoint {endpoint_id[:12]}" if endpoint_id else "another process"
        super().__init__(f"host port {where} is taken by {by}; publish on another one")
        self.where = where
        self.protocol = protocol
        self.number = number
        self.endpoint_id = endpoint_id

    def named(self) -> Conflict:
        """Say which process it is, as far as /proc tells; looks through all of them, so not on the loop."""
        process = None if self.endpoint_id else process_at(self.protocol, self.number)
        if process is None:
            return self
        return Conflict(f"host port {self.where} is taken by {process}; stop it or publish on another port")


def _ephemeral_range() -> tuple[int, int]:
    low, high = _EPHEMERAL_RANGE.read_text().split()
    return int(low), int(high)
