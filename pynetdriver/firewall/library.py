"""libnftables, bound by ctypes.

The distribution's own Python binding is not on the package index, so the functions that are needed are bound here.
"""

from __future__ import annotations

import ctypes

from pynetdriver.errors import HostError

#: NFT_DEBUG_MNL (libnftables.h): what is sent and asked.
_DEBUG_MESSAGES = 0x10


class NftablesError(Exception):
    """The kernel or the library refused a transaction; nothing of it was carried out."""


def load() -> ctypes.CDLL:
    """Load the library. Raises HostError if it is not installed."""
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError:
        raise HostError("libnftables.so.1 is missing; install the package libnftables1 (or nftables)") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    return library


class Context:
    """A context of the library in the network namespace of the thread that makes it; for one thread at a time."""

    def __init__(self, library: ctypes.CDLL, *, only_compiles: bool = False) -> None:
        """Make one.

        Args:
            only_compiles: the kernel is asked whether it would carry commands out, and what is sent for that is in the
                output too, as mnl_nlmsg_fprintf of libmnl writes it.
        """
        self._library = library
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_set_dry_run(self._context, only_compiles)
        library.nft_ctx_output_set_debug(self._context, _DEBUG_MESSAGES if only_compiles else 0)

    def close(self) -> None:
        """Give it up."""
        self._library.nft_ctx_free(self._context)

    def set_output(self, flags: int) -> None:
        """Set what listings look like (NFT_CTX_OUTPUT_… of libnftables.h)."""
        self._library.nft_ctx_output_set_flags(self._context, flags)

    def run(self, commands: str) -> tuple[str, str]:
        """Run commands; return the output and what went wrong, empty if nothing did."""
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        errors = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        return output, (errors.strip().partition("\n")[0] or "unknown error") if code else ""
