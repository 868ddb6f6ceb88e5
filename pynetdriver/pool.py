"""Pools: which subnet, which address. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from netaddr import INET_PTON, AddrFormatError, IPAddress, IPNetwork

from pynetdriver.errors import Conflict, Exhausted, InvalidRequest, shortened


@dataclass(frozen=True)
class PoolUse:
    """How much of a pool is held; `range` is the part that addresses are given from, None for all of it."""

    subnet: IPNetwork
    range: IPNetwork | None
    space: str
    size: int
    used: int


#: An address space and a subnet: what one LAN has in one space, another may have in the other.
PoolKey = tuple[str, IPNetwork]
#: Where pools come from when none is asked for: private space (RFC 1918) that is rarely in use.
POOLS4 = (IPNetwork("10.192.0.0/10"), IPNetwork("172.16.0.0/12"), IPNetwork("192.168.0.0/16"))
POOL4_LENGTH = 24
POOL6_LENGTH = 64
#: Routes shorter than this do not claim the space they cover: VPNs route 0.0.0.0/1 and 128.0.0.0/1.
CLAIM_LENGTH = {4: 4, 6: 7}
#: Where the host's own address in an IPv6 subnet is, counted from the first.
_HIGH6 = 0xFFFD
#: How many released addresses are remembered in order; only IPv6 pools are larger than that matters.
REMEMBERED = 4096


def parse_address(text: str, what: str) -> IPAddress:
    """Read an address in its full form, 10.9.0.2 or fd00:9::2."""
    try:
        return IPAddress(text, flags=INET_PTON)
    except (AddrFormatError, ValueError):
        raise InvalidRequest(f'{what} "{shortened(text)}" is not an IP address') from None


def parse_network(text: str, what: str) -> IPNetwork:
    """Read an address with its prefix length, e.g. 10.9.0.2/24."""
    address, slash, length = text.partition("/")
    parse_address(address, what)
    try:
        if not slash or not length.isdigit():
            raise AddrFormatError
        return IPNetwork(text)
    except (AddrFormatError, ValueError):
        raise InvalidRequest(
            f'{what} "{shortened(text)}" is not an address with a prefix length, like 10.9.0.2/24'
        ) from None


def parse_subnet(text: str, what: str) -> IPNetwork:
    """Read a subnet; host bits must be zero."""
    subnet = parse_network(text, what)
    if subnet.ip != subnet.network:
        raise InvalidRequest(f'{what} "{shortened(text)}" has host bits set; did you mean {subnet.cidr}?')
    return subnet


def is_host_address(address: IPAddress, subnet: IPNetwork) -> bool:
    """Tell whether an address of a subnet may be that of a host in it."""
    first, last = _usable(subnet)
    return bool(first <= int(address) <= last)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Tell whether two subnets share an address."""
    return one.version == other.version and one.first <= other.last and other.first <= one.last


