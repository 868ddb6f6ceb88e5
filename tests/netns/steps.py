"""Break a call at its n-th step, in this process: `python -m tests.netns.steps NAMESPACE FOLDER CALL KIND HOW…`.

Runs inside the namespace, with the real kernel and store behind a trap. HOW is `fail`, `fail on`, `cancel` or `kill`;
`kill` ends a forked child in the middle and lets another one restore. Exits with a traceback if store,
links, rules or switches are not as they must be; else writes the number of steps for each HOW.
"""

import asyncio
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from netaddr import IPNetwork

from pynetdriver.docker import messages as wire
from pynetdriver.errors import HostError, PynetError
from pynetdriver.firewall import Firewall
from pynetdriver.firewall.iptables import IptablesFirewall
from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
from pynetdriver.kernel import Kernel
from pynetdriver.kernel.hostport import HostPorts
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.objects.kind import Kind
from pynetdriver.kernel.objects.link import LinkKind
from pynetdriver.locks import Calls
from pynetdriver.plan import Intent, Owner
from pynetdriver.process.daemon import Daemon
from pynetdriver.store import Change
from pynetdriver.store.sqlite import SqliteStore
from tests.lab.netns import Namespace

from . import host
from .host import State
from .parents import endpoint_on, on_parent


class Trap:
    """Strikes at the n-th step after it was set, once, or from there on until it is disarmed."""

    def __init__(self, strike: Callable[[], None], lasting: bool = False) -> None:
        self._strike = strike
        self._lasting = lasting
        self._left = 0
        self.sprung = False

    def set(self, at: int) -> None:
        self._left, self.sprung = at, False

    def disarm(self) -> None:
        self._left = 0

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._left = int(self._lasting)
            self.sprung = True
            self._strike()


class TrappedStore(SqliteStore):
    """The real store, one step a transaction."""

    def __init__(self, folder: Path, trap: Trap) -> None:
        super().__init__(folder)
        self._trap = trap

    def write(self, *changes: Change, fleeting: bool = False) -> None:
        self._trap.step()
        super().write(*changes, fleeting=fleeting)


class TrappedNetlink(Netlink):
    """The real kernel, one step a link that is removed."""

    def __init__(self, trap: Trap) -> None:
        super().__init__()
        self._trap = trap

    async def remove_link(self, name: str, kind: str) -> None:
        self._trap.step()
        await super().remove_link(name, kind)


def trapped(kind: Kind[Any], trap: Trap) -> None:
    """Have a kind of object make one step of each thing that it does by itself; links are removed by netlink."""

    def step(do: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def done(one: Any) -> None:
            trap.step()
            await do(one)

        return done

    for name in ("ensure", "remove", "take_back"):
        if name in vars(type(kind)) and not (name == "remove" and isinstance(kind, LinkKind)):
            setattr(kind, name, step(getattr(kind, name)))


class TrappedNftables(NftablesFirewall):
    """The real table, one step a change."""

    def __init__(self, trap: Trap) -> None:
        super().__init__(Nftables())
        self._trap = trap

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        self._trap.step()
        await super().set(owner, intents)


class TrappedIptables(IptablesFirewall):
    """The real chains, one step a change."""

    def __init__(self, trap: Trap) -> None:
        super().__init__()
        self._trap = trap

    async def set(self, owner: Owner, intents: Sequence[Intent]) -> None:
        self._trap.step()
        await super().set(owner, intents)


FIREWALLS: dict[str, Callable[[Trap], Firewall]] = {"nftables": TrappedNftables, "iptables": TrappedIptables}


class Process:
    """What a daemon is made of, without its socket."""

    def __init__(self, folder: Path, trap: Trap, firewall: str) -> None:
        self.trap = trap
        self._store = TrappedStore(folder, trap)
        kernel = Kernel(TrappedNetlink(trap), FIREWALLS[firewall](trap))
        for kind in kernel.kinds.values():
            trapped(kind, trap)
        self._ports = HostPorts(Calls())
        self._daemon = Daemon(self._store, kernel, self._ports, IPNetwork("fd00::/48"))
        self.driver, self.journal, self.netlink = self._daemon.driver, self._daemon.journal, kernel.netlink

    async def __aenter__(self) -> "Process":
        await self._daemon.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._daemon.close()
        self._ports.close()
        self._store.close()

    async def call(self, method: str, body: Any) -> None:
        handlers: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "CreateNetwork": (wire.CreateNetworkRequest, self.driver.create_network),
            "DeleteNetwork": (wire.NetworkRequest, self.driver.delete_network),
            "CreateEndpoint": (wire.CreateEndpointRequest, self.driver.create_endpoint),
            "DeleteEndpoint": (wire.EndpointRequest, self.driver.delete_endpoint),
            "Join": (wire.JoinRequest, self.driver.join),
            "Leave": (wire.EndpointRequest, self.driver.leave),
            host.PROGRAM: (wire.ProgramRequest, self.driver.program),
            host.REVOKE: (wire.EndpointRequest, self.driver.revoke),
        }
        kind, handler = handlers[method]
        await handler(msgspec.convert(body, kind))


