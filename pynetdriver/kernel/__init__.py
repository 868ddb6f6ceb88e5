"""The kernel: makes, compares and removes what plans name. All of it is idempotent.

| module | what |
|---|---|
| `netlink` | links and addresses |
| `watch`, `health` | what the kernel tells of changes, and what should be |
| `sysctl` | switches under /proc/sys/net |
| `hostport`, `relay` | host ports held by sockets, and what reaches those |
| `conntrack` | remembered flows that contradict what is published |
"""

from __future__ import annotations

from pynetdriver.errors import PynetError
from pynetdriver.firewall import Firewall
from pynetdriver.kernel.conntrack import Conntrack
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.netlink import Netlink
from pynetdriver.kernel.sysctl import ensure_link_sysctl
from pynetdriver.plan import Address, Adopted, Bridge, Hairpin, LinkSysctl, Object, Plan, Veth


class Kernel:
    """Applies plans: objects first to last, then the owner's intents."""

    def __init__(self, netlink: Netlink, firewall: Firewall) -> None:
        self.netlink = netlink
        self.firewall = firewall
        self.health = Health()
        self.conntrack = Conntrack(netlink.is_local)

    async def apply(self, plan: Plan, former: Plan | None = None) -> None:
        """Make everything that the plan names, or bring in line what exists.

        Args:
            former: the owner's plan that is in place already; what it names is not looked at.

        Raises:
            PynetError: the first thing that could not be done; what was done before it stays.
        """
        await self.apply_objects(plan, former)
        await self.firewall.set(plan.owner, plan.intents)
        published, before = plan.published, former.published if former is not None else ()
        if published and before:
            self.conntrack.change(gone=set(before).difference(published), come=set(published).difference(before))
        else:
            self.conntrack.change(gone=before, come=published)

    async def apply_objects(self, plan: Plan, former: Plan | None = None) -> None:
        """Make the plan's objects without its intents."""
        try:
            for one in plan.objects:
                if former is None or one not in former.objects:
                    await self._ensure(one)
        finally:
            self.health.expect(plan)

    async def stands(self, plan: Plan) -> bool:
        """Tell whether what a plan adopts is as it was found. Raises Conflict; see `Netlink.stands`."""
        return all([await self.netlink.stands(one) for one in plan.objects if isinstance(one, Adopted)])

    async def remove(self, plan: Plan) -> None:
        """Remove everything that the plan names, in reverse order, going on past failures.

        Raises:
            PynetError: one that names all failures.
        """
        self.health.forget(plan)
        failures = []
        try:
            await self.firewall.set(plan.owner, ())
            self.conntrack.change(gone=plan.published)
        except PynetError as error:
            failures.append(error)
        for one in reversed(plan.objects):
            try:
                await self._remove(one)
            except PynetError as error:
                failures.append(error)
        if failures:
            raise PynetError("; ".join(map(str, failures))) from failures[0]

    async def _ensure(self, one: Object) -> None:
        match one:
            case Bridge():
                await self.netlink.ensure_bridge(one)
            case Adopted():
                await self.netlink.adopt(one)
            case Veth():
                await self.netlink.ensure_veth(one)
            case Hairpin():
                await self.netlink.ensure_hairpin(one)
            case Address():
                await self.netlink.ensure_address(one)
            case LinkSysctl():
                ensure_link_sysctl(one)

    async def _remove(self, one: Object) -> None:
        match one:
            case Bridge() | Veth():
                await self.netlink.remove_link(one.name, one.kind)
            case Adopted():
                await self.netlink.give_back(one)
            case Address(foreign=True):
                await self.netlink.remove_address(one)
            case Hairpin() | Address() | LinkSysctl():
                pass  # goes with its link
