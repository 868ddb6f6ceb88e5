"""What pynet keeps in the engine's own chains: DOCKER-USER accepts what pynet's rules have let through, and FORWARD
closes bridges of the engine's that it found open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from netaddr import IPNetwork

from pynetdriver.firewall.engine import EngineChains
from pynetdriver.kernel import Kernel
from pynetdriver.plan import Segment
from pynetdriver.state.registry import Registry
from pynetdriver.state.switches import Switches


class DockerUser:
    """Has these chains follow the networks that there are and the engine's bridges."""

    def __init__(self, chains: EngineChains, registry: Registry, kernel: Kernel, switches: Switches) -> None:
        self._chains = chains
        self._registry = registry
        self._kernel = kernel
        self._switches = switches

    async def allow(self) -> bool:
        """Have the engine's own rules accept what pynet's have let through; tells if they did not. Raises HostError.

        Bridges of the engine's that it found open are closed as well.
        """
        segments = self._registry.segments()
        try:
            if segments:
                return await self._chains.allow(_shared(segments), self._kernel.bridges.found.passed_on)
            await self._chains.disallow()
        finally:
            await self._chains.close(self._switches.closed)
        return False

    async def missing(self) -> list[str]:
        """Say what the engine's own rules lack of what `allow` puts there. Raises HostError."""
        found, segments = [], self._registry.segments()
        if segments and await self._chains.lack(_shared(segments), self._kernel.bridges.found.passed_on):
            found.append("the engine's chain DOCKER-USER lacks what lets pynet's packets through")
        if await self._chains.is_open(self._switches.closed):
            found.append("FORWARD does not end with what closes the engine's bridges to strangers")
        return found

    async def follow_bridges(self, *, at_start: bool = False) -> None:
        """Read which bridges are the engine's, and have the rules know. Raises HostError.

        What is passed on to the engine's rules is so in DOCKER-USER before pynet lets it through, and for longer.

        Args:
            at_start: what keeps strangers apart is written afterwards, with all other rules.
        """
        former, found = self._kernel.bridges.found, await self._kernel.engine_bridges()
        if found == former:
            return
        await self._kernel.firewall.set_engine_bridges(
            dataclasses.replace(found, judged=found.judged - (found.passed_on - former.passed_on))
        )
        self._kernel.bridges.found = found
        try:
            if found.passed_on != former.passed_on:
                await self.allow()
            await self._kernel.firewall.set_engine_bridges(found)
            if found.names != former.names and not at_start:
                await self._switches.follow_engine_bridges()
        except BaseException:
            self._kernel.bridges.found = former  # so that it is tried again
            raise


def _shared(segments: Iterable[Segment]) -> dict[str, tuple[IPNetwork, ...]]:
    return {one.link: one.subnets for one in segments if one.shared}
