"""NetworkDriver: what the engine asks for networks and endpoints, in its own words."""

from __future__ import annotations

from functools import partial

from pynetdriver.backends import backend_named
from pynetdriver.docker import messages as wire
from pynetdriver.docker.requests import requested_endpoint, requested_network, requested_options, requested_ports
from pynetdriver.locks import aside
from pynetdriver.networks.endpoints import Endpoints
from pynetdriver.networks.networks import Networks
from pynetdriver.networks.publishing import Publishing
from pynetdriver.networks.removal import Removal
from pynetdriver.networks.sandboxes import Sandboxes
from pynetdriver.plan import StaticRoute
from pynetdriver.portmap import RequestedPorts


class NetworkDriver:
    """Turns requests into records, and what was done into answers."""

    def __init__(
        self, networks: Networks, endpoints: Endpoints, removal: Removal, sandboxes: Sandboxes, publishing: Publishing
    ) -> None:
        self._networks = networks
        self._endpoints = endpoints
        self._removal = removal
        self._sandboxes = sandboxes
        self._publishing = publishing

    async def create_network(self, request: wire.CreateNetworkRequest) -> wire.Empty:
        """Make a network."""
        await self._networks.create(requested_network(request))
        return wire.Empty()

    async def delete_network(self, request: wire.NetworkRequest) -> wire.Empty:
        """Remove a network."""
        await self._networks.delete(request.network_id)
        return wire.Empty()

    async def check_gateways(self, request: wire.GwAllocCheckRequest) -> wire.GwAllocCheckResponse:
        """Tell which families of a network to come need no gateway address."""
        name, given = requested_options(request.options)
        internal = request.options is not None and request.options.internal
        skipped = backend_named(name).skipped_gateways(given, internal)
        return wire.GwAllocCheckResponse(skip_ipv4=4 in skipped, skip_ipv6=6 in skipped)

    async def create_endpoint(self, request: wire.CreateEndpointRequest) -> wire.CreateEndpointResponse:
        """Make an endpoint; the answer says what the request left open, and nothing else.

        The engine takes more for an attempt to change what it asked for.
        """
        network = await self._networks.present(request.network_id)
        endpoint = await self._endpoints.create(requested_endpoint(request, network))
        mac = "" if endpoint.mac_given else endpoint.mac
        address = str(endpoint.lease.address) if endpoint.lease else ""
        return wire.CreateEndpointResponse(wire.EndpointInterface(mac_address=mac, address=address))

    async def delete_endpoint(self, request: wire.EndpointRequest) -> wire.Empty:
        """Remove an endpoint."""
        await self._removal.delete(request.endpoint_id)
        return wire.Empty()

    async def oper_info(self, request: wire.EndpointRequest) -> wire.OperInfoResponse:
        """Answer at once, whatever is asked: up to engine 27 an error here fails a container's start."""
        return wire.OperInfoResponse()

    async def join(self, request: wire.JoinRequest) -> wire.JoinResponse:
        """Name the link to move into the sandbox, and the way out."""
        endpoint, attachment = await self._sandboxes.join(
            request.network_id, request.endpoint_id, request.sandbox_key, partial(requested_ports, request.options)
        )
        return wire.JoinResponse(
            interface_name=wire.InterfaceName(attachment.link, attachment.prefix, endpoint.ifname or ""),
            gateway=str(attachment.gateway4 or ""),
            gateway_ipv6=str(attachment.gateway6 or ""),
            static_routes=[_static_route(one) for one in attachment.routes],
            # Without it the engine would add a second interface on a bridge of its own.
            disable_gateway_service=not (attachment.gateway4 or attachment.gateway6),
        )

    async def leave(self, request: wire.EndpointRequest) -> wire.Empty:
        """Forget the sandbox, and what was published there."""
        await self._sandboxes.leave(request.endpoint_id)
        return wire.Empty()

    async def program(self, request: wire.ProgramRequest) -> wire.Empty:
        """Publish ports."""
        options = request.options
        size = len(options.port_map or ()) if options else 0
        ports = await aside(partial(requested_ports, options), size) or RequestedPorts()
        await self._publishing.publish(request.network_id, request.endpoint_id, ports)
        return wire.Empty()

    async def revoke(self, request: wire.EndpointRequest) -> wire.Empty:
        """Unpublish all ports."""
        await self._publishing.revoke(request.endpoint_id)
        return wire.Empty()


def _static_route(route: StaticRoute) -> wire.StaticRoute:
    """Write a route of a sandbox; its kind is 0 with a next hop, 1 without."""
    if route.next_hop is None:
        return wire.StaticRoute(str(route.destination), 1)
    return wire.StaticRoute(str(route.destination), 0, str(route.next_hop))
