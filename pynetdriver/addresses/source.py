"""The interface of a source of addresses, with defaults that do nothing."""

from __future__ import annotations

from pynetdriver.model import Endpoint, Network


class Source:
    """Gives endpoints to come their addresses, and keeps them."""

    def take_up(self) -> None:
        """Go on with endpoints that an earlier process made."""

    def predecessor(self, endpoint: Endpoint) -> str | None:
        """Name the endpoint that has the identity which another one asks for."""
        return None

    def is_settled(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint to come can be given its identity without waiting for dead ones to go."""
        return True

    async def obtain(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Give an endpoint its addresses. Raises PynetError."""
        raise NotImplementedError

    def keep(self, endpoint: Endpoint) -> None:
        """Take note of an endpoint that is there, whoever gave it its addresses."""

    def release(self, endpoint: Endpoint, *, is_free: bool) -> None:
        """Let go what an endpoint was given; an address that `is_free` is not kept for the next container."""

    def forget_network(self, network_id: str) -> None:
        """Drop a network. Raises PynetError."""

    async def close(self) -> None:
        """End, with all addresses kept."""
