"""All that plans name beside all that the kernel has, at one moment.

`health` is told only of what the kernel tells of by itself: not of switches, nor of routes that were replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pynetdriver.kernel import settings
from pynetdriver.kernel.health import Damage, Health
from pynetdriver.kernel.objects import KINDS, NOTICES, expect
from pynetdriver.kernel.rtnetlink import host_errors, route_socket
from pynetdriver.kernel.tables import of
from pynetdriver.nlmsg import dump
from pynetdriver.plan import Plan


def differences(plans: Collection[Plan]) -> list[Damage]:
    """Find what is not as plans say, but for links that moved into containers; for threads.

    Raises:
        HostError: the kernel does not answer.
    """
    health = Health()
    for plan in plans:
        expect(plan, health)
    with host_errors("look at this host's links, addresses and routes"), route_socket() as one:
        for notices in NOTICES:
            if notices.listing is not None:
                listed, kind, request = notices.listing
                health.begin_look()
                for body in dump(one, kind, request):
                    notices.take(health, body, is_there=True)
                health.end_look(listed)
        looked = {made: kind.look(one) for made, kind in KINDS.items()}
    found = health.take()
    damaged = {one.owner for one in found}
    for plan in plans:
        if plan.owner not in damaged:
            found += _unseen(plan, looked)
    return found


def _unseen(plan: Plan, looked: dict[type, object]) -> Iterator[Damage]:
    """Go through what `health` would not be told of."""
    for one in plan.objects:
        difference = of(one, KINDS).difference(one, looked[type(one)])
        if difference is not None:
            yield Damage(plan.owner, *difference)
    for setting in plan.settings:
        if settings.needed(setting):
            yield Damage(plan.owner, "switch", f"{setting} is not so")
