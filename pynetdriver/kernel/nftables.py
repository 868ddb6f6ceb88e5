"""libnftables, in this process: one transaction a call, no `nft` process.

The distribution's own Python binding is not on the package index, so the six functions that are needed
are bound here. Errors cost 15 ms (the library re-reads the ruleset), successes 0.1 ms.
"""

from __future__ import annotations

import ctypes
import json
import threading
from typing import Any

from pynetdriver.errors import HostError

#: NFT_CTX_OUTPUT_JSON and NFT_CTX_OUTPUT_TERSE (libnftables.h): elements of sets are left out.
_LISTING_OUTPUT = 1 << 4 | 1 << 11


class NftablesError(Exception):
    """The kernel or the library refused a transaction; nothing of it was carried out."""


#: The library has state that its contexts share, so no two threads are in it at once.
_ONE_AT_A_TIME = threading.Lock()


class Nftables:
    """A libnftables context."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            HostError: it is not installed.
        """
        try:
            self._library = ctypes.CDLL("libnftables.so.1")
        except OSError:
            raise HostError("libnftables.so.1 is missing; install the package libnftables1 (or nftables)") from None
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def commit(self, commands: str) -> None:
        """Carry out all commands, or none and raise NftablesError."""
        with _ONE_AT_A_TIME:
            self._run(commands)

    def listing(self, what: str) -> list[dict[str, Any]]:
        """List e.g. `chain ip filter FORWARD` as libnftables-json(5) objects; NftablesError if absent."""
        with _ONE_AT_A_TIME:
            self._library.nft_ctx_output_set_flags(self._context, _LISTING_OUTPUT)
            try:
                output = self._run(f"list {what}")
            finally:
                self._library.nft_ctx_output_set_flags(self._context, 0)
        objects: list[dict[str, Any]] = json.loads(output)["nftables"]
        return objects

    def _run(self, commands: str) -> str:
        code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        message = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        if code != 0:
            raise NftablesError(message.strip().partition("\n")[0])
        return str(output)
