"""Links that networks stand on, and pynet's own."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pynetdriver.admin.answers import Finding, Network
from pynetdriver.doctor.facts import Link, is_ours, title, versions
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import Host
from pynetdriver.names import VLAN_NAME, shim_link
from pynetdriver.plan import Bridge, Veth

_MTU_OPTIONS = ("mtu", "com.docker.network.driver.mtu")


def kinds(host: Host) -> Iterator[Finding]:
    """The kernel can make the links of all networks: it may be another one since they were made."""
    needed: dict[str, list[str]] = {}
    for network in host.networks:
        for kind in (Bridge.kind, Veth.kind) if network in host.bridged else (network.backend,):
            needed.setdefault(kind, []).append(title(network))
    for kind, networks in needed.items():
        if host.lacks(kind):
            yield error(
                "kernel",
                f"this kernel cannot make links of the kind {kind}, which network {', '.join(networks)} consists of: no"
                " container of it starts. Load the module, or install the package of the kernel's modules, or restart"
                " the host if its kernel was upgraded",
                command=f"modprobe {kind}",
            )


def adopted(host: Host) -> Iterator[Finding]:
    """A bridge that a network took over from somebody else stays his to keep."""
    for name in dict.fromkeys(str(one.link) for one in host.bridged if one.link and not is_ours(one.link)):
        networks = ", ".join(title(one) for one in host.bridged if one.link == name)
        link = host.links.get(name)
        if link is None or not link.up:
            yield error(
                "adopted",
                f"the bridge {name}, which network {networks} uses, {'is down' if link else 'is not on this host'}: its"
                " containers reach nobody" + ("" if link else ". Make it again as it was"),
                command=f"ip link set dev {name} up" if link else f"ip link add dev {name} up type {Bridge.kind}",
            )


def parents(host: Host) -> Iterator[Finding]:
    """A network on a parent needs it there, up, with something at its other end, and for itself."""
    for name in dict.fromkeys(str(one.link) for one in host.on_parents):
        networks = ", ".join(title(one) for one in host.on_parents if one.link == name)
        link = host.links.get(name)
        if link is None:
            yield _missing(host, name, networks)
        elif link.master is not None:
            yield error(
                "parent",
                f"{name}, which network {networks} stands on, was made a port of {link.master}: what arrives goes"
                " there, and the kernel puts no link of a container on it",
                command=f"ip link set dev {name} nomaster",
            )
        elif not link.up:
            yield error(
                "parent",
                f"{name}, which network {networks} stands on, is down: its containers reach nobody on the LAN",
                command=f"ip link set dev {name} up",
            )
        elif not link.running:
            yield _unplugged(host, link, networks)


def _missing(host: Host, name: str, networks: str) -> Finding:
    vlan = VLAN_NAME.fullmatch(name)
    if vlan and vlan["lower"] in host.links:
        command = f"ip link add link {vlan['lower']} name {name} up type vlan id {vlan['id']}"
    else:
        # The host's own link on the parent stands on whatever that is called by now.
        shim = host.links.get(shim_link(name))
        command = f"ip link set dev {shim.lower if shim and shim.lower else 'NEWNAME'} name {name}"
    return error(
        "parent",
        f"{name}, which network {networks} stands on, is not on this host: was it unplugged, or given another name?"
        " Containers of the network do not start. Give the link its name back, or remove the network",
        command=command,
    )


def _unplugged(host: Host, link: Link, networks: str) -> Finding:
    """Look for what is down below a link or at its ports; else it is the cable."""
    below = [one for one in host.links.values() if one.name == link.lower or one.master == link.name]
    asleep = next((one for one in below if not one.up), None)
    return error(
        "parent",
        f"{link.name}, which network {networks} stands on, has nothing at its other end"
        + (f", since {asleep.name} below it is down" if asleep else " (no carrier)")
        + ": its containers reach nobody on the LAN",
        command=f"ip link set dev {asleep.name} up" if asleep else f"ip link show dev {link.name}",
    )


def mtus(host: Host) -> Iterator[Finding]:
    """The kernel refuses a link with a greater MTU than what it stands on; a smaller way out needs ICMP."""
    for network in host.networks:
        wanted = _mtu(host, network)
        link = host.links.get(network.link or "")
        if link is None or wanted is None:
            continue
        if network in host.on_parents and link.mtu < wanted:
            yield error(
                "mtu",
                f"network {title(network)} has the MTU {wanted}, and {link.name} on which it stands has {link.mtu}"
                " by now: the kernel refuses its containers' links, so they do not start",
                command=f"ip link set dev {link.name} mtu {wanted}",
            )
        elif network in host.outgoing:
            ways = {host.way_out(version) for version in versions(network)} - {None, link}
            yield from (_narrow(network, wanted, way) for way in ways if way and way.mtu < wanted)


def _narrow(network: Network, mtu: int, way: Link) -> Finding:
    return warning(
        "mtu",
        f"network {title(network)} has the MTU {mtu}, and {way.name}, the way out, has {way.mtu}: large packets of"
        " containers are lost wherever ICMP is filtered, so connections hang once they carry much. Make the network"
        f" again with -o mtu={way.mtu} and what else it was made with",
        command=f"docker network rm {title(network)} && {_anew(network, way.mtu)}",
    )


def _anew(network: Network, mtu: int) -> str:
    """Write the command that makes a network with another MTU."""
    words = ["docker", "network", "create", "-d", "pynet"]
    for subnet in network.subnets:
        words += ["--subnet", subnet.pool] + (["--gateway", subnet.gateway] if subnet.gateway else [])
    if 6 in versions(network):
        words.append("--ipv6")
    options = {key: value for key, value in network.options.items() if key not in _MTU_OPTIONS} | {"mtu": str(mtu)}
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    return shlex.join([*words, title(network)])


def _mtu(host: Host, network: Network) -> int | None:
    given = next((network.options[one] for one in _MTU_OPTIONS if one in network.options), None)
    if given is not None:
        return int(given)
    link = host.links.get(network.link or "")
    return link.mtu if link and network in host.bridged else None


def own_links(host: Host) -> Iterator[Finding]:
    """pynet's own bridges and ports are up, and ports are in a bridge: a running pynet sees to that."""
    for link in host.links.values():
        if not link.is_ours or (link.up and (link.is_bridge or link.master)):
            continue
        containers = "containers of its network are" if link.is_bridge else "its container is"
        yield error(
            "own-links",
            f"{link.name}, a link of pynet's, is {'in no bridge' if link.up else 'down'}: {containers} cut off",
            command=host.repair if link.up else f"ip link set dev {link.name} up",
        )


CHECKS = (kinds, adopted, parents, mtus, own_links)
