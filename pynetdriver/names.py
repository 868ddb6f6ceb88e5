"""Names and addresses derived from the engine's ids, so that deleting needs no memory.

The forms are frozen: objects made by an older pynet are found by name. Ids are 64 hex characters, or
25 of base 36 for swarm networks; 12 of either keep a name within the kernel's 15 bytes (IFNAMSIZ).
"""

from __future__ import annotations

import re
from hashlib import sha256

from netaddr import IPAddress

PREFIX_LENGTH = 12

#: What the functions below make of any id.
OUR_NAMES = re.compile(rf"pn[-hcs][0-9a-z]{{{PREFIX_LENGTH}}}")

#: Sub-interfaces that pynet may have made for a network, and what they stand on.
VLAN_NAME = re.compile(r"(?P<lower>.+)\.(?P<id>[0-9]{1,4})")

#: Bridges of the engine's own networks; one with a name that its user chose is not recognised.
ENGINE_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")

#: Interface group of every link whose traffic pynet judges ("pn" in ASCII).
LINK_GROUP = 0x706E
#: Interface group of links that pynet makes and whose traffic it leaves alone.
PLAIN_GROUP = 0x706F
#: Names of links that can be written into rules; one that is no UTF-8 was read with replacements.
WRITABLE = re.compile(r"[^-!\s\"\\*{}\ufffd][^\s\"\\*{}\ufffd]*")


def bridge_name(network_id: str) -> str:
    """Name the bridge of a network."""
    return f"pn-{network_id[:PREFIX_LENGTH]}"


def host_link(endpoint_id: str) -> str:
    """Name the end of an endpoint's link that stays on the host."""
    return f"pnh{endpoint_id[:PREFIX_LENGTH]}"


def container_link(endpoint_id: str) -> str:
    """Name the end of an endpoint's link that the engine moves into the sandbox."""
    return f"pnc{endpoint_id[:PREFIX_LENGTH]}"


def shim_link(parent: str) -> str:
    """Name the host's own link on a parent."""
    return f"pns{sha256(parent.encode()).hexdigest()[:PREFIX_LENGTH]}"


def shim_mac(parent: str, mac: str) -> str:
    """Give the host's own link on a parent a MAC that no other host's has."""
    return _local_mac(sha256(f"{parent} {mac}".encode()).digest()[:5])


def network_mac(network_id: str) -> str:
    """Give a bridge a MAC of its own: without one it changes with every port that comes or goes."""
    return _local_mac(sha256(network_id.encode()).digest()[:5])


def endpoint_mac(endpoint_id: str, address: IPAddress | None) -> str:
    """Derive a container's MAC from its IPv4 address, so that a recreated container keeps both.

    Neighbours' ARP caches stay right that way; engines before 28 announce nothing. Form 02:42:a:b:c:d
    as libnetwork's netutils.GenerateMACFromIP. Without an IPv4 address it comes from the endpoint's id.
    """
    if address is not None and address.version == 4:
        return _local_mac(b"\x42" + address.packed)
    return _local_mac(sha256(endpoint_id.encode()).digest()[:5])


def _local_mac(last_five: bytes) -> str:
    return (b"\x02" + last_five).hex(":")
