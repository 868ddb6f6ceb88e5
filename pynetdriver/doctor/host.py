"""What this host is like, as far as a check wants to know: each thing is looked up when it is first asked for.

Nothing here changes anything. What cannot be read is absent: the doctor goes on with what there is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from netaddr import IPAddress, IPNetwork
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from pynetdriver.admin.answers import Network
from pynetdriver.doctor.facts import BaseChain, HostAddress, HostRoute, Link, Table, Told, Way, is_ours
from pynetdriver.errors import HostError
from pynetdriver.firewall import xtables
from pynetdriver.firewall.library import Context, load
from pynetdriver.kernel.rtnetlink import route_socket
from pynetdriver.kernel.settings import ROOT
from pynetdriver.nlmsg import attribute, order
from pynetdriver.paths import SOCKET, STATE_DIR, folder_beside, seen
from pynetdriver.plan import Bridge

#: linux/if.h, linux/if_link.h: the link is up; something is at its other end.
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_ROUTE_TYPES = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_MAIN = 254
#: linux/rtnetlink.h, linux/if_link.h: RTM_NEWLINK; exclusive and create (linux/netlink.h).
_NEWLINK, _MAKE, _IFINFOMSG = 16, 0x600, 16
_ADDRESS, _LINKINFO, _INFO_KIND = 1, 18, 1
#: linux/if_addr.h: the address was made of a router advertisement.
_PROTOCOL_RA = 2
#: linux/netfilter/nf_tables.h: families of tables, hooks, policies.
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
_NFT_DORMANT = 1
_NF_DROP = 0
_COMMAND_S = 3.0
_LISTING_S = 3
#: NFT_CTX_OUTPUT_JSON and NFT_CTX_OUTPUT_TERSE (libnftables.h); the latter leaves out elements of sets.
_JSON_OUTPUT, _TERSE = 1 << 4, 1 << 11
#: Addresses in the internet.
SOMEWHERE = {4: IPAddress("1.1.1.1"), 6: IPAddress("2606:4700::1111")}
_SERVICE = "pynet.service"
_UNITS = f"pynet.socket {_SERVICE}"
_UNIT_FOLDERS = (Path("/etc/systemd/system"), Path("/usr/local/lib/systemd/system"), Path("/usr/lib/systemd/system"))


def end(pid: int) -> str:
    """The command that ends a process and returns when it is gone: until then it has its socket and its lock."""
    return f"kill {pid} && while [ -e /proc/{pid}/exe ]; do sleep 0.1; done"


class Host:
    """The facts, and what was told."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.status = told.status
        self.networks = told.networks or ()
        #: Chains whose rules could not be read.
        self.unread: list[str] = []

    @cached_property
    def start(self) -> str:
        """The command that starts pynet, the way it is installed here."""
        if self.has_service:
            return f"systemctl reset-failed {_UNITS} && systemctl start {_UNITS}"
        for plugin in self.told.plugins or ():
            if re.search(r"\bpynet\b", plugin.name):
                enable = f"docker plugin enable {plugin.name}"
                return f"docker plugin disable -f {plugin.name} && {enable}" if plugin.enabled else enable
        words = ["pynet serve"]
        if tuple(self.told.sockets) != (SOCKET,):
            words += [f"--socket {path}" for path in self.told.sockets]
        if self.told.state_dir != STATE_DIR:
            words.append(f"--state-dir {self.told.state_dir}")
        return " ".join(words)

    def again(self, pid: int | None) -> str:
        """The command that ends a process which is in the way, and starts pynet."""
        if self.has_service:
            return f"systemctl restart {_SERVICE}"
        return self.start if pid is None else f"{end(pid)} && {self.start}"

    @property
    def has_service(self) -> bool:
        """Whether pynet is installed as a service of this host."""
        return any((folder / _SERVICE).exists() for folder in _UNIT_FOLDERS)

    @cached_property
    def daemon_pid(self) -> int | None:
        """The process that holds the daemon's lock (flock(2), proc_locks(5)); a socket's may be a service manager."""
        try:
            found = (seen(folder_beside(self.told.sockets[0])) / "lock").stat()
        except OSError:
            return None
        # Inode numbers repeat from file system to file system.
        lock = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in (text(Path("/proc/locks")) or "").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == lock:
                return int(words[4])
        return None

    @property
    def repair(self) -> str:
        """The command that has pynet put right what is its own: a running one is told, one that starts does it."""
        return "pynet reconcile" if self.told.answers else self.start

    @cached_property
    def links(self) -> dict[str, Link]:
        """All links by name."""
        with IPRoute() as netlink:
            found = list(netlink.get_links())
        names = {int(one["index"]): str(one.get("ifname")) for one in found}
        return {
            names[one["index"]]: Link(
                name=names[one["index"]],
                index=one["index"],
                kind=one.get(("linkinfo", "kind")) or "device",
                up=bool(one["flags"] & _IFF_UP),
                running=bool(one["flags"] & _IFF_LOWER_UP),
                mtu=int(one.get("mtu") or 0),
                group=int(one.get("group") or 0),
                master=names.get(one.get("master")),
                lower=None if one.get("link_netnsid") is not None else names.get(one.get("link")),
                elsewhere=one.get("link_netnsid") is not None,
            )
            for one in found
        }

    def lacks(self, kind: str) -> bool:
        """Ask the kernel whether it knows links of a kind, with a request that it refuses in any case.

        It looks for the kind first and checks the request then, in which a MAC of one byte is wrong and a link below
        is missing (net/core/rtnetlink.c, rtnl_newlink).
        """
        request = bytes(_IFINFOMSG) + attribute(_ADDRESS, b"\0")
        request += attribute(_LINKINFO, attribute(_INFO_KIND, kind.encode() + b"\0"))
        with route_socket() as one:
            try:
                order(one, _NEWLINK, _MAKE, request)
            except OSError as error:
                return error.errno == errno.EOPNOTSUPP
        return False

    @cached_property
    def addresses(self) -> list[HostAddress]:
        """All addresses."""
        names = {one.index: one.name for one in self.links.values()}
        with IPRoute() as netlink:
            return [
                HostAddress(
                    names.get(one["index"], ""),
                    IPNetwork(f"{one.get('local') or one.get('address')}/{one['prefixlen']}"),
                    int(one.get("proto") or 0) == _PROTOCOL_RA,
                )
                for one in netlink.get_addr()
            ]

    @cached_property
    def routes(self) -> list[HostRoute]:
        """The routes of the main table."""
        names = {one.index: one.name for one in self.links.values()}
        with IPRoute() as netlink:
            return [
                HostRoute(
                    IPNetwork(
                        f"{one.get('dst') or ('::' if one['family'] == socket.AF_INET6 else '0.0.0.0')}"
                        f"/{one['dst_len']}"
                    ),
                    names.get(one.get("oif")),
                )
                for one in netlink.get_routes(table=_MAIN)
                if one["family"] in (socket.AF_INET, socket.AF_INET6) and one["type"] == 1
            ]

    def default_links(self, version: int) -> list[str | None]:
        """The links by which the default routes of an IP version lead."""
        return [one.link for one in self.routes if one.to.version == version and one.to.prefixlen == 0]

    def way(self, address: IPAddress, source: IPAddress | None = None) -> Way:
        """Ask the kernel where it would send a packet, that has a source of this host's already or gets one."""
        own = {} if source is None else {"src": str(source)}
        try:
            with IPRoute() as netlink:
                (route,) = netlink.route("get", dst=str(address), **own)
        except NetlinkError:
            return Way("unreachable", None)
        names = {one.index: one.name for one in self.links.values()}
        return Way(_ROUTE_TYPES.get(route["type"], "other"), names.get(route.get("oif")))

    def router(self, link: str, version: int) -> IPAddress | None:
        """Whom this host itself sends to by a link what is for the internet."""
        try:
            with IPRoute() as netlink:
                (route,) = netlink.route("get", dst=str(SOMEWHERE[version]), oif=self.links[link].index)
        except NetlinkError:
            return None
        return IPAddress(route.get("gateway")) if route.get("gateway") else None

    def way_out(self, version: int) -> Link | None:
        """The link by which this host reaches the internet: of several default routes the one that is in use."""
        return self.links.get(self.way(SOMEWHERE[version]).link or "")

    def switch(self, name: str) -> str | None:
        """Read a switch below /proc/sys/net, e.g. "ipv4/ip_forward"."""
        return text(ROOT / name)

    def counter(self, group: str, name: str) -> int:
        """Read a counter of /proc/net/netstat, e.g. ("TcpExt", "IPReversePathFilter")."""
        lines = [line.split() for line in (text(Path("/proc/self/net/netstat")) or "").splitlines()]
        for head, values in zip(lines[::2], lines[1::2], strict=False):
            if head[0] == f"{group}:" and name in head:
                return int(values[head.index(name)])
        return 0

    @cached_property
    def bridged(self) -> list[Network]:
        """The networks that are a bridge of this host, so that it routes for them and judges their packets."""
        return [one for one in self.networks if one.backend == Bridge.kind]

    @cached_property
    def outgoing(self) -> list[Network]:
        """Those of them that lead out."""
        return [one for one in self.bridged if not one.internal]

    @cached_property
    def on_parents(self) -> list[Network]:
        """The networks whose links stand on one of the host's, or would if it were there."""
        return [one for one in self.networks if one.link and one not in self.bridged and not is_ours(one.link)]

    @cached_property
    def has_libnftables(self) -> bool:
        """Whether the library is installed."""
        with contextlib.suppress(HostError):
            return bool(load())
        return False

    @cached_property
    def tables(self) -> list[Table]:
        """The tables of nftables for IP packets."""
        return [
            Table(
                _FAMILIES[one["nfgen_family"]],
                str(one.get_attr("NFTA_TABLE_NAME")),
                bool(int(one.get_attr("NFTA_TABLE_FLAGS") or 0) & _NFT_DORMANT),
            )
            for one in _nft("get_tables")
            if one["nfgen_family"] in _FAMILIES
        ]

    @cached_property
    def chains(self) -> set[tuple[str, str, str]]:
        """Family, table and name of all chains of nftables."""
        return {
            (_FAMILIES[one["nfgen_family"]], one.get_attr("NFTA_CHAIN_TABLE"), one.get_attr("NFTA_CHAIN_NAME"))
            for one in self._all_chains
            if one["nfgen_family"] in _FAMILIES
        }

    @cached_property
    def _all_chains(self) -> list[Any]:
        return _nft("get_chains")

    @cached_property
    def base_chains(self) -> list[BaseChain]:
        """The chains of tables that are awake, by which IP packets go."""
        awake = {(one.family, one.name) for one in self.tables if not one.dormant}
        found = []
        for one in self._all_chains:
            hook, family = one.get_attr("NFTA_CHAIN_HOOK"), _FAMILIES.get(one["nfgen_family"])
            table = str(one.get_attr("NFTA_CHAIN_TABLE"))
            if hook is not None and family is not None and (family, table) in awake:
                policy = one.get_attr("NFTA_CHAIN_POLICY")
                name = str(one.get_attr("NFTA_CHAIN_NAME"))
                found.append(BaseChain(family, table, name, hook.get_attr("NFTA_HOOK_HOOKNUM"), policy == _NF_DROP))
        return found

    def rules(self, family: str, table: str, chain: str) -> list[list[dict[str, Any]]] | None:
        """List the rules of a chain, each as the statements of libnftables-json(5); None if they cannot be read."""
        listed = _apart(lambda: _listing(f"chain {family} {table} {chain}"))
        if listed is None:
            self.unread.append(f"{family} {table} {chain}")
            return None
        return [one["rule"]["expr"] for one in listed if "rule" in one]

    @cached_property
    def filters(self) -> dict[str, list[str]]:
        """The table `filter` of each kind of iptables that has one, as `iptables-save` writes it, by command."""
        found = {}
        for version, command in ((4, "iptables"), (6, "ip6tables")):
            family = "ip" if version == 4 else "ip6"
            if any((one.family, one.name) == (family, "filter") for one in self.tables):
                found[f"{command}-nft"] = run(f"{command}-nft-save", "-t", "filter").splitlines()
            # Looking at a legacy table that is not there would make it.
            if "filter" in xtables.present(version):
                found[f"{command}-legacy"] = run(f"{command}-legacy-save", "-t", "filter").splitlines()
        return found