NETWORK: tuple[str, Any] = ("CreateNetwork", host.network(dual=True))
ENDPOINT: tuple[str, Any] = ("CreateEndpoint", host.endpoint(dual=True))
JOIN: tuple[str, Any] = ("Join", host.join())
PROGRAM: tuple[str, Any] = (host.PROGRAM, host.program(2, host.port(8080), host.port(8081, 81)))
REVOKE: tuple[str, Any] = (host.REVOKE, host.ids())
LEAVE: tuple[str, Any] = ("Leave", host.ids())
DELETE_ENDPOINT: tuple[str, Any] = ("DeleteEndpoint", host.ids())
DELETE_NETWORK: tuple[str, Any] = ("DeleteNetwork", {"NetworkID": host.NETWORK})
#: A network whose ports are open from Join on.
MODES: dict[str, Any] = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "routed" for version in (4, 6)}
ROUTED: tuple[str, Any] = ("CreateNetwork", host.network(dual=True, **MODES))
ROUTED_JOIN: tuple[str, Any] = ("Join", {**host.join(), "Options": {host.PORTMAP: [host.port(8080)]}})
#: A bridge of somebody else's, and what pynet may switch there.
THEIRS = "br0"
SWITCHES = ("ipv4/conf/br0/route_localnet", "ipv4/conf/br0/promote_secondaries", "ipv6/conf/br0/disable_ipv6")
NAMED: dict[str, Any] = {"com.docker.network.bridge.name": THEIRS, "conflict_check": "false"}
ADOPTING: tuple[str, Any] = ("CreateNetwork", host.network(dual=True, **NAMED))
#: A parent, with what there is of macvlan on it, and another network that shares the host's link there.
PARENT = "lan0"
SHARED: Any = {"parent": PARENT, "host_access": "true", "promiscuous": "true"}
SHARING: tuple[str, Any] = ("CreateNetwork", on_parent(host.OTHER, "10.8.0.0/24", **SHARED))
STANDING: tuple[str, Any] = (
    "CreateNetwork",
    on_parent(pool4="10.9.0.0/24", pool6="fd00:9::/64", **SHARED, conflict_check="false"),
)
TRIED: tuple[str, Any] = ("CreateNetwork", on_parent(parent=PARENT, pool4="10.9.0.0/24"))
STANDING_ENDPOINT: tuple[str, Any] = ("CreateEndpoint", endpoint_on(2, host.NETWORK, "10.9.0.2/24", "fd00:9::2/64"))
DELETE_SHARING: tuple[str, Any] = ("DeleteNetwork", {"NetworkID": host.OTHER})
#: Those whose first failure may leave something to be tried again.
CREATIONS = (NETWORK, ADOPTING, STANDING, TRIED)
#: The call to break, and what comes before it.
CALLS: dict[str, list[tuple[str, Any]]] = {
    "create network": [NETWORK],
    "create endpoint": [NETWORK, ENDPOINT],
    "join": [NETWORK, ENDPOINT, JOIN],
    "join a routed network": [ROUTED, ENDPOINT, ROUTED_JOIN],
    "program": [NETWORK, ENDPOINT, JOIN, PROGRAM],
    "revoke": [NETWORK, ENDPOINT, JOIN, PROGRAM, REVOKE],
    "leave": [NETWORK, ENDPOINT, JOIN, PROGRAM, LEAVE],
    "delete endpoint": [NETWORK, ENDPOINT, JOIN, PROGRAM, DELETE_ENDPOINT],
    "delete network": [NETWORK, ENDPOINT, JOIN, PROGRAM, DELETE_NETWORK],
    "delete empty network": [NETWORK, DELETE_NETWORK],
    "create network on a bridge of others": [ADOPTING],
    "create endpoint on a bridge of others": [ADOPTING, ENDPOINT],
    "delete network on a bridge of others": [ADOPTING, ENDPOINT, JOIN, PROGRAM, DELETE_NETWORK],
    "try a parent": [TRIED],
    "create network on a parent with another": [SHARING, STANDING],
    "create endpoint on a parent": [STANDING, STANDING_ENDPOINT],
    "leave on a parent": [STANDING, STANDING_ENDPOINT, JOIN, LEAVE],
    "delete network on a parent with another": [SHARING, STANDING, STANDING_ENDPOINT, DELETE_NETWORK],
}


