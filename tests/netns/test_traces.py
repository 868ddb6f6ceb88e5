"""What an engine that is not to be had here sent to pynet, once recorded, is answered as it was."""

from __future__ import annotations

import json
from pathlib import Path

from .host import Host, both_firewalls

TRACE = Path(__file__).parents[1] / "traces" / "engine-29.7.2.jsonl"
#: The pool of the host that the trace was recorded on; each host has one of its own.
POOL6 = "fd31:918f:e0ff::"
#: Says what pynet can do, which grows.
CAPABILITIES = "/NetworkDriver.GetCapabilities"


@both_firewalls
def test_newest_engine_is_answered_as_recorded_when_its_calls_are_replayed(host: Host) -> None:
    """Networks, containers, ports, restarts and a second network: all of them, and nothing is left at the end."""
    before, pool6 = host.state(), POOL6
    host.netns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    for link in ("eth0", "eth1"):
        host.netns.run("ip", "link", "set", link, "up")
    lines, answered = TRACE.read_text().splitlines(), 0
    step = ""
    for line in lines:
        call = json.loads(line.replace(POOL6, pool6))
        step = call.get("step", step)
        if "step" in call:
            continue
        body = b"" if call["req"] is None else json.dumps(call["req"]).encode()
        status, answer = host.raw(call["path"][1:], body)
        if answer.get("Pool", "").startswith("fd") and not call["req"]["Pool"]:
            pool6 = answer["Pool"].removesuffix("/64")
            call = json.loads(line.replace(POOL6, pool6))
        wanted = answer if call["path"] == CAPABILITIES else call["resp"]
        assert (status, answer) == (200, wanted), (step, call)
        answered += 1
    assert answered > 150
    host.netns.run("ip", "link", "delete", "eth0")
    assert host.state() == before
