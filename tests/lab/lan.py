"""Other machines on the same wire as an engine; leaves the engine itself to `engine`."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from . import command
from .netns import Namespace, Plug, connect
from .wait import eventually


class Lan:
    """A neighbour of an engine, which is also the engine's default gateway.

    The engine's end of the wire is `lan0`, the neighbour's is `eth0`. The engine's
    machine has to be there first; the wire goes with either of the two.
    """

    HOST4, HOST6 = "192.0.2.1", "2001:db8:1::1"
    NEIGHBOUR4, NEIGHBOUR6 = "192.0.2.2", "2001:db8:1::2"

    def __init__(self, host: Namespace) -> None:
        self.host = host
        self.neighbour = Namespace()

    def __enter__(self) -> "Lan":
        self.neighbour.__enter__()
        try:
            connect(
                Plug(self.host, "lan0", (f"{self.HOST4}/24", f"{self.HOST6}/64")),
                Plug(self.neighbour, "eth0", (f"{self.NEIGHBOUR4}/24", f"{self.NEIGHBOUR6}/64")),
            )
            for gateway in (self.NEIGHBOUR4, self.NEIGHBOUR6):
                command.run("ip", "-n", self.host.name, "route", "add", "default", "via", gateway)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the neighbour away, and the wire with it."""
        # The kernel ends a deleted namespace's interfaces some time later; a test that
        # lays the next wire at once needs the name free now.
        lan0 = ("ip", "-n", self.host.name, "link", "delete", "lan0")
        command.run(*lan0, check=False)
        self.neighbour.close()


class Site:
    """A LAN with a switch, on which the engine's machine has the link `lan1`, which is not its way out.

    The second machine, the router and whoever is plugged in further are on ports of the switch, a bridge. The
    router leads to BEYOND4 and BEYOND6. The engine's machine has to be there first.
    """

    PARENT = "lan1"
    SUBNET4, SUBNET6 = "198.51.100.0/24", "2001:db8:2::/64"
    ROUTER4, ROUTER6 = "198.51.100.1", "2001:db8:2::1"
    PEER4, PEER6 = "198.51.100.2", "2001:db8:2::2"
    HOST4, HOST6 = "198.51.100.10", "2001:db8:2::10"
    BEYOND4, BEYOND6 = "203.0.113.1", "2001:db8:3::1"

    def __init__(self, host: Namespace) -> None:
        self.host = host
        self.switch, self.peer, self.router = Namespace(), Namespace(), Namespace()
        self.before: dict[str, Any] = {}  #: what `snapshot` is to be in the end
        self._stack = ExitStack()

    def __enter__(self) -> "Site":
        try:
            for one in (self.switch, self.peer, self.router):
                self._stack.enter_context(one)
            self.switch.run("ip", "link", "add", "br0", "up", "type", "bridge")
            self.plug("peer", Plug(self.peer, "eth0", (f"{self.PEER4}/24", f"{self.PEER6}/64")))
            self.plug("router", Plug(self.router, "eth0", (f"{self.ROUTER4}/24", f"{self.ROUTER6}/64")))
            for beyond in (self.BEYOND4, self.BEYOND6):
                self.router.run("ip", "address", "add", beyond, "dev", "lo")
            for gateway in (self.ROUTER4, self.ROUTER6):
                self.peer.run("ip", "route", "add", "default", "via", gateway)
            self._stack.callback(self.host.run, "ip", "link", "delete", self.PARENT, check=False)
            self.plug_host()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def plug(self, port: str, plug: Plug) -> None:
        """Connect a machine with a port of the switch."""
        connect(Plug(self.switch, port), plug)
        self.switch.run("ip", "link", "set", port, "master", "br0")

    def plug_host(self) -> None:
        """Connect the engine's machine; also after its link was deleted."""
        self.plug("host", Plug(self.host, self.PARENT, (f"{self.HOST4}/24", f"{self.HOST6}/64")))
        # Global addresses outlive that the link is down, as where somebody manages the network.
        self.host.write_sysctl(f"net/ipv6/conf/{self.PARENT}/keep_addr_on_down", "1")
        eventually(lambda: not self.host.run("ip", "address", "show", "dev", self.PARENT, "tentative"))

    @contextmanager
    def reflecting(self) -> Iterator[None]:
        """Have the switch send frames back to the engine's machine (IEEE 802.1Qbg)."""
        hairpin = ("ip", "link", "set", "host", "type", "bridge_slave", "hairpin")
        self.switch.run(*hairpin, "on")
        try:
            yield
        finally:
            self.switch.run(*hairpin, "off")

    def forget_neighbours(self) -> None:
        """Have the LAN's machines forget who had which address: not every engine announces that it moved."""
        for where in (self.peer, self.router):
            where.run("ip", "neighbour", "flush", "dev", "eth0")

    def snapshot(self) -> dict[str, Any]:
        """Everything of the engine's machine that a network on the parent may change."""

        def told(*command: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(self.host.run(*command) or "[]")
            for one in found:
                for value in one.values():
                    if isinstance(value, list):
                        value.sort(key=str)
            return sorted(found, key=str)

        def of_parent(*command: str) -> list[dict[str, Any]]:
            return [one for one in told(*command) if self.PARENT in (one.get("ifname"), one.get("dev"))]

        ip = ("ip", "-d", "-j")
        return {
            "links": sorted(one["ifname"] for one in told("ip", "-j", "link")),
            "parent": of_parent(*ip, "address"),
            "routes": [of_parent(*ip, version, "route", "show", "table", "all") for version in ("-4", "-6")],
            "rules": [told(*ip, version, "rule") for version in ("-4", "-6")],
            "filters": of_parent("bridge", "-j", "fdb"),
            "groups": of_parent("ip", "-j", "maddress"),
            # Of machines that were asked something the host remembers the MAC for as long as it likes.
            "neighbours": [one for one in told(*ip, "neighbour", "show", "nud", "permanent") if one["dev"] != "lo"],
            "proxies": told(*ip, "neighbour", "show", "proxy"),
        }
