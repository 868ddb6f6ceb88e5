"""What pynet answers on its admin socket, which is also what the commands print with `--json`.

Fields are only ever added, so that what programs read stays. Times are seconds since 1970, addresses text.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer."""


class PoolUse(Answer, frozen=True, kw_only=True):
    """A pool of pynet's own IPAM: `size` addresses can be given to containers, `used` are."""

    subnet: str
    range: str | None = None
    space: str
    size: int
    used: int


class Repair(Answer, frozen=True, kw_only=True):
    """Something that others had damaged and pynet repaired; `kind` is what, such as bridge, port or table."""

    time: float
    kind: str
    what: str


class Sample(Answer, frozen=True, kw_only=True):
    """One value of a metric, as Prometheus would read it."""

    name: str
    labels: dict[str, str]
    value: float


class Status(Answer, frozen=True, kw_only=True):
    """The daemon at a glance.

    `owner` says how it was started, `unfinished` which removals are tried again, `unsound` the ids of networks that
    are not on the host as they should be. `repairs` are the last ones, latest last.
    """

    version: str
    owner: str
    since: float
    sockets: list[str]
    state_dir: str
    firewall: str
    networks: int
    endpoints: int
    ports: int
    pools: list[PoolUse]
    repairs: list[Repair]
    unfinished: list[str]
    unsound: list[str]
    metrics: list[Sample]


class Port(Answer, frozen=True, kw_only=True):
    """A published port; host port 0: none of the host leads there, the container is reached at its own address."""

    protocol: str
    host_address: str
    host_port: int
    address: str
    port: int


class PublishedPort(Port, frozen=True, kw_only=True):
    """A published port with its endpoint and network; names are there if the engine could be asked for them."""

    network: str
    network_name: str | None = None
    endpoint: str
    container: str | None = None


class Endpoint(Answer, frozen=True, kw_only=True):
    """One attachment of a container; `interface` is its link inside, if known, `link` what stays of it on the host.

    The daemon does not know names; the command asks the engine for `container`, and leaves it out if that is silent.
    """

    id: str
    container: str | None = None
    mac: str
    addresses: list[str]
    interface: str | None = None
    link: str | None = None
    joined: bool
    lease_until: float | None = None
    ports: list[Port]


class Subnet(Answer, frozen=True, kw_only=True):
    """A subnet of a network; `gateway` is what containers are told, `host` the host's own address if it is another."""

    pool: str
    gateway: str | None = None
    host: str | None = None


class Network(Answer, frozen=True, kw_only=True):
    """One `docker network`; `link` is its bridge, or the parent that its links stand on; `name` as for endpoints."""

    id: str
    name: str | None = None
    backend: str
    link: str | None = None
    internal: bool
    options: dict[str, str]
    subnets: list[Subnet]
    sound: bool
    endpoints: list[Endpoint]


class Difference(Answer, frozen=True, kw_only=True):
    """Something that is not as pynet's state says; `owner` is such as network:0123456789ab, or pynet."""

    owner: str
    what: str
    mended: bool


class Reconciliation(Answer, frozen=True, kw_only=True):
    """What was found and, unless it was only looked, repaired."""

    dry_run: bool
    differences: list[Difference]


class Finding(Answer, frozen=True, kw_only=True):
    """Something that is wrong on this host, and the command that repairs it.

    `check` is the kind of it, such as forwarding or parent. An error breaks something now, a warning will.
    """

    check: str
    severity: Literal["error", "warning"]
    what: str
    command: str
