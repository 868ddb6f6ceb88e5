"""Networks on a parent: requests for them, a container's sandbox, and a picture of all that they may leave behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff
from pprint import pformat
from typing import Any

from pynetdriver.names import shim_link
from tests.lab.lan import Lan
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

from .host import GENERIC, INTERNAL, NETWORK, Host, endpoint_id, ids

PARENT = "lan0"
SHIM = shim_link(PARENT)
HOST4, HOST6, NEIGHBOUR4, NEIGHBOUR6 = Lan.HOST4, Lan.HOST6, Lan.NEIGHBOUR4, Lan.NEIGHBOUR6
POOL4, POOL6 = "192.0.2.0/24", "2001:db8:1::/64"
#: Another pool for a second network on the parent.
SECOND4, SECOND6 = "198.51.100.0/24", "2001:db8:2::/64"


def on_parent(
    id: str = NETWORK,
    pool4: str = POOL4,
    pool6: str = "",
    *,
    gateways: tuple[str, str] = ("", ""),
    aux: dict[str, str] | None = None,
    internal: bool = False,
    space: str = "LocalDefault",
    **options: Any,
) -> Any:
    """Write a CreateNetwork request for a macvlan network, unless the options say otherwise."""
    data = []
    for pool, gateway in ((pool4, gateways[0]), (pool6, gateways[1])):
        length = pool.rpartition("/")[2]
        one = {"AddressSpace": space, "Pool": pool, "Gateway": f"{gateway}/{length}" if gateway else ""}
        found = {name: f"{text}/{length}" for name, text in (aux or {}).items() if (":" in text) == (":" in pool)}
        data.append([{**one, "AuxAddresses": found}] if pool else [])
    generic = {"backend": "macvlan", **options}
    return {
        "NetworkID": id,
        "Options": {GENERIC: generic, **({INTERNAL: True} if internal else {})},
        "IPv4Data": data[0],
        "IPv6Data": data[1],
    }


def endpoint_on(
    number: int = 2, network_id: str = NETWORK, address4: str = "", address6: str = "", mac: str = ""
) -> Any:
    """Write a CreateEndpoint request with addresses as the engine's IPAM gives them."""
    interface = {"Address": address4, "AddressIPv6": address6, "MacAddress": mac}
    return {**ids(number, network_id), "Interface": interface, "Options": {}}


def container_link(number: int) -> str:
    """Name the link of an endpoint before it is in a sandbox."""
    return f"pnc{endpoint_id(number)[:12]}"


def join_in(sandbox: Namespace, number: int = 2, network_id: str = NETWORK) -> Any:
    """Write a Join request that names a sandbox which is there."""
    return {**ids(number, network_id), "SandboxKey": str(sandbox.path), "Options": {}}


