"""The table `bridge pynet` where the kernel takes none: what is beside it is repaired all the same."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pynetdriver.errors import HostError
from pynetdriver.firewall.bridged import Bridged
from pynetdriver.firewall.library import NftablesError
from pynetdriver.plan import Guard, Owner
from tests.lab.netns import Namespace

from .inside import inside


def a_refused_table_holds_up_nothing() -> None:
    async def scenario() -> None:
        done: list[str] = []

        async def beside(*_: Any) -> bool:
            done.append("")
            return False

        def refuse(_: str) -> None:
            raise NftablesError("no such family")

        inner: Any = SimpleNamespace(kind="nftables", check_every_s=1, repair=beside, rewrite=beside, reset=beside)
        one = Bridged(inner)
        takes, one._nftables.commit = one._nftables.commit, refuse  # type: ignore[assignment, method-assign]
        await one.reset({Owner.network("1"): (Guard("port0", "ra"),)})
        for _ in range(2):
            assert not await one.repair()
            await one.rewrite()
        assert len(done) == 5
        one._nftables.commit = takes  # type: ignore[method-assign]
        assert not await one.repair()
        one._nftables.commit("table bridge pynet\ndelete table bridge pynet\n")
        assert await one.repair()
        one._nftables.commit("table bridge pynet\ndelete table bridge pynet\n")
        one._nftables.commit = refuse  # type: ignore[assignment, method-assign]
        with pytest.raises(HostError, match="no such family"):
            await one.repair()
        assert not await one.repair()
        assert len(done) == 9, len(done)

    asyncio.run(scenario())


def test_a_refused_table_holds_up_nothing() -> None:
    """It is said once, tried again, and no damage."""
    with Namespace() as netns:
        inside(netns, a_refused_table_holds_up_nothing)
