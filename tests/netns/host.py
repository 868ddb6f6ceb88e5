"""A host of its own for one test: a namespace, a daemon in it, its calls, and a picture of its state."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.lab.daemon import Daemon
from tests.lab.legacy import legacy_rules
from tests.lab.netns import Namespace
from tests.lab.unix import PLUGIN_HEADERS, UnixConnection

NETWORK = "9f" * 32
OTHER = "8e" * 32
UNKNOWN = "0" * 64
SANDBOX = "/var/run/docker/netns/0123456789ab"
GENERIC = "com.docker.network.generic"
INTERNAL = "com.docker.network.internal"
PORTMAP = "com.docker.network.portmap"
#: So long calls that met their deadline are made again.
OVERDUE_S = 60
#: What differs from one kernel table to the next that says the same.
_VOLATILE = {"handle", "metainfo"}


@dataclass(frozen=True)
class State:
    """Everything that a call may change; equal pictures mean that it changed nothing."""

    rows: dict[tuple[str, str], str]
    links: dict[str, Any]
    rules: str
    sysctls: str


def rows(state_dir: Path) -> dict[tuple[str, str], str]:
    """Read the store as another process sees it."""
    connection = sqlite3.connect(f"file:{state_dir}/pynet.db?mode=ro", uri=True)
    try:
        return {(kind, key): data.decode() for kind, key, data in connection.execute("SELECT * FROM record")}
    finally:
        connection.close()


def links(netns: Namespace) -> dict[str, Any]:
    """List links with what pynet decides about them."""
    found = {}
    for link in json.loads(netns.run("ip", "-d", "-j", "address")):
        addresses = {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global"}
        found[link["ifname"]] = {
            "mtu": link["mtu"],
            # The kernel's choice on the host's end of a pair.
            "mac": None if link["ifname"].startswith("pnh") else link.get("address"),
            "master": link.get("master"),
            "kind": link.get("linkinfo", {}).get("info_kind"),
            "isolated": link.get("linkinfo", {}).get("info_slave_data", {}).get("isolated"),
            "group": link.get("group"),
            "up": "UP" in link["flags"],
            "addresses": sorted(addresses),
        }
    return found


def plain(listing: str) -> str:
    """Write `nft -j` output so that two tables that say the same are equal."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(one) for key, one in sorted(value.items()) if key not in _VOLATILE}
        if isinstance(value, list):
            return [stripped(one) for one in value]
        return value

    lines = []
    rule_numbers: dict[str, int] = {}
    for one in stripped(json.loads(listing)["nftables"]):
        for kind, content in one.items():
            if kind in {"map", "set"}:
                # What packets put into a set is no rule.
                counted = content["name"].startswith("traffic")
                content["elem"] = [] if counted else sorted(content.get("elem", []), key=json.dumps)
            if kind == "rule":
                # Chains come in any order, rules in theirs.
                number = rule_numbers[content["chain"]] = rule_numbers.get(content["chain"], 0) + 1
                content["number"] = number
            lines.append(f"{kind} {json.dumps(content, sort_keys=True)}")
    return "\n".join(sorted(line for line in lines if line != "metainfo {}"))


def rules(netns: Namespace, what: str = "ruleset") -> str:
    """List rules without what differs between equal tables; nothing if there is no such table."""
    listing = netns.run("nft", "-j", "list", *what.split(), check=False)
    return (plain(listing) if listing.strip() else "") + legacy_rules(netns)


def sysctls(netns: Namespace) -> str:
    """Read the host-wide switches that pynet may touch."""
    patterns = ("ipv4/ip_forward", "ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra")
    return netns.run("sh", "-c", "grep -H . " + " ".join(f"/proc/sys/net/{one}" for one in patterns))


