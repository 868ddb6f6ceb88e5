"""Links and addresses asked of the kernel by hand (rtnetlink(7)), and its refusals as errors of pynet's."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

from netaddr import IPAddress, IPNetwork
from pyroute2.netlink.exceptions import NetlinkError

from pynetdriver.errors import HostError
from pynetdriver.nlmsg import attribute, attributes, dump

_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
# linux/if_addr.h
_GETADDR, _ADDRESS, _LOCAL, _TARGET_NSID = 22, 1, 2, 10
_WAIT_S = 5.0


def route_socket() -> socket.socket:
    """Open a socket for requests whose answers come at once."""
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    one.settimeout(_WAIT_S)
    # What a request says is to be left out is left out by the kernel.
    one.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
    return one


def addresses_of(index: int, namespace: int | None = None) -> tuple[IPNetwork, ...]:
    """List the addresses of one link, which takes no longer the more others have.

    Args:
        namespace: the number of the one that the link is in, None for this one.

    Raises:
        HostError: it is not there, or the kernel does not answer.
    """
    found, where = [], b"" if namespace is None else attribute(_TARGET_NSID, struct.pack("=i", namespace))
    with told("list the addresses of a link"), route_socket() as one:
        for body in dump(one, _GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, index) + where):
            values = dict(attributes(body, 8))
            raw = values.get(_LOCAL) or values[_ADDRESS]
            address = IPAddress(int.from_bytes(raw), 4 if len(raw) == 4 else 6)
            found.append(IPNetwork(f"{address}/{body[1]}"))
    return tuple(found)


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Translate the kernel's refusal; `what` was to be done."""
    try:
        yield
    except NetlinkError as error:
        raise HostError.of(error.code, what) from error
    except OSError as error:
        raise HostError.of(error.errno or errno.EIO, what) from error
