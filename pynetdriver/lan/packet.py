"""Whole frames on one link, which a filter in the kernel picks (packet(7)).

A link's taps see every frame that it sends or takes in, whatever MAC it is for and whatever link stands on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable, Sequence

from pynetdriver.errors import HostError

#: One instruction of a classic BPF program: code, jump if true, jump if false, operand (linux/filter.h).
Instruction = tuple[int, int, int, int]

_ALL = 0x0003  # ETH_P_ALL of linux/if_ether.h
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of asm-generic/socket.h
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
        self._received = received
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            code = b"".join(struct.pack("=HBBI", *(code, yes, no, k & 0xFFFFFFFF)) for code, yes, no, k in program)
            buffer = ctypes.create_string_buffer(code)
            # The filter is there before the socket is bound, so nothing else is ever queued.
            self._socket.setsockopt(
                socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
            )
            self._socket.bind((link, _ALL))
        except OSError as error:
            self._socket.close()
            raise HostError.of(error.errno or 0, f'listen on link "{link}"') from error
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def send(self, frame: bytes) -> None:
        """Send a frame, Ethernet header first; one that cannot be sent is as good as lost on the way.

        Raises:
            HostError: the link is down or gone.
        """
        try:
            self._socket.send(frame)
        except BlockingIOError:
            pass
        except OSError as error:
            raise HostError.of(error.errno or 0, "send a frame") from error

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_FRAMES):
            # A link that goes down or away says so once, and is quiet from then on.
            with contextlib.suppress(OSError):
                self._received(self._socket.recv(_FRAME_BYTES))
                continue
            return
