"""What a user of docker waits for on macvlan and ipvlan networks, of the built-in drivers and of pynet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

from tests.bench.engine_side import TRAFFIC, container, stream
from tests.bench.measure import BUILTIN, PYNET, Row, added, compared, in_turn, timed
from tests.engine.lab import Lab
from tests.lab.lan import Lan
from tests.vm.kernel import INSIDE

Kind = Literal["macvlan", "ipvlan"]

PARENT = "lan0"
#: pynet with its conflict check, and addresses of the engine's IPAM or of its own, which are asked for ahead of time.
CHECKED, AHEAD = "checked", "ahead"
#: What the conflict check may add to a start.
CHECK_MS = 100


def starts(lab: Lab, quick: bool, kind: Kind) -> list[Row]:
    """A container from start to end, with and without a look for others that have its address."""
    ours = ("-d", "pynet", "-o", f"backend={kind}")
    networks = {
        BUILTIN: ("-d", kind),
        PYNET: (*ours, "-o", "conflict_check=false"),
        CHECKED: ours,
        AHEAD: (*ours, "--ipam-driver", "pynet"),
    }
    # In the virtual machine all takes ten times as long.
    rounds = (1 if INSIDE else 2) if quick else (3 if INSIDE else 15)
    with ExitStack() as stack:
        for number, (side, words) in enumerate(networks.items()):
            subnet = ("--subnet", f"10.8{number}.0.0/24", "--gateway", f"10.8{number}.0.1")
            stack.enter_context(_network(lab, side, *words, *subnet))

        def one(net: str) -> float:
            return timed(lambda: lab.docker("run", "--rm", "--network", net, "busybox", "true"))

        samples = in_turn(rounds, {side: partial(one, side) for side in networks})
    return [
        compared(f"`docker run --rm` on {kind}, conflict_check=false", samples, "s", 1.0),
        added(f"`docker run --rm` on {kind}, addresses by the engine", samples, CHECK_MS, CHECKED),
        added(f"`docker run --rm` on {kind}, addresses by pynet, asked for ahead of time", samples, None, AHEAD),
    ]


def throughput(lab: Lab, quick: bool) -> list[Row]:
    """One TCP connection between host and container, against one between containers of the network."""
    rounds, seconds = (2, 0.5) if quick else (5, 2.0)
    subnet = ("--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.128/25", "--gateway", Lan.NEIGHBOUR4)
    options = ("-o", "backend=macvlan", "-o", "host_access=true")
    within, to_container, to_host = "containers", "to container", "to host"
    with ExitStack() as stack:
        stack.enter_context(_network(lab, "shared", "-d", "pynet", *options, *subnet))
        for name in ("one", "other"):
            stack.enter_context(container(lab, name, "shared"))
        address = lab.addresses("other", "shared")["IPAddress"]
        send, port = (*TRAFFIC, "send"), ("5001", str(seconds))
        in_container = partial(lab.sandbox, "other")
        sides = {
            within: partial(stream, in_container, partial(lab.sandbox, "one", *send, address, *port)),
            to_container: partial(stream, in_container, partial(lab.host.popen, *send, address, *port)),
            to_host: partial(stream, lab.host.popen, partial(lab.sandbox, "one", *send, Lan.HOST4, *port)),
        }
        samples = in_turn(rounds, sides)
    return [
        compared(
            f"TCP throughput on macvlan, {what}, against container to container",
            *(samples, "Gbit/s", 0.9, side, within, True),
        )
        for what, side in (("host to container", to_container), ("container to host", to_host))
    ]


@contextmanager
def _network(lab: Lab, name: str, *arguments: str) -> Iterator[None]:
    lab.docker("network", "create", *arguments, "-o", f"parent={PARENT}", name)
    try:
        yield
    finally:
        lab.docker("network", "rm", name)