def move_in(host: Host, sandbox: Namespace, number: int, answer: Any, *addresses: str) -> None:
    """Do what the engine does after Join: link in, renamed, with addresses, gateways and routes."""
    link = container_link(number)
    host.netns.run("ip", "link", "set", link, "netns", sandbox.name)
    sandbox.run("ip", "link", "set", link, "name", "eth0")
    for address in addresses:
        sandbox.run("ip", "address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
    sandbox.run("ip", "link", "set", "eth0", "up")
    for route in answer.get("StaticRoutes", []):
        way = ("via", route["NextHop"]) if route.get("NextHop") else ()
        sandbox.run("ip", "route", "add", route["Destination"], *way, "dev", "eth0")
    for gateway in filter(None, (answer.get("Gateway"), answer.get("GatewayIPv6"))):
        sandbox.run("ip", "route", "add", "default", "via", gateway, "dev", "eth0")


@contextmanager
def on_lan(host: Host) -> Iterator[Namespace]:
    """Connect a host by the link lan0 with a neighbour, by whom its default route leads."""
    automatic = "net/ipv6/conf/default/addr_gen_mode"
    host.netns.write_sysctl(automatic, "1")
    with Lan(host.netns) as made:
        host.netns.write_sysctl(automatic, "0")
        # The kernel's own would come to be used a second or two later.
        host.netns.run("ip", "address", "add", "fe80::1/64", "dev", PARENT, "nodad")
        yield made.neighbour


@contextmanager
def container(
    host: Host, number: int = 2, address4: str = "", address6: str = "", *, network_id: str = NETWORK, mac: str = ""
) -> Iterator[Namespace]:
    """Have an endpoint in a sandbox in which a process lives; the sandbox is killed at the end, nothing is called."""
    made = host.ok("CreateEndpoint", endpoint_on(number, network_id, address4, address6, mac))
    with Namespace() as sandbox, sandbox.popen("sleep", "infinity") as process:
        try:
            joined = host.ok("Join", join_in(sandbox, number, network_id))
            given = made.get("Interface", {}).get("Address", "") or address4
            move_in(host, sandbox, number, joined, *filter(None, (given, address6)))
            yield sandbox
        finally:
            process.kill()


def leave(host: Host, number: int = 2, network_id: str = NETWORK, sandbox: Namespace | None = None) -> None:
    """End an endpoint as the engine does, which brings the link back from the sandbox if that is still there."""
    host.ok("Leave", ids(number, network_id))
    if sandbox is not None:
        link = container_link(number)
        sandbox.run("ip", "link", "set", "eth0", "down")
        sandbox.run("ip", "link", "set", "eth0", "name", link)
        sandbox.run("ip", "link", "set", link, "netns", host.netns.name)
    host.ok("DeleteEndpoint", ids(number, network_id))


def reaches(where: Namespace, address: str, within_s: int = 10) -> bool:
    """Ping until there is an answer."""
    return ", 1 received" in where.run("ping", "-c1", f"-w{within_s}", "-n", address, check=False)


def promiscuity(host: Host, link: str = PARENT) -> int:
    """Count who has a link promiscuous."""
    (found,) = json.loads(host.netns.run("ip", "-d", "-j", "link", "show", "dev", link))
    return int(found["promiscuity"])


def untimed(value: Any) -> Any:
    """Leave out what counts down, such as a bridge's timers, and what a bridge is told late."""
    if isinstance(value, list):
        return [untimed(one) for one in value]
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key != "operstate" and not key.endswith("_timer")}
    return value


def footprint(host: Host) -> dict[str, Any]:
    """Everything on the host that a network on a parent may change: whatever is not counted or timed.

    Who has the gateway is asked after the answer; the parent is in the gateway's group until that is over.
    """
    netns = host.netns
    eventually(lambda: "33:33:ff:00:00:02" not in netns.run("ip", "maddress", "show", "dev", PARENT, check=False))
    neighbours = [
        (one["dev"], one["dst"], one.get("lladdr"))
        for one in json.loads(netns.run("ip", "-j", "neighbour") or "[]")
        if one["dst"] not in (NEIGHBOUR4, NEIGHBOUR6)  # whom the host may ask for whatever it likes
    ]
    families = ("ipv4", "ipv6")
    switches = netns.run(
        "sh", "-c", "grep -rHs . " + " ".join(f"/proc/sys/net/{one}/conf" for one in families), check=False
    )
    return {
        "state": host.state(),
        "links": [untimed(one) for one in json.loads(netns.run("ip", "-d", "-j", "address"))],
        "routes": [netns.run("ip", f"-{version}", "route", "show", "table", "all") for version in (4, 6)],
        "rules": [netns.run("ip", f"-{version}", "rule") for version in (4, 6)],
        "neighbours": sorted(map(str, neighbours)),
        "groups": netns.run("ip", "maddress"),
        "switches": sorted(switches.splitlines()),
    }


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Say what two footprints differ in, line by line."""

    def lines(footprint: dict[str, Any]) -> list[str]:
        return [f"{key}: {line}" for key, value in footprint.items() for line in pformat(value, width=200).splitlines()]

    return "\n".join(unified_diff(lines(wanted), lines(found), "wanted", "found", n=0, lineterm=""))
