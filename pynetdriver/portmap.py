"""From the engine's port list to requests for host ports, pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from pynetdriver.errors import InvalidRequest
from pynetdriver.model import Endpoint, PortMapping

#: Those that `kernel.relay` carries where the kernel does not translate.
_RELAYED = ("tcp", "udp")
_BROADCAST = 0xFFFFFFFF
#: Such addresses are one link's each, which `-p` cannot name (RFC 4007).
_LINK_LOCAL6 = IPNetwork("fe80::/10")
_LOOPBACK6 = IPAddress("::1")


class PortBinding(Struct, frozen=True):
    """A `-p`: a container's port, and the host's address and ports that are to lead there.

    Without a host address it is the network's to choose; host port 0 asks for any; `host_port_end` ends the range to
    choose from, 0 for none.
    """

    protocol: str
    port: int
    host_address: IPAddress | None = None
    host_port: int = 0
    host_port_end: int = 0


class RequestedPorts(Struct, frozen=True):
    """All of a container's `-p`; `six_to_four` lets a port on IPv6 lead to a container that has IPv4 alone."""

    bindings: tuple[PortBinding, ...] = ()
    six_to_four: bool = True


@dataclass(frozen=True)
class PortRequest:
    """A container port to publish on one and the same host port of every address, from `low` to `high`.

    Both 0 means any ephemeral port.
    """

    protocol: str
    host_addresses: tuple[IPAddress, ...]
    low: int
    high: int
    port: int


def port_requests(
    bindings: Iterable[PortBinding],
    endpoint: Endpoint,
    defaults: tuple[IPAddress, ...],
    *,
    six_to_four: bool = True,
) -> list[PortRequest]:
    """Tell which host ports an endpoint's `-p` flags ask for; repeated ones count once.

    Args:
        defaults: the host address of each family for a binding that names none; a family in which the
            container has no address is left out, unless it can be relayed to the other one.
        six_to_four: whether a container that has IPv4 alone is published on IPv6; if not, others see to that.

    Raises:
        InvalidRequest: an address on which nobody reaches this host, a range that ends before it starts, or an
            address of a family in which the container cannot be reached.
    """
    requests: dict[PortRequest, None] = {}
    for binding in bindings:
        high = binding.host_port_end or binding.host_port
        if high < binding.host_port or (high and not binding.host_port):
            raise InvalidRequest(f"host port range {binding.host_port}-{high} is empty")
        if endpoint.address4 is None and endpoint.address6 is None:
            raise InvalidRequest("cannot publish a port: the container has no address on this network")
        addresses = _host_addresses(binding, endpoint, defaults, six_to_four)
        if addresses:
            requests[PortRequest(binding.protocol, addresses, binding.host_port, high, binding.port)] = None
    return list(requests)


def split_opened(
    bindings: Iterable[PortBinding], endpoint: Endpoint, versions: Container[int]
) -> tuple[list[PortMapping], list[PortBinding], Endpoint]:
    """Take apart what is opened at the container's own address, in the given IP versions.

    Host addresses and ports mean nothing there, as in the engine's own driver.

    Returns:
        what is opened, and the bindings and the endpoint without that, for `port_requests`.
    """
    opened: dict[PortMapping, None] = {}
    left = []
    for binding in bindings:
        given = binding.host_address
        for net in (endpoint.address4, endpoint.address6):
            if net is not None and net.version in versions and (given is None or given.version == net.version):
                opened[PortMapping(binding.protocol, IPAddress(0, net.version), 0, binding.port)] = None
        if given is None or given.version not in versions:
            left.append(binding)
    kept = {net.version: net for net in (endpoint.address4, endpoint.address6) if net and net.version not in versions}
    if not kept:
        left = []
    return list(opened), left, replace(endpoint, address4=kept.get(4), address6=kept.get(6))


def translated_to(mapping: PortMapping, addresses: Mapping[int, IPAddress]) -> IPAddress | None:
    """Tell to which of a container's addresses, given by IP version, the kernel translates a host port.

    None to ::1, to a link-local address, which is no destination without its link, nor from one family to the other.
    """
    address = None if mapping.host_address == _LOOPBACK6 else addresses.get(mapping.host_address.version)
    return None if address is None or address in _LINK_LOCAL6 else address


