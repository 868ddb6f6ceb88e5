"""Rules that are missing, and rules of others that drop what pynet lets through."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator

from netaddr import IPAddress, IPNetwork

from pynetdriver.admin.answers import Finding, Network
from pynetdriver.doctor.facts import BaseChain, title, versions
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import SOMEWHERE, Host
from pynetdriver.doctor.packets import UNREAD, Drop, Packet, Rule, dropped, read_nft, rules_of_iptables
from pynetdriver.firewall import bridges
from pynetdriver.firewall.engine import CHAIN, engine_bridges
from pynetdriver.firewall.iptables import left_behind
from pynetdriver.firewall.ruleset import TABLE
from pynetdriver.names import LINK_GROUP

#: A port in the internet that containers ask for.
_HTTPS = 443
#: linux/netfilter.h: NF_INET_FORWARD.
_FORWARD = 2
_FAMILIES = {4: "ip", 6: "ip6"}
_COMMANDS = {4: "iptables", 6: "ip6tables"}
_ENGINE = ("filter", CHAIN)
#: Its chains are its own to write; it is told by its own command.
_FIREWALLD = "firewalld"
_INTENDED = "Unless that is intended, this lets what is pynet's pass there"


def own_rules(host: Host) -> Iterator[Finding]:
    """pynet's rules are there while it has bridges."""
    if not any(one.is_ours and one.is_bridge for one in host.links.values()) and not host.bridged:
        return
    family, name = TABLE.split()
    table = next((one for one in host.tables if (one.family, one.name) == (family, name)), None)
    if table is not None and table.dormant:
        yield error(
            "own-rules",
            f"pynet's table {TABLE} is switched off (flags dormant): no port is published, and nothing takes the"
            " host's address on its way out",
            command=f"nft add table {TABLE}",
        )
    elif table is None and not left_behind():
        yield error(
            "own-rules",
            "pynet's rules are gone from this host's firewall: no port is published, and nothing takes the host's"
            " address on its way out",
            command=host.repair,
        )


def commands(host: Host) -> Iterator[Finding]:
    """Beside an engine's rules pynet needs the command that wrote them, and the library for its own."""
    needed = [f"{_COMMANDS[version]}-nft" for version, family in _FAMILIES.items() if (family, *_ENGINE) in host.chains]
    missing = [one for one in needed if shutil.which(one) is None]
    if missing:
        yield error(
            "commands",
            f"{' and '.join(missing)} cannot be found, which pynet needs to let its packets through the engine's chain"
            f" {CHAIN}: networks cannot be made",
            command="apt-get install --reinstall iptables",
        )
    if not host.has_libnftables:
        yield error(
            "commands",
            "libnftables.so.1 cannot be loaded, with which pynet writes its rules: it does not start",
            command="apt-get install --reinstall libnftables1",
        )


def engine_rules(host: Host) -> Iterator[Finding]:
    """Beside an engine pynet keeps two rules in the engine's chain for others, as long as it has a bridge."""
    for what, command in _incomplete(host).values():
        yield error(
            "engine-rules",
            f"{what}: what goes to and comes from containers is dropped by the engine's policy",
            command=command,
        )


def _incomplete(host: Host) -> dict[str, tuple[str, str]]:
    """Find what is missing in the engine's rules, and the command that adds it, by command of iptables."""
    found = {}
    for command, lines in _with_engine_chain(host).items():
        if ":FORWARD DROP" not in "\n".join(lines) or not any(
            one.is_ours and one.is_bridge for one in host.links.values()
        ):
            continue
        missing = [one for one in _rules_of_groups() if f"-A {CHAIN} {one}" not in lines]
        adding = [f"{command} -I {CHAIN} {one}" for one in missing]
        if f"-A FORWARD -j {CHAIN}" not in lines:
            what = f"nothing leads from FORWARD to the engine's chain {CHAIN} of {command} any more"
            found[command] = what, " && ".join([*adding, f"{command} -I FORWARD -j {CHAIN}"])
        elif missing:
            found[command] = f"pynet's rules are not in the engine's chain {CHAIN} of {command}", " && ".join(adding)
    return found


def _rules_of_groups() -> list[str]:
    return [f"-m devgroup --{one}-group {LINK_GROUP:#x} -j ACCEPT" for one in ("src", "dst")]


def _with_engine_chain(host: Host) -> dict[str, list[str]]:
    return {name: lines for name, lines in host.filters.items() if any(one.startswith(f":{CHAIN} ") for one in lines)}


def drops(host: Host) -> Iterator[Finding]:
    """Whatever any table drops on its way through the host is lost, whoever accepts it elsewhere."""
    commands = set()
    for network in host.bridged:
        for version in versions(network):
            for packet in _packets(host, network, version):
                for finding in (*_by_iptables(host, packet, network), *_by_nftables(host, packet, network)):
                    if finding.command not in commands:
                        commands.add(finding.command)
                        yield finding
    if host.unread and host.has_libnftables:
        yield warning(
            "other-rules",
            f"this host's libnftables cannot read the nftables chain {host.unread[0]}, which a newer nft wrote or which"
            " is too long: whether it drops what is pynet's is not known, and nft on this host may crash over it",
            command="apt-get install nftables libnftables1",
        )