def _joined(rules: str) -> list[str]:
    """Write what is said of each legacy table in one line, as of each thing of nftables."""
    return [part.replace("\n", " ") for part in re.split(r"\n(?=IPv\d |[a-z]+ {)", rules)]


def fail() -> None:
    raise HostError("cannot go on: the trap was sprung")


def cancel() -> None:
    raise asyncio.CancelledError


def kill() -> None:
    os._exit(9)


class Experiment:
    """One call, broken at every step."""

    def __init__(self, netns: Namespace, folder: Path, call: str, firewall: str) -> None:
        self._netns, self._folder, self._how, self._firewall = netns, folder, "", firewall
        *self._before, self._call = CALLS[call]
        self._deletes = call.startswith("delete")

    def state(self, folder: Path) -> State:
        rows, links, rules = host.rows(folder), host.links(self._netns), host.rules(self._netns)
        # After the links: a link's switches outlive it by a moment.
        switches = self._netns.run("grep", "-H", ".", *(f"/proc/sys/net/{one}" for one in SWITCHES))
        switches += host.sysctls(self._netns) + self._netns.run("ip", "link", "show", "dev", PARENT)
        switches += "".join(self._netns.run("ip", f"-{version}", "route", "show", "proto", "112") for version in (4, 6))
        return State(rows, links, rules, switches)

    def run(self, *hows: str) -> list[int]:
        self._netns.run("ip", "link", "add", THEIRS, "mtu", "1400", "type", "bridge")
        self._netns.run("ip", "address", "add", "192.0.2.1/24", "dev", THEIRS)
        self._netns.write_sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
        self._netns.run("ip", "link", "add", PARENT, "type", "veth", "peer", "name", "lan1")
        for link in (PARENT, "lan1"):
            self._netns.run("ip", "link", "set", link, "up")
        nothing = Trap(fail)
        states = list[State]()

        async def undisturbed() -> None:
            async with Process(self._folder / "0", nothing, self._firewall) as process:
                for one in self._before:
                    await process.call(*one)
                states.append(self.state(self._folder / "0"))
                await process.call(*self._call)
                states.append(self.state(self._folder / "0"))
                await self._clear(process)

        asyncio.run(undisturbed())
        return [self._steps(how, *states) for how in hows]

    def _steps(self, how: str, before: State, after: State) -> int:
        """Break the call at one step after the other; returns how many it has."""
        self._how, strike = how, self._killed if how == "kill" else self._raised
        for number in range(1, 100):
            try:
                if strike(self._folder / f"{how} {number}", number, before, after):
                    return number - 1
            except BaseException as error:
                error.add_note(f"how it was broken: {how}")
                raise
        raise AssertionError("no end of steps")

    def _guarded(self, number: int) -> None:
        """At no moment the host forwards without a word about who did not need that."""
        rules = host.rules(self._netns)
        for version, switch in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
            if self._netns.sysctl(f"net/{switch}") == "1":
                guard = f'"name": "strangers{version}"' if self._firewall == "nftables" else f"IPv{version} mangle"
                assert any(guard in line and PARENT in line for line in _joined(rules)), f"step {number}: no {guard}"

        # So with what comes out of a bridge of others for 127/8.
        if self._netns.sysctl(f"net/{SWITCHES[0]}") == "1":
            kept = '"name": "links"' if self._firewall == "nftables" else "IPv4 raw"
            assert any(kept in line and THEIRS in line for line in _joined(rules)), f"step {number}: no {kept}"

    async def _clear(self, process: Process) -> None:
        for one in (DELETE_NETWORK, DELETE_SHARING):
            await process.call(*one)

    def _raised(self, folder: Path, number: int, before: State, after: State) -> bool:
        trap = Trap(cancel if self._how == "cancel" else fail, self._how == "fail on")

        async def broken() -> None:
            async with Process(folder, trap, self._firewall) as process:
                for one in self._before:
                    await process.call(*one)
                trap.set(number)
                try:
                    await process.call(*self._call)
                except (PynetError, asyncio.CancelledError):
                    assert trap.sprung
                trap.disarm()
                if self._how == "fail on" and self._call in CREATIONS:
                    await process.journal.retry()
                elif trap.sprung and self._how != "fail on":
                    if self._deletes:
                        await process.journal.retry()
                        if self._how == "fail":
                            compare(self.state(folder), after, f"step {number}: after the retry")
                    else:
                        compare(self.state(folder), before, f"step {number}: after the failure")
                await process.call(*self._call)
                if self._how != "fail on":
                    compare(self.state(folder), after, f"step {number}: after the repeated call")
                if self._how.startswith("fail"):
                    await process.journal.retry()
                    compare(self.state(folder), after, f"step {number}: after a late retry")
                await self._clear(process)

        asyncio.run(broken())
        return not trap.sprung

    def _killed(self, folder: Path, number: int, before: State, after: State) -> bool:
        trap = Trap(kill)

        async def broken() -> None:
            async with Process(folder, trap, self._firewall) as process:
                for one in self._before:
                    await process.call(*one)
                trap.set(number)
                await process.call(*self._call)

        async def restored() -> None:
            async with Process(folder, Trap(fail), self._firewall) as process:
                found = self.state(folder)
                # A network goes after its endpoints, one by one.
                if found != before and self._call is not DELETE_NETWORK:
                    compare(found, after, f"step {number}: after the restart, neither before nor")
                await process.call(*self._call)
                compare(self.state(folder), after, f"step {number}: after the repeated call")
                await self._clear(process)

        code = forked(broken)
        assert code in (0, 9), code
        self._guarded(number)
        assert forked(restored) == 0
        return code == 0


def forked(work: Callable[[], Any]) -> int:
    """Run in a child; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(work())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def compare(found: State, wanted: State, when: str) -> None:
    for part in ("rows", "links", "rules", "sysctls"):
        left, right = getattr(found, part), getattr(wanted, part)
        assert left == right, f"{when}: {part}\nfound:  {left}\nwanted: {right}"


if __name__ == "__main__":
    name, path, call, firewall, *hows = sys.argv[1:]
    sys.stdout.write(f"{Experiment(Namespace(name), Path(path), call, firewall).run(*hows)}\n")
