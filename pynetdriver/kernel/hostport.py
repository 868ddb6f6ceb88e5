"""Host ports, held by bound sockets so that no process and no other driver takes them.

The sockets never listen and never see a packet: the ruleset translates before they would. TCP is bound
without SO_REUSEADDR on purpose, since two sockets that both have it may share a port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netaddr import IPAddress

from pynetdriver.errors import Conflict, Exhausted, HostError, InvalidRequest
from pynetdriver.model import PortMapping
from pynetdriver.plan import bracketed

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True)
class PortRequest:
    """A container port to publish on the same host port of every address, from `low` to `high`.

    Both 0 means any ephemeral port.
    """

    protocol: str
    host_addresses: tuple[IPAddress, ...]
    low: int
    high: int
    port: int


class HostPorts:
    """All host ports that endpoints of pynet hold; `Key` is protocol, host address, port."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, int], dict[IPAddress, str]] = {}
        self._held: dict[str, list[tuple[PortMapping, socket.socket | None]]] = {}
        self._next_ephemeral = 0

    def hold(self, holder: str, requests: Iterable[PortRequest]) -> tuple[PortMapping, ...]:
        """Take host ports for an endpoint, all or none.

        Raises:
            Conflict: a port is taken; the sentence says by whom where that can be known.
            Exhausted: nothing in the range is free.
            InvalidRequest: the host does not have the address.
        """
        before = len(self._held.setdefault(holder, []))
        try:
            # Fixed ports first, so that a range does not choose what another entry names.
            for request in sorted(requests, key=lambda one: (one.low == 0, one.high - one.low)):
                self._hold_one(holder, request)
        except BaseException:
            for mapping, bound in self._held[holder][before:]:
                self._free(mapping, bound)
            del self._held[holder][before:]
            raise
        return tuple(mapping for mapping, _ in self._held[holder][before:])

    def release(self, holder: str) -> None:
        """Free everything that an endpoint holds."""
        for mapping, bound in self._held.pop(holder, ()):
            self._free(mapping, bound)

    def close(self) -> None:
        """Free everything."""
        for holder in list(self._held):
            self.release(holder)

    def holder_of(self, protocol: str, address: IPAddress, port: int) -> str | None:
        """Tell which endpoint holds a port on an address that overlaps the given one."""
        for held, holder in self._holders.get((protocol, port), {}).items():
            if held.version == address.version and (held == address or not int(held) or not int(address)):
                return holder
        return None

    def _hold_one(self, holder: str, request: PortRequest) -> None:
        conflict: Conflict | None = None
        for number in self._candidates(request):
            bound: list[socket.socket | None] = []
            try:
                for address in request.host_addresses:
                    bound.append(self._bind(request.protocol, address, number))
            except BaseException as error:
                for one in bound:
                    if one is not None:
                        one.close()
                if not isinstance(error, Conflict):
                    raise
                conflict = error
                continue
            for address, one in zip(request.host_addresses, bound, strict=True):
                mapping = PortMapping(request.protocol, address, number, request.port)
                self._holders.setdefault((request.protocol, number), {})[address] = holder
                self._held[holder].append((mapping, one))
            return
        if conflict is not None and request.low == request.high != 0:
            raise conflict
        low, high = (request.low, request.high) if request.low else _ephemeral_range()
        raise Exhausted(
            f"no free {request.protocol} host port from {low} to {high} for container port {request.port}"
        )

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

    def _bind(self, protocol: str, address: IPAddress, number: int) -> socket.socket | None:
        where = f"{bracketed(address)}:{number}/{protocol}"
        holder = self.holder_of(protocol, address, number)
        if holder is not None:
            raise PortTaken(f"host port {where} is taken by {holder}", holder)
        kind, number_of_protocol = _SOCKETS[protocol]
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            bound = socket.socket(family, kind, number_of_protocol)
        except OSError:
            # A kernel without SCTP sockets still forwards SCTP; nobody else can bind there either.
            return None
        try:
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((str(address), number))
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"host port {where} is taken by {_process_at(protocol, number)}", None
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidRequest(
                    f"cannot publish on {where}: this host has no address {address}; publish on one that it has"
                ) from None
            raise HostError.of(error.errno or errno.EIO, f"hold host port {where}") from error
        return bound

    def _free(self, mapping: PortMapping, bound: socket.socket | None) -> None:
        if bound is not None:
            bound.close()
        key = (mapping.protocol, mapping.host_port)
        self._holders[key].pop(mapping.host_address)
        if not self._holders[key]:
            del self._holders[key]


class PortTaken(Conflict):
    """A host port is in use; `holder` is the endpoint if it is one of pynet's."""

    def __init__(self, message: str, holder: str | None) -> None:
        super().__init__(message)
        self.holder = holder


def _ephemeral_range() -> tuple[int, int]:
    low, high = _EPHEMERAL_RANGE.read_text().split()
    return int(low), int(high)


def _process_at(protocol: str, number: int) -> str:
    """Name the process that has a local port bound, as far as /proc tells."""
    inodes = set()
    for table in (Path(f"/proc/self/net/{protocol}"), Path(f"/proc/self/net/{protocol}6")):
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                columns = line.split()
                if int(columns[1].rpartition(":")[2], 16) == number:
                    inodes.add(f"socket:[{columns[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in inodes:
                process = descriptor.parent.parent
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return "another process"