def _packets(host: Host, network: Network, version: int) -> Iterator[Packet]:
    """Make up packets that have to pass: out of a network, in by a published port, within it."""
    bridge = host.links.get(network.link or "")
    if bridge is None:
        return
    own, somewhere = _containers(network, version), SOMEWHERE[version]
    way = host.way_out(version)
    if way is not None and not network.internal:
        yield Packet("what its containers send out", version, own[0], somewhere, _HTTPS, bridge, way)
        for target, port in _published(network, version):
            what = f"what comes for port {port} of {target}"
            yield Packet(what, version, somewhere, target, port, way, bridge, translated=True)
    if host.switch(f"bridge/bridge-nf-call-{_COMMANDS[version]}") == "1" and _talk(network):
        what = "what its containers send to each other, which br_netfilter shows to the firewall as well,"
        yield Packet(what, version, own[0], own[-1], _HTTPS, bridge, bridge)


def _containers(network: Network, version: int) -> list[IPAddress]:
    found = [IPNetwork(text).ip for one in network.endpoints for text in one.addresses]
    found = [one for one in found if one.version == version]
    pool = next(IPNetwork(one.pool) for one in network.subnets if IPNetwork(one.pool).version == version)
    return found or [pool[min(2, pool.size - 1)]]


def _published(network: Network, version: int) -> Iterator[tuple[IPAddress, int]]:
    """The first port that is published to everybody."""
    for endpoint in network.endpoints:
        for port in endpoint.ports:
            target = IPAddress(port.address)
            if port.protocol == "tcp" and port.host_port and target.version == version:
                yield target, port.port
                return


def _talk(network: Network) -> bool:
    return network.options.get("com.docker.network.bridge.enable_icc", "true").lower() not in ("false", "0", "f")


def _by_iptables(host: Host, packet: Packet, network: Network) -> Iterator[Finding]:
    for command, lines in host.filters.items():
        if command.startswith("ip6") != (packet.version == 6) or not any(one.startswith(":FORWARD") for one in lines):
            continue
        policy_drops = any(line.startswith(":FORWARD DROP") for line in lines)
        found = dropped("FORWARD", rules_of_iptables(lines, packet), policy_drops=policy_drops)
        if found is not None and not (found.rule is None and command in _incomplete(host)):
            yield _iptables_finding(host, command, packet, network, found)


def _iptables_finding(host: Host, command: str, packet: Packet, network: Network, found: Drop) -> Finding:
    by_policy = found.rule is None
    with_chain = [one for one in _with_engine_chain(host) if one.startswith("ip6") == (packet.version == 6)]
    place = f"the {'policy' if by_policy else f'rule {found.rule}'} of the chain {found.chain} in {command}"
    if found.rule is not None:
        rules_there = [one for one in host.filters[command] if one.startswith(f"-A {found.chain} ")]
        place += f", `{rules_there[found.rule - 1]}`"
    lost = f"{packet.what} of network {title(network)} is dropped by {place}"
    if by_policy and not with_chain and any(table == bridges.TABLE for _, table, _ in host.chains):
        return error(
            "engine-rules",
            f"{lost}: the engine has its rules in nftables now, and left the policy that it set when they were here",
            command=f"{command} -P FORWARD ACCEPT",
        )
    if by_policy and not with_chain and engine_bridges(host.links):
        return error(
            "engine-rules",
            f"{lost}: the engine's chains were flushed, and its policy is still to drop. It writes them when it starts",
            command="systemctl restart docker",
        )
    if with_chain and command not in with_chain:
        lost += ", though the engine's rules are in the other kind: both judge what passes"
    if packet.came_by.is_ours or packet.leaves_by.is_ours:
        rules = _rules_of_groups()
    else:
        rules = [f"-{way} {network.link} -j ACCEPT" for way in ("i", "o")]
    chain = CHAIN if by_policy and command in with_chain else "FORWARD"
    lost += f". {_INTENDED}"
    return error("other-rules", lost, command=" && ".join(f"{command} -I {chain} {one}" for one in rules))


def _by_nftables(host: Host, packet: Packet, network: Network) -> Iterator[Finding]:
    for base in host.base_chains:
        if base.hook != _FORWARD or base.family not in ("inet", _FAMILIES[packet.version]) or _is_known(host, base):
            continue

        def rules_of(chain: str, base: BaseChain = base) -> Iterable[Rule]:
            rules = host.rules(base.family, base.table, chain)
            return [UNREAD] if rules is None else [read_nft(one, packet) for one in rules]

        found = dropped(base.name, rules_of, policy_drops=base.drops)
        if found is not None:
            yield _nftables_finding(base, packet, network, found)


def _is_known(host: Host, base: BaseChain) -> bool:
    """Tell whether a chain is pynet's own, or one of iptables that was read as such."""
    if f"{base.family} {base.table}" == TABLE:
        return True
    command = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}.get(base.family, "")
    return base.table == "filter" and any(line.startswith(f":{base.name} ") for line in host.filters.get(command, ()))


def _nftables_finding(base: BaseChain, packet: Packet, network: Network, found: Drop) -> Finding:
    where = f"{base.family} {base.table} {base.name}"
    by = "the policy" if found.rule is None else f"rule {found.rule}"
    dropping = f"{base.family} {base.table} {found.chain}"
    if base.table == _FIREWALLD:
        command = f"firewall-cmd --permanent --zone=trusted --add-interface={network.link} && firewall-cmd --reload"
    else:
        ours = packet.came_by.is_ours or packet.leaves_by.is_ours
        kind, value = ("group", f"{LINK_GROUP:#x}") if ours else ("name", str(network.link))
        command = " && ".join(f"nft insert rule {where} {way}if{kind} {value} accept" for way in ("i", "o"))
    return error(
        "other-rules",
        f"{packet.what} of network {title(network)} is dropped by {by} of the nftables chain {dropping}, which somebody"
        f" else made (`nft list chain {dropping}` shows it); no accept elsewhere helps. {_INTENDED}",
        command=command,
    )


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (own_rules, commands, engine_rules, drops)
