"""Whole frames on one link, which a filter in the kernel picks (packet(7)).

A link's taps see every frame that it sends or takes in, whatever MAC it is for and whatever link stands on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Collection, Sequence

from pynetdriver.errors import HostError

#: One instruction of a classic BPF program: code, jump if true, jump if false, operand (linux/filter.h).
Instruction = tuple[int, int, int, int]

#: Begins a program that accepts only what the link sends, not what comes in by it: a byte of what the kernel knows of
#: a frame (SKF_AD_PKTTYPE) is PACKET_OUTGOING of linux/if_packet.h.
SENT: tuple[Instruction, ...] = ((0x30, 0, 0, -0x1000 + 4), (0x15, 1, 0, 4), (0x06, 0, 0, 0))

_ALL = 0x0003  # ETH_P_ALL of linux/if_ether.h
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of asm-generic/socket.h
_SOL_PACKET = 263  # linux/socket.h
_ADD_MEMBERSHIP, _MULTICAST, _ALL_MULTICAST = 1, 0, 2  # PACKET_… and PACKET_MR_… of linux/if_packet.h
_MEMBERSHIP = struct.Struct("=iHH8s")  # struct packet_mreq
_ETHERNET = 1  # ARPHRD_ETHER of linux/if_arp.h
_GET_FLAGS = 0x8913  # SIOCGIFFLAGS of linux/sockios.h
_REQUEST = struct.Struct("=16sH22x")  # struct ifreq with flags
#: More groups than this fill the filters of many network cards.
_GROUPS = 16
#: A datagram that is larger than this is no answer to anything that is asked here.
_FRAME_BYTES = 2048
#: The event loop goes on after so many.
_FRAMES = 64


class PacketSocket:
    """Hands over frames of a link that a filter accepts, and sends others."""

    def __init__(self, link: str, program: Sequence[Instruction], received: Callable[[bytes], None]) -> None:
        """Open it in the running loop.

        Raises:
            HostError: there is no such link, or it may not be listened on.
        """
        self._link = link
        self._received = received
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        except OSError as error:
            raise HostError.of(error.errno or 0, f'listen on link "{link}"') from error
        try:
            code = b"".join(struct.pack("=HBBI", *(code, yes, no, k & 0xFFFFFFFF)) for code, yes, no, k in program)
            buffer = ctypes.create_string_buffer(code)
            # The filter is there before the socket is bound, so nothing else is ever queued.
            self._socket.setsockopt(
                socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
            )
            self._socket.bind((link, _ALL))
        except OSError as error:
            self._shut()
            raise HostError.of(error.errno or 0, f'listen on link "{link}"') from error
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    @property
    def mac(self) -> bytes:
        """The link's own MAC address; empty if it is gone or not of the Ethernet kind, as lo and tun.

        The socket is asked for it: /sys shows the links of the namespace that mounted it, which may be another.
        """
        _, _, _, kind, address = self._socket.getsockname()
        return address if kind == _ETHERNET and len(address) == 6 else b""

    @property
    def flags(self) -> int:
        """The link's flags, IFF_… of linux/if.h.

        Raises:
            HostError: the link is gone.
        """
        try:
            answer = fcntl.ioctl(self._socket, _GET_FLAGS, _REQUEST.pack(self._link.encode(), 0))
        except OSError as error:
            raise HostError.of(error.errno or 0, f'look at link "{self._link}"') from error
        return int(_REQUEST.unpack(answer)[1])

    def join(self, groups: Collection[bytes]) -> None:
        """Have the link take in what is sent to multicast MACs, all of them if they are many, until the socket closes.

        Raises:
            HostError: the link is gone.
        """
        try:
            index = socket.if_nametoindex(self._link)
            one_for_all = [(_ALL_MULTICAST, bytes(6))]
            for kind, group in one_for_all if len(groups) > _GROUPS else [(_MULTICAST, group) for group in groups]:
                membership = _MEMBERSHIP.pack(index, kind, len(group), group)
                self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        except OSError as error:
            raise HostError.of(error.errno or 0, f'join a multicast group on link "{self._link}"') from error

    def send(self, frame: bytes) -> None:
        """Send a frame, Ethernet header first; one that cannot be sent is as good as lost on the way.

        Raises:
            HostError: the link is down or gone.
        """
        try:
            self._socket.send(frame)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise HostError.of(error.errno or 0, f'send a frame on link "{self._link}"') from error

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._shut()

    def _shut(self) -> None:
        # In a thread: the kernel comes back from there when no processor looks at the socket any more (packet_release
        # in net/packet/af_packet.c: synchronize_net), which was measured to take 7 to 19 ms.
        try:
            asyncio.get_running_loop().run_in_executor(None, self._socket.close)
        except RuntimeError:  # the loop ends, and its threads have ended
            self._socket.close()

    def _read(self) -> None:
        for _ in range(_FRAMES):
            # A link that goes down or away says so once, and is quiet from then on.
            with contextlib.suppress(OSError):
                self._received(self._socket.recv(_FRAME_BYTES))
                continue
            return
