"""What the links of endpoints carried, as the containers that have them see it."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import NamedTuple

from pynetdriver.kernel.rtnetlink import IFNAME, LINK_BYTES, STATS64, host_errors, link_request, route_socket, text
from pynetdriver.kernel.sandbox import alias_of, links, links_elsewhere
from pynetdriver.names import container_link, host_link
from pynetdriver.nlmsg import attributes

_WITH_COUNTERS = link_request(with_counters=True)


class Traffic(NamedTuple):
    """Packets and bytes with their link-layer headers; the beginning of struct rtnl_link_stats64 (linux/if_link.h)."""

    received_packets: int
    sent_packets: int
    received: int
    sent: int


_COUNTERS = struct.Struct("=4Q")


def traffic_of(endpoint_ids: Collection[str]) -> dict[str, Traffic]:
    """Read what endpoints' links carried, by endpoint id; for threads.

    One dump of the host's links tells of pairs, of which one end stays here. Only if an endpoint has no such end the
    namespaces into which links were moved are looked through, 0.1 ms each. A link that is nowhere is left out, and may
    be so while links come and go.

    Raises:
        HostError: the kernel does not answer.
    """
    ends = {host_link(id): id for id in endpoint_ids}
    moving = {container_link(id): id for id in endpoint_ids}
    whole: dict[str, Traffic] = {}
    with host_errors("read the counters of links"), route_socket() as one:
        there = {_name(body): body for body in links(one, _WITH_COUNTERS)}
        for name, id in ends.items():
            if name in there:
                here = _traffic(there[name])
                # What a pair's one end receives the other has sent.
                whole[id] = Traffic(here.sent_packets, here.received_packets, here.sent, here.received)
        for name, id in moving.items():
            if id not in whole and name in there:
                whole[id] = _traffic(there[name])
        if len(whole) < len(ends):
            for _, bodies, _ in links_elsewhere(_WITH_COUNTERS, alias_of):
                for body in bodies:
                    moved = moving.get(alias_of(body) or "")
                    if moved is not None:
                        whole[moved] = _traffic(body)
    return whole


def _name(body: bytes) -> str:
    return text(next(value for kind, value in attributes(body, LINK_BYTES) if kind == IFNAME))


def _traffic(body: bytes) -> Traffic:
    values = next(value for kind, value in attributes(body, LINK_BYTES) if kind == STATS64)
    return Traffic._make(_COUNTERS.unpack_from(values))
