"""Answers for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import TypeVar

from tabulate import tabulate

from pynetdriver.admin.answers import Endpoint, Finding, Network, Port, PublishedPort, Reconciliation, Status

_SHORT = 12
P = TypeVar("P", bound=Port)


def status(one: Status) -> str:
    """Show the daemon at a glance."""
    facts = [
        ("since", _time(one.since)),
        ("sockets", " ".join(one.sockets)),
        ("state", one.state_dir),
        ("firewall", one.firewall),
        ("networks", one.networks),
        ("endpoints", one.endpoints),
        ("ports", one.ports),
    ]
    parts = [f"pynet {one.version}, {one.owner}", tabulate(facts, tablefmt="plain", disable_numparse=True)]
    if one.pools:
        rows = [(pool.subnet, pool.range or "", pool.space, pool.used, pool.size) for pool in one.pools]
        parts += ["", _table(("POOL", "RANGE", "SPACE", "USED", "OF"), rows)]
    if one.repairs:
        parts += ["", _table(("MENDED", "WHAT"), [(_time(repair.time), repair.what) for repair in one.repairs])]
    parts += [f"network {id[:_SHORT]} is not on the host as it should be: try `pynet reconcile`" for id in one.unsound]
    parts += [f"{owner} could not be removed yet; it is tried again" for owner in one.unfinished]
    return "\n".join(parts)


def networks(several: Sequence[Network]) -> str:
    """List networks."""
    rows = [
        (
            one.id[:_SHORT],
            one.name or "",
            one.backend,
            one.link or "",
            " ".join(subnet.pool for subnet in one.subnets),
            len(one.endpoints),
            sum(len(endpoint.ports) for endpoint in one.endpoints),
        )
        for one in several
    ]
    return _table(("NETWORK", "NAME", "BACKEND", "LINK", "SUBNETS", "ENDPOINTS", "PORTS"), rows)


def network(one: Network) -> str:
    """Show a network with its endpoints."""
    facts = [
        ("network", f"{one.id[:_SHORT]} {one.name or ''}".strip()),
        ("backend", one.backend),
        ("link", one.link or "none"),
        *(
            ("subnet", f"{subnet.pool}{_via(subnet.gateway, ' gateway ')}{_via(subnet.host, ' host ')}")
            for subnet in one.subnets
        ),
        *(("option", f"{key}={value}") for key, value in one.options.items()),
        *((("internal", "yes"),) if one.internal else ()),
        *(() if one.sound else (("state", "not on the host as it should be: try `pynet reconcile`"),)),
    ]
    rows = [
        (
            _who(endpoint),
            endpoint.interface or "",
            endpoint.mac,
            " ".join(endpoint.addresses),
            endpoint.link or "",
            " ".join(written for _, written in _ranges(sorted(endpoint.ports, key=order))),
        )
        for endpoint in one.endpoints
    ]
    table = _table(("ENDPOINT", "INTERFACE", "MAC", "ADDRESSES", "LINK", "PORTS"), rows)
    return "\n".join([tabulate(facts, tablefmt="plain", disable_numparse=True), "", table])


def ports(several: Sequence[PublishedPort]) -> str:
    """List published ports, a range in one line as `docker ps` writes it, in the order that they have."""
    rows = [
        (
            written,
            first.address,
            first.container or first.endpoint[:_SHORT],
            first.network_name or first.network[:_SHORT],
        )
        for _, of_endpoint in groupby(several, key=lambda one: one.endpoint)
        for first, written in _ranges(of_endpoint)
    ]
    return _table(("PORTS", "ADDRESS", "CONTAINER", "NETWORK"), rows)


def reconciliation(one: Reconciliation) -> str:
    """Say what differed, and whether it does still."""
    if not one.differences:
        return "nothing differs"
    words = {True: "mended", False: "differs" if one.dry_run else "not mended"}
    return _table(("OWNER", "WHAT", ""), [(each.owner, each.what, words[each.mended]) for each in one.differences])


def findings(several: Sequence[Finding], *, complete: bool) -> str:
    """Say what is wrong, and under each the command that repairs it.

    Args:
        complete: all of the host was looked at.
    """
    nothing = "nothing is wrong" if complete else "nothing is wrong with what was looked at"
    return "\n\n".join(f"{one.severity}: {one.what}\n    {one.command}" for one in several) or nothing


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return tabulate(list(rows), headers=head, tablefmt="plain", disable_numparse=True)


def _who(endpoint: Endpoint) -> str:
    return endpoint.container or endpoint.id[:_SHORT]


def order(one: Port) -> tuple[object, ...]:
    """Give what the ports of an endpoint are sorted by, so that those of a range follow each other."""
    return one.protocol, ":" in one.host_address, one.host_address, one.address, one.host_port, one.port


def _ranges(several: Iterable[P]) -> Iterator[tuple[P, str]]:
    """Join ports of one endpoint, sorted by `order`; yields the first of each range and how it is written."""
    ranges: list[list[P]] = []
    for one in several:
        if not (ranges and _continues(ranges[-1][-1], one)):
            ranges.append([])
        ranges[-1].append(one)
    for run in ranges:
        first, last = run[0], run[-1]
        inside = f"{_range(first.port, last.port)}/{first.protocol}"
        if first.host_port:
            yield first, f"{_bracketed(first.host_address)}:{_range(first.host_port, last.host_port)}->{inside}"
        else:  # reached at the container's own address
            yield first, inside


def _continues(last: Port, one: Port) -> bool:
    step = 1 if one.host_port else 0
    return (*order(last)[:4], last.host_port + step, last.port + 1) == order(one)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _via(address: str | None, word: str) -> str:
    return f"{word}{address}" if address else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
