"""Tells a LAN whose addresses are, so that nobody goes on with what he remembers of others."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from netaddr import IPAddress

from pynetdriver.lan.probe import announcement


class Announcer:
    """Sends by one socket that stays open: to close one that saw frames takes the kernel up to 20 ms."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def announce(self, link: str, mac: str, addresses: Iterable[IPAddress]) -> None:
        """Send ARP announcements (RFC 5227 section 2.3) or unsolicited advertisements (RFC 4861 section 7.2.6).

        A link that is down or gone has nobody to tell.
        """
        with contextlib.suppress(OSError):
            if self._socket is None:
                kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_PACKET, kind, 0)
            for address in addresses:
                frame = announcement(bytes.fromhex(mac.replace(":", "")), address.packed)
                self._socket.sendto(frame, (link, 0))
