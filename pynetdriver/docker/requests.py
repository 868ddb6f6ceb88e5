"""What may come in: requests for networks, endpoints and ports, checked on their own and made into records.

Pure; what depends on the host or on other networks is checked by the driver and the backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

from netaddr import EUI, AddrFormatError, IPAddress, IPNetwork, mac_unix_expanded

from pynetdriver.backends import DEFAULT, NAMES, backend_named, owners_of
from pynetdriver.docker import messages as wire
from pynetdriver.errors import Conflict, InvalidOption, InvalidRequest, shortened
from pynetdriver.model import Endpoint, Network, Subnet
from pynetdriver.names import endpoint_mac
from pynetdriver.options import ENGINE_OPTIONS, link_name, parse_options
from pynetdriver.plan import PROTOCOLS
from pynetdriver.pool import is_host_address, parse_address, parse_network, parse_subnet
from pynetdriver.portmap import PortBinding, RequestedPorts

IFNAME_OPTION = "com.docker.network.endpoint.ifname"
#: Name of an auxiliary address that is the host's own, where the network gives it one.
HOST = "host"
#: Names of auxiliary addresses that are containers' gateways (libnetwork's drivers/bridge).
DEFAULT_GATEWAYS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}


def requested_options(given: wire.NetworkOptions | None) -> tuple[str, dict[str, str]]:
    """Read which backend is asked for, and with which options, all checked. Raises InvalidOption."""
    typed = dict((given and given.generic) or {})
    name = _backend_name(typed, typed.pop("backend", None))
    backend = backend_named(name)
    for key in typed:
        owners = owners_of(key)
        if owners and name not in owners:
            raise InvalidOption(f'option "{key}" belongs to backend {" and ".join(owners)}, not to {name}')
    parse_options(backend.Options, typed)
    return name, typed


def _backend_name(typed: Mapping[str, str], given: str | None) -> str:
    """Tell which backend is meant: the one that is named, or that of which an option is. Raises InvalidOption."""
    implied = {key: name for name in NAMES for key in backend_named(name).IMPLIED_BY if key in typed}
    names = dict.fromkeys([*([] if given is None else [given]), *implied.values()])
    if len(names) > 1:
        means = [
            *([] if given is None else [f"backend={given}"]),
            *(f"{key} (backend {name})" for key, name in implied.items()),
        ]
        raise InvalidOption(f"{' and '.join(means)} contradict each other; give options of one backend")
    for name in names:
        return name
    for key in typed:
        owners = owners_of(key)
        if len(owners) > 1 and DEFAULT not in owners:
            raise InvalidOption(f'option "{key}" needs a backend: add -o backend={" or -o backend=".join(owners)}')
    return DEFAULT


def requested_network(request: wire.CreateNetworkRequest) -> Network:
    """Read a request for a network, its options checked. Raises InvalidRequest."""
    given = request.options or wire.NetworkOptions()
    name, typed = requested_options(given)
    subnets = []
    for version, data in ((4, request.ipv4_data), (6, request.ipv6_data)):
        for one in data or []:
            pool = parse_subnet(one.pool, "subnet")
            if pool.version != version:
                raise InvalidRequest(f"subnet {pool} is not an IPv{version} subnet")
            if pool.prefixlen == 0:
                continue  # the engine's null IPAM: no addresses
            gateway = parse_network(one.gateway, "gateway") if one.gateway else None
            if gateway is not None and not (gateway.ip in pool and is_host_address(gateway.ip, pool)):
                raise InvalidRequest(f"gateway {gateway.ip} is not a host address of its subnet {pool}")
            aux = {
                name: parse_network(text, "auxiliary address").ip for name, text in (one.aux_addresses or {}).items()
            }
            default_gateway = aux.get(DEFAULT_GATEWAYS[version])
            if default_gateway is not None and given.internal:
                raise InvalidRequest(
                    f"{DEFAULT_GATEWAYS[version]}={default_gateway} contradicts --internal, which has no way out"
                )
            subnets.append(
                Subnet(
                    pool,
                    gateway.ip if gateway else None,
                    one.address_space,
                    tuple(aux.values()),
                    default_gateway,
                    aux.get(HOST),
                )
            )
    return Network(
        id=request.network_id,
        backend=name,
        options=typed,
        subnets=tuple(subnets),
        internal=given.internal,
    )


def requested_endpoint(request: wire.CreateEndpointRequest, network: Network) -> Endpoint:
    """Read a request for an endpoint of a network. Raises InvalidRequest or Conflict."""
    interface = request.interface or wire.EndpointInterface()
    address4 = _endpoint_address(interface.address, 4, network)
    address6 = _endpoint_address(interface.address_ipv6, 6, network)
    given_mac = _parse_mac(interface.mac_address) if interface.mac_address else None
    endpoint = Endpoint(
        id=request.endpoint_id,
        network_id=network.id,
        mac=given_mac or endpoint_mac(request.endpoint_id, address4.ip if address4 else None),
        mac_given=given_mac is not None,
        address4=address4,
        address6=address6,
        ifname=_endpoint_options(request.options or {}),
        traits=_traits(request.options or {}) if "dhcp" in network.options else "",
    )
    return backend_named(network.backend).admitted(network, endpoint)


def requested_ports(options: wire.PortOptions | None) -> RequestedPorts | None:
    """Read a container's `-p`; None if nothing is said of ports. Raises InvalidRequest."""
    if options is None or options.port_map is None:
        return None
    bindings = []
    for one in options.port_map:
        if one.protocol not in PROTOCOLS:
            raise InvalidRequest(f"cannot publish protocol number {one.protocol}; only tcp, udp and sctp have ports")
        address = _host_address(one.host_ip) if one.host_ip else None
        bindings.append(PortBinding(PROTOCOLS[one.protocol], one.port, address, one.host_port, one.host_port_end))
    return RequestedPorts(tuple(bindings), six_to_four=not options.no_proxy_6to4)


