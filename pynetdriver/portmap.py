"""From the engine's port list to requests for host ports, pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netaddr import IPAddress

from pynetdriver.errors import InvalidRequest
from pynetdriver.messages import PortBinding
from pynetdriver.model import Endpoint, PortMapping
from pynetdriver.pool import parse_address

#: IANA protocol numbers that can be published; the engine knows ICMP too, which has no ports.
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


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
    bindings: Iterable[PortBinding], endpoint: Endpoint, defaults: tuple[IPAddress, IPAddress]
) -> list[PortRequest]:
    """Tell which host ports an endpoint's `-p` flags ask for; repeated ones count once.

    Args:
        defaults: the host address of each family for a binding that names none; a family in which the
            container has no address is left out.

    Raises:
        InvalidRequest: an unknown protocol, a bad address, a range that ends before it starts, or an
            address of a family that the container does not have.
    """
    requests: dict[PortRequest, None] = {}
    for binding in bindings:
        if binding.protocol not in PROTOCOLS:
            raise InvalidRequest(
                f"cannot publish protocol number {binding.protocol}; only tcp, udp and sctp have ports"
            )
        high = binding.host_port_end or binding.host_port
        if high < binding.host_port or (high and not binding.host_port):
            raise InvalidRequest(f"host port range {binding.host_port}-{high} is empty")
        given = parse_address(binding.host_ip, "host address") if binding.host_ip else None
        versions = [net.version for net in (endpoint.address4, endpoint.address6) if net is not None]
        addresses = [given] if given is not None else [one for one in defaults if one.version in versions]
        if given is not None and given.is_loopback() and given.version == 6:
            raise InvalidRequest("cannot publish on ::1: the kernel routes nothing to or from it; use 127.0.0.1")
        if given is not None and given.version not in versions:
            raise InvalidRequest(
                f"cannot publish on {given}: the container has no IPv{given.version} address on this network"
            )
        if not addresses:
            raise InvalidRequest("cannot publish a port: the container has no address on this network")
        request = PortRequest(PROTOCOLS[binding.protocol], tuple(addresses), binding.host_port, high, binding.port)
        requests[request] = None
    return list(requests)


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
