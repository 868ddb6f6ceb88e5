"""Which kind of firewall this host has: that of its own rules, unless one is asked for."""

from __future__ import annotations

import subprocess

import structlog

from pynetdriver.firewall import Firewall, iptables, xtables
from pynetdriver.firewall.bridged import Bridged
from pynetdriver.firewall.iptables import IptablesFirewall
from pynetdriver.firewall.nftables import Nftables, NftablesFirewall
from pynetdriver.firewall.ruleset import TABLE
from pynetdriver.firewall.tables import Tables

log = structlog.get_logger()

KINDS = ("auto", "nftables", "iptables")
_VERSION_TIMEOUT_S = 5


def make_firewall(kind: str) -> Firewall:
    """Make the firewall of a kind; what the other one holds is removed once the rules are in this one.

    Args:
        kind: one of `KINDS`; "auto" is the one that the host's own rules are in.
    """
    tables = Tables()
    if kind == "auto":
        kind, why = _kind_of_host(tables)
    else:
        why = "it was asked for"
    log.info("firewall", kind=kind, because=why)
    former: Firewall | None
    if kind == "iptables":
        former = NftablesFirewall(Nftables()) if tables.has_table(*TABLE.split()) else None
        return Bridged(IptablesFirewall(former))
    former = IptablesFirewall() if iptables.left_behind() else None
    return Bridged(NftablesFirewall(Nftables(), former))


def _kind_of_host(tables: Tables) -> tuple[str, str]:
    """Tell the kind that the host's rules are in, and from what that is known."""
    legacy = any(
        name in ("filter", "nat") and any(xtables.read(version, name).chains().values())
        for version in (4, 6)
        for name in xtables.present(version)
    )
    modern = any(table in ("filter", "nat") for family in ("ip", "ip6") for table, _ in tables.chains(family))
    if legacy and not modern:
        return "iptables", "there are rules in the legacy tables, and no such tables in nftables"
    if modern and not legacy:
        return "nftables", "the tables of iptables are in nftables"
    try:
        said = subprocess.run(["iptables", "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return "nftables", "there is no iptables to ask"
    return "iptables" if "(legacy)" in said.stdout else "nftables", f"iptables says {said.stdout.strip()}"
