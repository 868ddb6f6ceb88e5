"""Gateways of networks on a LAN: those that the host would take, and those that an IPAM driver may have made up."""

from __future__ import annotations

import asyncio

import structlog
from msgspec.structs import replace
from netaddr import IPNetwork

from pynetdriver.addresses.neighbours import Neighbours
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.model import Endpoint, Network
from pynetdriver.state.journal import Journal
from pynetdriver.state.registry import Registry

log = structlog.get_logger()


class Gateways:
    """Doubts gateways until somebody on the LAN answers for them."""

    def __init__(self, registry: Registry, journal: Journal, neighbours: Neighbours, netlink: Netlink) -> None:
        self._registry = registry
        self._journal = journal
        self._neighbours = neighbours
        self._netlink = netlink

    async def cut_off(self, network: Network, endpoint: Endpoint) -> tuple[int, ...]:
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

    async def warn(self, network: Network) -> None:
        """Say that containers will have no way out, since nobody is at the gateway that they are told."""
        link, silent, there = await self._neighbours.silent_gateways(network)
        for subnet in network.subnets:
            if subnet.doubted and subnet.gateway in there:
                self._trust(network.id, subnet.pool)
        for gateway in silent:
            if network.id not in self._registry.networks or self._registry.endpoint_at(network.id, gateway):
                continue
            router = await self._netlink.router(link, gateway.version)
            log.warning(
                "nobody on the LAN answers for this network's gateway, so its containers have no way out;"
                " make it again with --gateway ROUTER",
                network=network.id[:12],
                parent=link,
                gateway=str(gateway),
                router_of_this_host=str(router) if router else "none there",
            )

    def _trust(self, network_id: str, pool: IPNetwork) -> None:
        """Note that somebody answered for a subnet's gateway."""
        network = self._registry.networks.get(network_id)
        if network is not None and network.phase == "ready":
            subnets = tuple(replace(one, doubted=one.doubted and one.pool != pool) for one in network.subnets)
            self._registry.know_network(replace(network, subnets=subnets))
            self._journal.write(self._registry.networks[network_id])