def text(path: Path) -> str | None:
    """Read a small file; None if that cannot be done."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def run(*command: str) -> str:
    """Run a command that only looks; what it says is empty if it fails."""
    try:
        return subprocess.run(command, capture_output=True, errors="replace", timeout=_COMMAND_S).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def peer(one: socket.socket) -> int:
    """Name the process at the other end of a Unix socket (unix(7), SO_PEERCRED)."""
    raw = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("=iII", raw)[0])


def _listing(what: str) -> list[dict[str, Any]]:
    """List e.g. `chain ip filter FORWARD` as libnftables-json(5) objects. Raises HostError or ValueError."""
    context = Context(load())
    context.set_output(_JSON_OUTPUT | _TERSE)
    output, refusal = context.run(f"list {what}")
    if refusal:
        raise HostError(refusal)
    found: list[dict[str, Any]] = json.loads(output)["nftables"]
    return found


def _apart(ask: Callable[[], Any]) -> Any:
    """Ask in a process of its own, and return what can be written as JSON; None if it fails or dies over it.

    Some versions of libnftables die of a signal over a table that another version wrote.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(_LISTING_S)
            with open(writing, "w") as told:
                json.dump(ask(), told)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as told, contextlib.suppress(ValueError):
        answer = told.read()
        os.waitpid(child, 0)
        return json.loads(answer)
    return None


def _nft(question: str) -> list[Any]:
    try:
        netlink = NFTables(nfgen_family=socket.AF_UNSPEC)
        try:
            return list(getattr(netlink, question)())
        finally:
            netlink.close()
    except (NetlinkError, OSError):
        return []