@lru_cache(256)
def _host_address(text: str) -> IPAddress:
    """Read the address of a `-p`; a thousand of them have few between them."""
    return parse_address(text, "host address")


def _traits(options: Mapping[str, Any]) -> str:
    """Digest what is said of a container and stays the same when it is started again: ports, name servers, its options.

    The engine writes lists in any order.
    """
    said = {
        name: sorted(json.dumps(one, sort_keys=True) for one in value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16] if any(said.values()) else ""


def _endpoint_options(options: dict[str, Any]) -> str | None:
    for name in options:
        if not name.startswith(ENGINE_OPTIONS):
            raise InvalidOption.unknown(name, [IFNAME_OPTION], "endpoint option")
    ifname = options.get(IFNAME_OPTION)
    if ifname in (None, ""):
        return None
    try:
        return str(link_name.parse(str(ifname)))
    except ValueError:
        raise InvalidOption.value(IFNAME_OPTION, str(ifname), link_name.allowed) from None


def _endpoint_address(text: str, version: int, network: Network) -> IPNetwork | None:
    if not text:
        return None
    address = parse_network(text, "address")
    if address.version != version:
        raise InvalidRequest(f"address {text} is not an IPv{version} address")
    for subnet in network.subnets:
        if address.ip in subnet.pool:
            if address.prefixlen != subnet.pool.prefixlen:
                raise InvalidRequest(f"address {text} has not the prefix length of its subnet {subnet.pool}")
            if address.ip == subnet.gateway:
                raise Conflict(f"address {address.ip} is the gateway of network {network.id[:12]}; choose another")
            if not is_host_address(address.ip, subnet.pool):
                raise InvalidRequest(f"address {address.ip} is the network or broadcast address of {subnet.pool}")
            return address
    pools = ", ".join(str(one.pool) for one in network.subnets if one.pool.version == version) or "none"
    raise InvalidRequest(f"address {address.ip} is outside the network's IPv{version} subnets ({pools})")


def _parse_mac(text: str) -> str:
    try:
        mac = EUI(text, version=48, dialect=mac_unix_expanded)
    except (AddrFormatError, ValueError):
        raise InvalidRequest(f'MAC address "{shortened(text)}" is not of the form 02:42:0a:09:00:02') from None
    if int(mac) == 0 or mac.words[0] & 1:
        raise InvalidRequest(f"MAC address {mac} is not one of a single interface; its first byte must be even")
    return str(mac)
