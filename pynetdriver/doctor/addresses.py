"""Addresses, routes and ports that something else on the host has taken from a network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netaddr import IPAddress, IPNetwork
from pyroute2 import DiagSocket
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.admin.answers import Finding, Network, Port
from pynetdriver.doctor.facts import Way, title, versions
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import Host, text
from pynetdriver.errors import PynetError
from pynetdriver.lan.probe import holders
from pynetdriver.names import shim_link

#: A set of states; TCP_LISTEN is 10 (linux/tcp_states.h).
_LISTENING = 1 << 10
_ANY = {4: IPAddress("0.0.0.0"), 6: IPAddress("::")}
#: A network of so many containers is judged by some of them.
_SAMPLES = 64


def ways_out(host: Host) -> Iterator[Finding]:
    """Containers have no way out of a host that has none."""
    for version in (4,):
        networks = [title(one) for one in host.outgoing if version in versions(one)]
        if networks and not host.default_links(version):
            links = sorted({one.link for one in host.addresses if one.address.version == version} - {"lo", ""})
            outer = next((one for one in links if not host.links[one].is_bridge), "LINK")
            yield warning(
                "default-route",
                f"this host has no IPv{version} default route, so containers of network {', '.join(networks)} reach the"
                " host's own networks and nothing beyond",
                command=f"ip route add default via ROUTER dev {outer}",
            )


def ways_in(host: Host) -> Iterator[Finding]:
    """The host's packets to a container have to take the network's link."""
    for network in host.networks:
        link = network.link if network in host.bridged else shim_link(network.link or "")
        if link not in host.links or not host.links[link].up:
            continue
        said: set[str] = set()
        for address in _targets(host, network):
            way = host.way(address)
            if way.link == link and way.kind == "unicast":
                continue
            finding = _astray(host, network, link, address, way)
            if finding.command not in said:
                said.add(finding.command)
                yield finding


def _targets(host: Host, network: Network) -> list[IPAddress]:
    """Addresses of containers, and in their absence one that the next would get; those that routes of others cover."""
    found = [IPNetwork(text).ip for one in network.endpoints if one.joined for text in one.addresses]
    if network not in host.bridged:
        hosted = [IPNetwork(one.pool) for one in network.subnets if one.host]
        return [one for one in found if any(one in pool for pool in hosted)][:_SAMPLES]
    pools = [IPNetwork(one.pool) for one in network.subnets]
    covered = [one.to for one in host.routes if one.link != network.link and one.to.prefixlen]
    samples = [one[min(2, one.size - 1)] for pool in pools for one in covered if one in pool]
    return found[:_SAMPLES] + samples


def _astray(host: Host, network: Network, link: str, address: IPAddress, way: Way) -> Finding:
    reached = f"{address} of network {title(network)}"
    if way.kind == "local":
        owner = next((one for one in host.addresses if one.address.ip == address), None)
        return error(
            "addresses",
            f"{reached} is also this host's own address on {owner.link if owner else '?'}: what is meant for the"
            " container stays on the host",
            command=f"ip address del {owner.address} dev {owner.link}" if owner else f"ip route get {address}",
        )
    route = _route(host, address, link)
    other = way.link or "nowhere"
    if network not in host.bridged:
        command = f"ip route replace {address} dev {link}"
    elif route is None:
        command = host.repair
    else:
        command = f"ip route del {route} dev {other}"
    return error(
        "routes",
        f"this host sends what is for {reached} to {other} and not to {link}"
        + (f", by a route to {route} that came later" if route else "")
        + ": the container cannot be reached, and gets no answers. Remove the route, or make the network again with"
        " another --subnet",
        command=command,
    )


def _route(host: Host, address: IPAddress, link: str) -> IPNetwork | None:
    """The narrowest route of others that covers an address."""
    found = [one.to for one in host.routes if one.link != link and one.to.prefixlen and address in one.to]
    return max(found, key=lambda one: one.prefixlen, default=None)


def ports(host: Host) -> Iterator[Finding]:
    """A published port that somebody else listens on as well is reached at the container or there, by who asks."""
    published = [
        (one, network)
        for network in host.networks
        for endpoint in network.endpoints
        for one in endpoint.ports
        if one.host_port and one.protocol == "tcp"
    ]
    if not published:
        return
    for listener in listeners():
        shared = [(port, network) for port, network in published if listener.takes(port)]
        process = _process_at(listener.inode) if shared else None
        if process is not None and process[1] != host.daemon_pid:
            (port, network), (name, pid) = shared[0], process
            yield error(
                "ports",
                f"port {port.host_port}/tcp of {port.host_address} is published by network {title(network)}, and"
                f" {name} (process {pid}) listens on it at {listener.address} as well: clients elsewhere reach the"
                " container, and the program gets nothing",
                command=f"kill {pid}",
            )


def gateways(host: Host) -> Iterator[Finding]:
    """Containers on a LAN have no way out if nobody there has the address that they are told."""
    for network in host.on_parents:
        link = host.links.get(network.link or "")
        if link is None or not link.running or network.internal or network.options.get("conflict_check") == "false":
            continue
        if network.options.get("ipvlan_mode", "l2") not in ("", "l2"):
            continue  # the host itself is the way out
        here = {IPAddress(one.partition("/")[0]) for endpoint in network.endpoints for one in endpoint.addresses}
        here |= {one.address.ip for one in host.addresses}
        told = [IPAddress(one.gateway) for one in network.subnets if one.gateway]
        for gateway in _silent(link.name, [one for one in told if one not in here]):
            router = host.router(link.name, gateway.version)
            yield warning(
                "gateway",
                f"nobody on the LAN of {link.name} answers for {gateway}, which network {title(network)} has as its"
                " gateway, so its containers reach nothing beyond their subnet. Remove it and make it again with"
                + (
                    f" --gateway {router}, this host's own router there" if router else " the LAN's router as --gateway"
                ),
                command=f"docker network rm {title(network)}",
            )


def _silent(link: str, addresses: list[IPAddress]) -> list[IPAddress]:
    """List the addresses that nobody answers for; none if nobody can be asked."""
    for _ in range(2):  # a router may have to be woken
        try:
            found = asyncio.run(holders(link, addresses))
        except PynetError:
            return []
        addresses = [one for one in addresses if one not in found]
    return addresses


@dataclass(frozen=True)
class Listener:
    """A TCP socket that listens here; `both` says that one for IPv6 gets what comes by IPv4 too."""

    address: IPAddress
    port: int
    inode: int
    both: bool = False

    def takes(self, published: Port) -> bool:
        """Tell whether some of what comes for a published port is meant for this socket as well."""
        wanted = IPAddress(published.host_address)
        if published.host_port != self.port:
            return False
        if wanted.version != self.address.version:
            return self.both and self.address == _ANY[self.address.version]
        return wanted == self.address or _ANY[wanted.version] in (wanted, self.address)


def listeners() -> Iterator[Listener]:
    """Ask the kernel for the TCP sockets that listen (sock_diag(7)); it may lack the module that tells."""
    try:
        with DiagSocket() as diag:
            diag.bind()
            for family in (socket.AF_INET, socket.AF_INET6):
                for one in diag.get_sock_stats(family=family, states=_LISTENING):
                    yield Listener(
                        IPAddress(one["idiag_src"]),
                        one["idiag_sport"],
                        one["idiag_inode"],
                        both=one.get_attr("INET_DIAG_SKV6ONLY") == 0,
                    )
    except (NetlinkError, OSError):
        return


def _process_at(inode: int) -> tuple[str, int] | None:
    """Name and id of a process that has a socket open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(one.readlink()) == f"socket:[{inode}]" for one in folder.iterdir()):
                return text(folder.parent / "comm") or "a process", int(folder.parent.name)
        except OSError:
            continue  # it ended meanwhile
    return None


CHECKS = (ways_out, ways_in, gateways, ports)