def free_pool(version: int, bases: Iterable[IPNetwork], taken: Iterable[IPNetwork]) -> IPNetwork:
    """Choose a subnet of the bases that overlaps nothing that is taken.

    Raises:
        Exhausted: there is none.
    """
    length = POOL4_LENGTH if version == 4 else POOL6_LENGTH
    claimed = sorted(
        (one for one in taken if one.version == version and one.prefixlen >= CLAIM_LENGTH[version]),
        key=lambda one: int(one.first),
    )
    for base in bases:
        size = 1 << ((32 if version == 4 else 128) - length)
        start = base.first
        # Jump behind whatever is in the way instead of trying every subnet.
        for one in claimed:
            if one.last < start:
                continue
            if one.first >= start + size:
                break
            start = (one.last // size + 1) * size
        if start + size - 1 <= base.last:
            return IPNetwork(f"{IPAddress(start, base.version)}/{length}")
    raise Exhausted(f"no free IPv{version} pool is left on this host; give one with --subnet")


def last_free(subnet: IPNetwork, taken: Container[IPAddress]) -> IPAddress:
    """Choose the address of a subnet that is handed out last: IPv4 its last, IPv6 one high up.

    The last of an IPv6 subnet are anycast addresses (RFC 2526).

    Raises:
        Exhausted: all are taken.
    """
    return _last_free(subnet, *_usable(subnet), taken)


def _last_free(subnet: IPNetwork, first: int, last: int, taken: Container[IPAddress]) -> IPAddress:
    for number in range(min(last, first + _HIGH6) if subnet.version == 6 else last, first - 1, -1):
        address = IPAddress(number, subnet.version)
        if address not in taken:
            return address
    raise Exhausted(f"pool {subnet} has no free address left")


class Allocator:
    """The addresses of one pool: fresh ones in order, then those released, longest ago first."""

    def __init__(self, subnet: IPNetwork, within: IPNetwork | None) -> None:
        self._subnet = subnet
        self._first, self._last = _usable(subnet)
        if within is not None:
            self._first, self._last = max(self._first, within.first), min(self._last, within.last)
        self._next = self._first
        self._held: set[int] = set()
        self._released: dict[int, None] = {}

    @property
    def size(self) -> int:
        """How many addresses there are to give."""
        return self._last - self._first + 1

    @property
    def used(self) -> int:
        """How many addresses are held."""
        return len(self._held)

    def held(self) -> list[IPAddress]:
        """List the addresses that are held."""
        return [IPAddress(number, self._subnet.version) for number in sorted(self._held)]

    def take(self, address: IPAddress | None) -> IPAddress:
        """Take an address, or any.

        Raises:
            InvalidRequest: it is not a host address of the pool.
            Conflict: it is held.
            Exhausted: none is left.
        """
        number = self._any() if address is None else self._checked(address)
        self._held.add(number)
        self._released.pop(number, None)
        return IPAddress(number, self._subnet.version)

    def take_last(self, taken: Iterable[IPAddress]) -> IPAddress:
        """Take the address that would be handed out last, of those not taken elsewhere. Raises Exhausted."""
        held = {IPAddress(number, self._subnet.version) for number in self._held}
        return self.take(_last_free(self._subnet, self._first, self._last, held.union(taken)))

    def give_back(self, address: IPAddress) -> IPAddress | None:
        """Release a held address; returns one that is no longer remembered as released, if any."""
        self._held.discard(int(address))
        self._released[int(address)] = None
        if len(self._released) <= REMEMBERED:
            return None
        forgotten = next(iter(self._released))
        del self._released[forgotten]
        return IPAddress(forgotten, self._subnet.version)

    def postpone(self, address: IPAddress) -> None:
        """Give a free address only after all others; forgotten with the process."""
        self._released.pop(int(address), None)
        self._released[int(address)] = None

    def upcoming(self, number: int) -> list[IPAddress]:
        """List the addresses that would be given next, at most so many."""
        found = list(islice(self._candidates(), number))
        return [IPAddress(one, self._subnet.version) for one in found]

    def holds(self, address: IPAddress) -> bool:
        """Tell whether an address is held."""
        return int(address) in self._held

    def restore(self, held: Iterable[IPAddress], released: Iterable[IPAddress]) -> None:
        """Take up where an earlier process stopped; `released` comes in order."""
        self._held = {int(one) for one in held}
        self._released = dict.fromkeys(int(one) for one in released)

    def _checked(self, address: IPAddress) -> int:
        if address not in self._subnet:
            raise InvalidRequest(f"address {address} is outside its pool {self._subnet}")
        number = int(address)
        if not is_host_address(address, self._subnet):
            raise InvalidRequest(f"address {address} is the network or broadcast address of {self._subnet}")
        if number in self._held:
            raise Conflict(f"address {address} of pool {self._subnet} is in use")
        return number

    def _any(self) -> int:
        for number in self._candidates():
            if number not in self._released:
                self._next = number + 1
            return number
        raise Exhausted(f"pool {self._subnet} has no free address left")

    def _candidates(self) -> Iterator[int]:
        """Go through what is free, in the order in which it is given."""
        yield from self._fresh(self._next, self._last)
        yield from (number for number in self._released if self._first <= number <= self._last)
        # Addresses released so long ago that they are forgotten are behind the mark.
        yield from self._fresh(self._first, min(self._next - 1, self._last))

    def _fresh(self, first: int, last: int) -> Iterator[int]:
        return (one for one in range(first, last + 1) if one not in self._held and one not in self._released)


def _usable(subnet: IPNetwork) -> tuple[int, int]:
    """First and last host address: IPv4 up to /30 has network and broadcast, IPv6 the anycast (RFC 4291)."""
    if subnet.version == 6:
        return (subnet.first + 1, subnet.last) if subnet.prefixlen < 127 else (subnet.first, subnet.last)
    return (subnet.first + 1, subnet.last - 1) if subnet.prefixlen < 31 else (subnet.first, subnet.last)
