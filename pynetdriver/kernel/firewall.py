"""The firewall: owners and their intents in, one transaction a change out; and which kind of it this host has.

There are two: a table of pynet's own in `nftables`, chains of its own in the tables of legacy `iptables`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog

from pynetdriver.kernel import iptables, xtables
from pynetdriver.kernel.iptables import IptablesFirewall
from pynetdriver.kernel.nftables import Nftables, NftablesError, NftablesFirewall
from pynetdriver.kernel.ruleset import TABLE
from pynetdriver.plan import Intent

log = structlog.get_logger()

KINDS = ("auto", "nftables", "iptables")
_VERSION_TIMEOUT_S = 5


class Firewall(Protocol):
    """Keeps what it was told, so that changes are deltas and a flushed table can be written anew."""

    #: How often `mend` is to be called: often where the kernel does not tell of changes.
    mend_every_s: float

    async def set(self, owner: str, intents: Sequence[Intent]) -> None:
        """Replace an owner's intents; none removes it. Raises HostError, with nothing changed."""
        ...

    async def reset(self, owners: Mapping[str, Sequence[Intent]]) -> None:
        """Replace everything, in one transaction or one for each table."""
        ...

    async def set_engine_bridges(self, names: frozenset[str]) -> None:
        """Say which bridges are the engine's own, to which containers of pynet have no way."""
        ...

    async def mend(self) -> bool:
        """Write everything anew if somebody removed or changed some of it; tells whether that was so."""
        ...

    async def rewrite(self) -> None:
        """Write everything anew, in one transaction or one for each table."""
        ...


def make_firewall(kind: str) -> Firewall:
    """Make the firewall of a kind; what the other one holds is removed once the rules are in this one.

    Args:
        kind: one of `KINDS`; "auto" is the one that the host's own rules are in.
    """
    nftables = Nftables()
    if kind == "auto":
        kind, why = _kind_of_host(nftables)
    else:
        why = "it was asked for"
    log.info("firewall", kind=kind, because=why)
    if kind == "iptables":
        return IptablesFirewall(NftablesFirewall(nftables) if _listed(nftables, f"table {TABLE}") else None)
    return NftablesFirewall(nftables, IptablesFirewall() if iptables.left_behind() else None)


def _kind_of_host(nftables: Nftables) -> tuple[str, str]:
    """Tell the kind that the host's rules are in, and from what that is known."""
    legacy = any(
        name in ("filter", "nat") and any(xtables.read(version, name).chains().values())
        for version in (4, 6)
        for name in xtables.present(version)
    )
    tables = [one.get("table", {}) for one in _listed(nftables, "tables")]
    modern = any(one.get("family") in ("ip", "ip6") and one["name"] in ("filter", "nat") for one in tables)
    if legacy and not modern:
        return "iptables", "there are rules in the legacy tables, and no such tables in nftables"
    if modern and not legacy:
        return "nftables", "the tables of iptables are in nftables"
    try:
        said = subprocess.run(["iptables", "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return "nftables", "there is no iptables to ask"
    return "iptables" if "(legacy)" in said.stdout else "nftables", f"iptables says {said.stdout.strip()}"


def _listed(nftables: Nftables, what: str) -> list[dict[str, Any]]:
    try:
        return [one for one in nftables.listing(what) if "metainfo" not in one]
    except NftablesError:
        return []
