"""Random calls against the real kernel: after each, store, links and rules agree."""

import json
import random
from typing import Any

import pytest

from pynetdriver.backends import backend_named
from pynetdriver.firewall import EngineBridges, chains, ruleset
from pynetdriver.firewall.nftables import Nftables
from pynetdriver.model import Endpoint, Network, decode
from pynetdriver.plan import Bridge, Intent, Plan, Veth
from tests.lab.legacy import legacy_rules
from tests.lab.netns import Namespace

from .ask import differences
from .host import (
    PROGRAM,
    REVOKE,
    Host,
    assert_refusal,
    both_firewalls,
    endpoint,
    ids,
    join,
    links,
    network,
    plain,
    port,
    program,
    rows,
)
from .host import rules as written_rules
from .inside import inside

pytestmark = both_firewalls

NETWORKS = {"9f" * 32: 9, "8e" * 32: 8, "7d" * 32: 7}
STEPS = 60
#: Writes which ports cannot be bound.
HELD = """
import socket, sys
for one in sys.argv[1:]:
    protocol, version, port = one.split()
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET if version == "4" else socket.AF_INET6, kind) as mine:
        if version == "6":
            mine.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            mine.bind(("", int(port)))
        except OSError:
            print(one)
"""
#: Those that chains of pynet are in.
_TABLES = [(4, "raw"), (4, "nat"), (4, "mangle"), (6, "nat"), (6, "mangle")]
SEEDS = [1, 2, 3]


def plans(host: Host) -> tuple[list[Plan], dict[str, Network], list[Endpoint]]:
    """Tell what the rows of the store come to."""
    found = rows(host.daemon.state_dir)
    networks = {key: decode(data.encode(), Network) for (kind, key), data in found.items() if kind == "network"}
    endpoints = [decode(data.encode(), Endpoint) for (kind, _), data in found.items() if kind == "endpoint"]
    assert all(one.phase == "ready" for one in [*networks.values(), *endpoints])
    bridge = backend_named("bridge")
    wanted = [bridge.network_plan(one) for one in networks.values()]
    wanted += [bridge.endpoint_plan(networks[one.network_id], one) for one in endpoints]
    return wanted, networks, endpoints


def write(commands: str) -> None:
    Nftables().commit(commands)


def loaded(scratch: Namespace, intents: list[Intent], firewall: str) -> str:
    """Let the kernel say how rules that are written anew read."""
    if firewall == "iptables":
        tables = chains.render([chains.content(intents)], EngineBridges())
        for version, name in _TABLES:
            written = chains.written(tables.get((version, name), {}), name) if tables else f"*{name}\nCOMMIT\n"
            scratch.run(f"ip{'6' if version == 6 else ''}tables-legacy-restore", input=written)
        return legacy_rules(scratch)
    scratch.run("nft", "flush", "ruleset")
    if not intents:
        return ""
    inside(scratch, write, ruleset.render(intents, EngineBridges()))
    return plain(scratch.run("nft", "-j", "list", "ruleset"))


def assert_agreement(host: Host, scratch: Namespace) -> int:
    """Compare links, rules, forwarding and host ports with the rows of the store; returns how many ports are held."""
    wanted, networks, endpoints = plans(host)
    names = {"lo"}
    for plan in wanted:
        for one in plan.objects:
            names |= {one.name, one.peer} if isinstance(one, Veth) else {one.name} if isinstance(one, Bridge) else set()
    found = links(host.netns)
    assert set(found) == names
    for id, made in networks.items():
        addresses = sorted(f"{one.gateway}/{one.pool.prefixlen}" for one in made.subnets)
        assert found[f"pn-{id[:12]}"]["addresses"] == addresses
    for each in endpoints:
        assert found[f"pnh{each.id[:12]}"]["master"] == f"pn-{each.network_id[:12]}"
    intents = [intent for plan in wanted for intent in plan.intents]
    assert written_rules(host.netns) == loaded(scratch, intents, host.firewall)
    forwarding = any(not made.internal for made in networks.values())
    assert host.netns.sysctl("net/ipv4/ip_forward") == str(int(forwarding))
    published = {
        f"{one.protocol} {one.host_address.version} {one.host_port}" for each in endpoints for one in each.ports
    }
    tried = published | {f"{protocol} 4 {number}" for protocol in ("tcp", "udp") for number in range(8080, 8086)}
    assert set(host.netns.run("python3", "-ISc", HELD, *tried).splitlines()) == published
    assert differences(host) == []
    return len(published)


def a_call(choice: random.Random) -> tuple[str, Any]:
    """Choose a call, most of them sensible, on few ids so that they meet."""
    ((id, subnet),) = choice.choices(list(NETWORKS.items()), [4, 4, 1])
    if choice.random() < 0.05:
        subnet = choice.choice(list(NETWORKS.values()))
    number = choice.randint(1, 2) + 2 * (10 - NETWORKS[id])
    ports = [
        port(choice.choice([0, 8080, 8081, 8082]), choice.choice([80, 81]), choice.choice([6, 17]))
        for _ in range(choice.randint(0, 3))
    ]
    if choice.random() < 0.2:
        ports.append(port(8080, 80, 6, choice.choice(["127.0.0.1", "192.0.2.1", "::1", "x"]), choice.choice([0, 8085])))
    dual = subnet == 8
    calls: list[tuple[str, Any, int]] = [
        ("CreateNetwork", network(id, subnet, dual=dual, internal=subnet == 7), 6),
        ("CreateNetwork", network(id, subnet, nonsense="1"), 1),
        ("DeleteNetwork", {"NetworkID": id}, 1),
        ("CreateEndpoint", endpoint(number, id, subnet, dual=dual), 12),
        ("DeleteEndpoint", ids(number, id), 2),
        ("Join", join(number, id), 12),
        ("Leave", ids(number, id), 2),
        (PROGRAM, program(number, *ports, network_id=id), 20),
        (REVOKE, ids(number, id), 3),
    ]
    ((method, body, _),) = choice.choices(calls, [weight for *_, weight in calls])
    return method, body


@pytest.mark.parametrize("seed", SEEDS)
def test_store_links_and_rules_agree_after_any_call(host: Host, seed: int) -> None:
    """Whatever is called in whatever order, with crashes in between, what is stored is what is there."""
    choice, done, answered, most = random.Random(seed), list[Any](), 0, 0
    with Namespace() as scratch:
        for step in range(STEPS):
            if choice.random() < 0.05:
                done.append("kill -9")
                host.restart()
            method, body = a_call(choice)
            before = rows(host.daemon.state_dir)
            status, answer = host.call(method, body)
            done.append((method, body, status))
            try:
                if status == 200:
                    answered += 1
                else:
                    assert_refusal(status, answer)
                    assert rows(host.daemon.state_dir) == before
                most = max(most, assert_agreement(host, scratch))
            except AssertionError as failure:
                story = "\n".join(json.dumps(one) for one in done)
                raise AssertionError(f"seed {seed}, step {step}: {failure}\n{story}") from failure
        assert answered > STEPS / 4 and most >= 2
        for id in NETWORKS:
            host.ok("DeleteNetwork", {"NetworkID": id})
        assert_agreement(host, scratch)
        assert not rows(host.daemon.state_dir)
