"""Switches and tables of the kernel that somebody else set so that packets of containers are lost."""

from __future__ import annotations

from collections.abc import Iterator

from netaddr import IPAddress

from pynetdriver.admin.answers import Finding
from pynetdriver.doctor.facts import HostAddress, is_ours, title, versions
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import SOMEWHERE, Host

_NAMES = {4: "ipv4", 6: "ipv6"}
#: The host's switch: writing it sets every link's own.
_FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
#: How full the table of connections may be.
_NEARLY_FULL = 0.95


def forwarding(host: Host) -> Iterator[Finding]:
    """Networks that lead out need the host to forward, on the way out and on the way back."""
    for version, switch in _FORWARDING.items():
        networks = [one for one in host.outgoing if version in versions(one)]
        if not networks:
            continue
        if host.switch(switch) == "0":
            yield error(
                "forwarding",
                f"IPv{version} forwarding is off on this host, so containers reach nobody outside of their network,"
                " and published ports lead nowhere",
                command=f"sysctl -w {dotted(switch)}=1",
            )
            continue
        for link in sorted({str(one.link) for one in networks} | {one for one in host.default_links(version) if one}):
            own = f"{_NAMES[version]}/conf/{link}/forwarding"
            if host.switch(own) == "0":
                yield error(
                    "forwarding",
                    f"IPv{version} forwarding is off on the link {link}, so what comes in there for or from containers"
                    " is dropped",
                    command=f"sysctl -w {dotted(own)}=1",
                )


def ipv6_disabled(host: Host) -> Iterator[Finding]:
    """pynet sees to its own links; the way out is the host's."""
    networks = [title(one) for one in host.outgoing if 6 in versions(one)]
    if networks and host.switch("ipv6/conf/all/disable_ipv6") == "1":
        yield error(
            "ipv6-disabled",
            f"IPv6 is disabled on this host, so containers of network {', '.join(networks)} reach nobody beyond the"
            " host by IPv6. Once it is enabled the host's own network has to be set up again",
            command="sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )


def router_advertisements(host: Host) -> Iterator[Finding]:
    """A host that forwards takes no default route from a router's advertisement unless `accept_ra` is 2."""
    if not any(6 in versions(one) for one in host.outgoing) or host.default_links(6):
        return
    for link in sorted({one.link for one in host.addresses if one.advertised}):
        conf = f"ipv6/conf/{link}"
        if host.switch(f"{conf}/forwarding") == "1" and host.switch(f"{conf}/accept_ra") == "1":
            yield error(
                "router-advertisements",
                f"this host has its IPv6 address on {link} from a router's advertisements, but no IPv6 default route:"
                " a host that forwards takes none from them while accept_ra is 1. Containers have no way out by IPv6",
                command=f"sysctl -w {dotted(conf)}.accept_ra=2",
            )


def reverse_path(host: Host) -> Iterator[Finding]:
    """A strict filter drops what comes by another link than its answer leaves by; the counter alone is old news."""
    lost = host.counter("TcpExt", "IPReversePathFilter")
    everywhere = int(host.switch("ipv4/conf/all/rp_filter") or 0)
    for one in host.addresses if lost and host.networks else ():
        strict = max(everywhere, int(host.switch(f"ipv4/conf/{one.link}/rp_filter") or 0)) == 1
        if one.address.version != 4 or is_ours(one.link) or not strict:
            continue
        for peer in _beyond(host, one):
            way = host.way(peer, one.address.ip)
            if way.kind == "unicast" and way.link != one.link:
                yield warning(
                    "reverse-path",
                    f"the kernel has dropped {lost} packets since their answer would leave by another link, and"
                    f" {one.link} is held to that (rp_filter=1), though this host sends what is for {peer} to"
                    f" {way.link}: who comes in by {one.link} and is answered by {way.link} reaches no container",
                    command=f"sysctl -w {dotted(f'ipv4/conf/{one.link}/rp_filter')}=2",
                )
                break


def _beyond(host: Host, own: HostAddress) -> Iterator[IPAddress]:
    """Addresses that a link with this address has on its side: of its subnet, and by its default route."""
    if own.address.size > 2:
        yield next(one for one in own.address.iter_hosts() if one != own.address.ip)
    if own.link in host.default_links(4):
        yield SOMEWHERE[4]


def connections(host: Host) -> Iterator[Finding]:
    """With its table of connections full the kernel drops the first packet of every new one."""
    count, most = (int(host.switch(f"netfilter/nf_conntrack_{name}") or 0) for name in ("count", "max"))
    if most and count >= _NEARLY_FULL * most:
        yield error(
            "connections",
            f"the kernel's table of connections is full ({count} of {most}): new connections to and from containers are"
            " dropped",
            command=f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}",
        )


def dotted(switch: str) -> str:
    """Name a switch for sysctl(8), which takes dots in a link's name for slashes."""
    return "net." + switch.replace(".", "\0").replace("/", ".").replace("\0", "/")


CHECKS = (forwarding, ipv6_disabled, router_advertisements, reverse_path, connections)
