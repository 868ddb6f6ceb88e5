"""Kinds of objects that plans name, one file each; `KINDS` is the only place that says which there are.

To add one: its dataclass in `plan.Object`, its file here, its line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pynetdriver.kernel.health import Health
from pynetdriver.kernel.objects.address import AddressKind
from pynetdriver.kernel.objects.adopted import AdoptedKind
from pynetdriver.kernel.objects.bridge import BridgeKind
from pynetdriver.kernel.objects.dummy import DummyKind
from pynetdriver.kernel.objects.hairpin import HairpinKind
from pynetdriver.kernel.objects.kind import Kind, Notices
from pynetdriver.kernel.objects.parent import ParentKind
from pynetdriver.kernel.objects.route import RouteKind
from pynetdriver.kernel.objects.sysctl import LinkSysctlKind
from pynetdriver.kernel.objects.up import UpKind
from pynetdriver.kernel.objects.upper import UpperKind
from pynetdriver.kernel.objects.veth import VethKind
from pynetdriver.kernel.settings import SWITCHES
from pynetdriver.kernel.tables import of
from pynetdriver.plan import (
    Address,
    Adopted,
    Bridge,
    Dummy,
    Hairpin,
    LinkSysctl,
    Parent,
    Plan,
    Route,
    Up,
    Upper,
    Veth,
)

KINDS: Mapping[type, type[Kind[Any]]] = {
    Bridge: BridgeKind,
    Dummy: DummyKind,
    Upper: UpperKind,
    Veth: VethKind,
    Adopted: AdoptedKind,
    Parent: ParentKind,
    Up: UpKind,
    Hairpin: HairpinKind,
    Address: AddressKind,
    Route: RouteKind,
    LinkSysctl: LinkSysctlKind,
}
#: What the kernel tells of them, links first.
NOTICES: tuple[Notices, ...] = tuple(dict.fromkeys(one.notices for one in KINDS.values() if one.notices is not None))


def expect(plan: Plan, health: Health) -> None:
    """Take what a plan names for what should be."""
    for setting in plan.settings:
        of(setting, SWITCHES).expect(setting, plan.owner, health)
    for one in plan.objects:
        of(one, KINDS).expect(one, plan.owner, health)


def forget(plan: Plan, health: Health) -> None:
    """Expect nothing more of what a plan names."""
    for setting in plan.settings:
        of(setting, SWITCHES).forget(setting, plan.owner, health)
    for one in plan.objects:
        of(one, KINDS).forget(one, plan.owner, health)
    health.forget_damage(plan.owner)