def relayed_to(
    mapping: PortMapping, addresses: Mapping[int, IPAddress], isolated: bool = False
) -> tuple[IPAddress, ...]:
    """Tell where to go, best first, with what comes to a host port untranslated; nowhere if nothing should.

    Args:
        addresses: the container's, by IP version.
        isolated: containers of the endpoint's network do not reach each other: what they send to the port comes
            untranslated.
    """
    host = mapping.host_address
    if mapping.protocol not in _RELAYED:
        return ()
    if translated_to(mapping, addresses) is not None:
        of_containers = isolated and not host.is_loopback()
        if not of_containers and (host.version == 4 or int(host) != 0):
            return ()
    versions = (4, 6) if host.version == 4 else (6, 4)
    found = [addresses[version] for version in versions if version in addresses]
    return tuple(one for one in found if one not in _LINK_LOCAL6)


def broadcasts_to(mapping: PortMapping, addresses: Mapping[int, IPAddress]) -> tuple[IPAddress, ...]:
    """Tell where broadcasts to a host port go; the kernel translates only what is sent to an address of the host."""
    if mapping.protocol != "udp" or mapping.host_address.version != 4 or int(mapping.host_address):
        return ()
    return (addresses[4],) if 4 in addresses else ()


def _host_addresses(
    binding: PortBinding, endpoint: Endpoint, defaults: tuple[IPAddress, ...], six_to_four: bool
) -> tuple[IPAddress, ...]:
    protocol, given = binding.protocol, binding.host_address
    versions = [net.version for net in (endpoint.address4, endpoint.address6) if net is not None]
    if given is None:
        # Who binds to one address of IPv4 does not want to be open on all of IPv6; who binds to IPv6 alone does.
        means_six = not any(map(int, defaults)) or all(one.version == 6 for one in defaults)
        relays = six_to_four and protocol in _RELAYED and versions == [4] and means_six
        return tuple(one for one in defaults if one.version in versions or relays)
    if given.is_multicast() or int(given) == _BROADCAST or given.is_ipv4_mapped() or given in _LINK_LOCAL6:
        raise InvalidRequest(f"cannot publish on {given}: it is not an address that others reach this host by")
    if given == _LOOPBACK6 and protocol not in _RELAYED:
        raise InvalidRequest(f"cannot publish {protocol} on ::1: the kernel routes nothing to or from it")
    if given.version not in versions:
        if given.version == 4 or protocol not in _RELAYED:
            raise InvalidRequest(
                f"cannot publish {protocol} on {given}: the container has no IPv{given.version} address on this network"
            )
        if not six_to_four:
            return ()
    return (given,)


def narrowest_first(requests: Iterable[PortRequest]) -> list[PortRequest]:
    """Sort requests so that a range does not choose what another one names: fixed ports, ranges, ephemeral ones."""
    return sorted(requests, key=lambda one: (one.low == 0, one.high - one.low))


def split_satisfied(
    requests: Iterable[PortRequest], held: Iterable[PortMapping]
) -> tuple[list[PortMapping], list[PortRequest]]:
    """Tell what of `held` answers the requests already, and which requests are left.

    A repeated call keeps the host ports that the first one chose.
    """
    free: dict[tuple[str, int], dict[int, dict[IPAddress, PortMapping]]] = {}
    for one in held:
        free.setdefault((one.protocol, one.port), {}).setdefault(one.host_port, {})[one.host_address] = one
    kept: list[PortMapping] = []
    left = []
    for request in narrowest_first(requests):
        by_port = free.get((request.protocol, request.port), {})
        for number in [request.low] if request.low == request.high != 0 else by_port:
            there = by_port.get(number, {})
            in_range = not request.low or request.low <= number <= request.high
            if in_range and there.keys() >= set(request.host_addresses):
                kept += [there.pop(address) for address in request.host_addresses]
                if not there:
                    del by_port[number]
                break
        else:
            left.append(request)
    return kept, left