class Host:
    """A namespace with a daemon, from `with` to the end of the block."""

    def __init__(self, folder: Path, firewall: str = "auto") -> None:
        self.netns = Namespace()
        self.folder = folder
        self.firewall = firewall
        self.daemon = self._daemon()

    def _daemon(self) -> Daemon:
        places = (self.folder / "pynet.sock", self.folder / "state")
        return Daemon(self.netns, *places, "--firewall", self.firewall, forked=True)

    def __enter__(self) -> Host:
        self.netns.__enter__()
        try:
            self.daemon.start()
        except BaseException:
            self.netns.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.daemon.kill()
        self.netns.close()

    def raw(self, method: str, body: bytes, verb: str = "POST") -> tuple[int, Any]:
        """Send bytes as a body; the answer is always JSON."""
        connection = UnixConnection(self.daemon.socket, 30)
        try:
            connection.request(verb, f"/{method}", body, PLUGIN_HEADERS)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def call(self, method: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Call a method of the network driver, or another one by its full name."""
        return self.raw(method if "." in method else f"NetworkDriver.{method}", json.dumps(body).encode())

    def ok(self, method: str, body: Mapping[str, Any]) -> Any:
        """Call what must succeed.

        Other tests end namespaces meanwhile, for which the kernel may keep a call waiting past its deadline: it is made
        again then, as an engine's client would.
        """
        end = time.monotonic() + OVERDUE_S
        while True:
            status, answer = self.call(method, body)
            if "not done within" not in str(answer.get("Err")) or time.monotonic() > end:
                break
        assert status == 200 and "Err" not in answer, (method, body, answer)
        return answer

    def attach(self, number: int = 2, network_id: str = NETWORK, subnet: int = 9, *, dual: bool = False) -> None:
        """Make an endpoint and join it."""
        self.ok("CreateEndpoint", endpoint(number, network_id, subnet, dual=dual))
        self.ok("Join", join(number, network_id))

    def refused(self, method: str, body: Mapping[str, Any]) -> str:
        """Call what must be refused; returns the sentence."""
        status, answer = self.call(method, body)
        assert_refusal(status, answer)
        return str(answer["Err"])

    def state(self) -> State:
        """Take a picture."""
        return State(rows(self.daemon.state_dir), links(self.netns), rules(self.netns), sysctls(self.netns))

    def restart(self, firewall: str = "") -> None:
        """End the daemon at once and start it again, perhaps with another kind of firewall."""
        self.daemon.kill()
        if firewall:
            self.firewall = firewall
            self.daemon = self._daemon()
        self.daemon.start()

    def flush_rules(self) -> None:
        """Remove all rules on the host, whoever's."""
        self.netns.run("nft", "flush", "ruleset")
        for command in ("iptables", "ip6tables"):
            tables = self.netns.run("cat", f"/proc/net/{command.removesuffix('tables')}_tables_names", check=False)
            for table in tables.split():
                self.netns.run("sh", "-c", f"{command}-legacy -t {table} -F && {command}-legacy -t {table} -X")


def assert_refusal(status: int, answer: Any) -> None:
    """A refusal is a 4xx or 5xx status but 404, and one sentence under both keys."""
    assert 400 <= status < 600 and status != 404, (status, answer)
    assert set(answer) == {"Err", "Error"} and answer["Err"] == answer["Error"], answer
    sentence = answer["Err"]
    assert sentence.strip() and "\n" not in sentence and len(sentence) < 500, sentence
    assert "Traceback" not in sentence and "internal error" not in sentence, sentence


def network(id: str = NETWORK, number: int = 9, *, dual: bool = False, internal: bool = False, **options: Any) -> Any:
    """Write a CreateNetwork request as the engine does."""
    return {
        "NetworkID": id,
        "Options": {GENERIC: options, **({INTERNAL: True} if internal else {})},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": f"10.{number}.0.0/24", "Gateway": f"10.{number}.0.1/24"}],
        "IPv6Data": [{"Pool": f"fd00:{number}::/64", "Gateway": f"fd00:{number}::1/64"}] if dual else [],
    }


def endpoint_id(number: int) -> str:
    """Give the id of a test's n-th endpoint."""
    return f"{number:04x}" * 16


def endpoint(number: int = 2, network_id: str = NETWORK, subnet: int = 9, *, dual: bool = False) -> Any:
    """Write a CreateEndpoint request as the engine does."""
    interface = {
        "Address": f"10.{subnet}.0.{number}/24",
        "AddressIPv6": f"fd00:{subnet}::{number:x}/64" if dual else "",
        "MacAddress": "",
    }
    return {**ids(number, network_id), "Interface": interface, "Options": {}}


def ids(number: int = 2, network_id: str = NETWORK) -> dict[str, str]:
    """Write what all calls about an endpoint have."""
    return {"NetworkID": network_id, "EndpointID": endpoint_id(number)}


def join(number: int = 2, network_id: str = NETWORK) -> Any:
    """Write a Join request."""
    return {**ids(number, network_id), "SandboxKey": SANDBOX, "Options": {}}


def port(host_port: int, container_port: int = 80, protocol: int = 6, address: str = "", end: int = 0) -> Any:
    """Write a published port."""
    return {
        "Proto": protocol,
        "IP": "",
        "Port": container_port,
        "HostIP": address,
        "HostPort": host_port,
        "HostPortEnd": end or host_port,
    }


def program(number: int, *ports: Any, network_id: str = NETWORK) -> Any:
    """Write a ProgramExternalConnectivity request."""
    return {**ids(number, network_id), "Options": {PORTMAP: list(ports)}}


@contextmanager
def stopped(host: Host) -> Iterator[None]:
    """Have the daemon do nothing for a while, as on a machine that is too busy."""
    pid = host.daemon.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


#: Has a test, or all of a module, run with each kind.
both_firewalls = pytest.mark.parametrize("firewall", ["nftables", "iptables"])
PROGRAM = "ProgramExternalConnectivity"
REVOKE = "RevokeExternalConnectivity"
