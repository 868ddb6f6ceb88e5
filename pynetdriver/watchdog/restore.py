"""At start: store and kernel are compared and made to match, without touching traffic that flows.

*ready* is ensured again, *creating* is removed (the engine never got a yes), *deleting* is finished,
endpoints whose link went with its sandbox are dropped, and links that bear pynet's names but have no
record are collected, unless a container uses them. A failure in one place stops nothing else.

The daemon calls `sort`, `bring_back`, `remove_unwanted` and `collect`, in this order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Set
from dataclasses import dataclass

import structlog

from pynetdriver.errors import PynetError
from pynetdriver.kernel import Kernel
from pynetdriver.model import Endpoint, Network
from pynetdriver.names import OUR_NAMES, VLAN_NAME
from pynetdriver.networks.repair import Repair
from pynetdriver.plan import Owner, Plan
from pynetdriver.state.docker_user import DockerUser
from pynetdriver.state.journal import Journal, Subject
from pynetdriver.state.registry import Registry
from pynetdriver.state.switches import Switches

log = structlog.get_logger()


@dataclass(frozen=True)
class Sorted:
    """What an earlier process left: plans that are to stand, endpoints among them, and what is to go, with its plan."""

    wanted: dict[Owner, Plan]
    endpoints: list[Endpoint]
    unwanted: list[tuple[Subject, Plan]]
    #: Links of the host before anything is made.
    links: Set[str]
    is_empty: bool


async def sort(
    registry: Registry, kernel: Kernel, repair: Repair, networks: list[Network], endpoints: list[Endpoint]
) -> Sorted:
    """Tell what of the stored records is to stand; what they name is expected to be there from now on.

    Raises:
        PynetError: a stored network has options that this pynet does not know; nothing is touched then.
    """
    known = {one.id for one in networks}
    found = Sorted({}, [], [], kernel.netlink.links(), is_empty=not known)
    # Left by a removal that failed before its network's; such a link is collected below.
    found.unwanted.extend((one, Plan(Owner.endpoint(one.id))) for one in endpoints if one.network_id not in known)
    for network in registry.networks.values():
        plan = registry.network_plan(network)
        if network.phase == "ready":
            found.wanted[plan.owner] = plan
        else:
            found.unwanted.append((network, plan))
    plans = {one.id: registry.endpoint_plan(one) for one in registry.endpoints.values()}
    there = await kernel.links_of_plans(plans.values())
    for endpoint in registry.endpoints.values():
        plan = plans[endpoint.id]
        ready = endpoint.phase == registry.networks[endpoint.network_id].phase == "ready"
        if ready and (
            there.has(plan)
            or kernel.netlink.is_missing(plan.lowers)
            or (plan.lowers and await repair.is_there_again(endpoint, plan))
        ):
            found.wanted[plan.owner] = plan
            found.endpoints.append(endpoint)
        else:
            found.unwanted.append((endpoint, plan))
    for plan in found.wanted.values():
        kernel.conntrack.keep(plan.published)
        kernel.share(plan)
        kernel.expect(plan)
    return found


async def bring_back(
    registry: Registry, kernel: Kernel, switches: Switches, docker_user: DockerUser, found: Sorted
) -> None:
    """Write all rules, then make or correct what plans name."""
    # Before links are made and the host forwards. The guard for strangers is written with the rest of the rules.
    try:
        await docker_user.follow_bridges(at_start=True)
    except PynetError as error:
        log.error("could not tell the engine's rules what passes; trying again later", error=str(error))
    await switches.guess_strangers(lost=found.is_empty)
    if not found.is_empty or not await _has_lost_its_store(kernel, found.links):
        intents = {owner: plan.intents for owner, plan in found.wanted.items()}
        await kernel.firewall.reset({**intents, **switches.strangers})
        # Of what changed just before a crash, or while there were no rules.
        kernel.conntrack.recheck()
    for (kind, id), plan in found.wanted.items():
        if kind == "endpoint" and registry.endpoints[id].network_id in registry.unsound:
            continue  # its port would go into a bridge that somebody else has by now
        try:
            await kernel.stands(plan)  # or its settings and addresses would go to what has its name
            await switches.use(plan)
            await kernel.repair(plan)
            await switches.use(plan)  # those of a link that was not there before
        except PynetError as error:
            log.error("could not restore", owner=str(plan.owner), error=str(error))
            if kind == "network":
                registry.unsound.add(id)


async def remove_unwanted(journal: Journal, found: Sorted, forget: Callable[[Subject], None]) -> None:
    """Finish what was being made or removed, endpoints before networks; `forget` is told of each record."""
    for record, plan in sorted(found.unwanted, key=lambda one: not isinstance(one[0], Endpoint)):
        log.info("removing what is left", owner=str(plan.owner), phase=record.phase)
        try:
            await journal.delete(record, plan)
        except PynetError as error:
            log.error("could not remove; trying again later", owner=str(plan.owner), error=str(error))
        forget(record)


async def _has_lost_its_store(kernel: Kernel, links: Iterable[str]) -> bool:
    """Tell whether containers are on networks of which nothing is stored; their rules are then left alone."""
    for name in links:
        if OUR_NAMES.fullmatch(name) and await kernel.netlink.is_in_use(name):
            log.error("containers use pynet's links, but its store is empty: links and rules are left as they are")
            return True
    return False


async def collect(kernel: Kernel, plans: Iterable[Plan]) -> None:
    """Remove links of ours that no plan names."""
    async for name, kind in left_over(kernel, kernel.netlink.links(), plans):
        try:
            log.info("removing a link that nothing names", link=name)
            await kernel.netlink.remove_link(name, kind)
        except PynetError as error:
            log.error("could not remove a link that nothing names", link=name, error=str(error))


async def left_over(kernel: Kernel, links: Set[str], plans: Iterable[Plan]) -> AsyncIterator[tuple[str, str]]:
    """Go through links of ours that no plan names, with their kinds; one whose other end is in a container is in use.

    The ports of a bridge come before it, which is out of use once they are removed.

    A container's end has no group, so it is never collected by itself but goes with the host's end.
    """
    wanted = {name for plan in plans for name in plan.links}
    for name in sorted(links - wanted, reverse=True):
        try:
            may_be = OUR_NAMES.fullmatch(name) or VLAN_NAME.fullmatch(name)
            kind = await kernel.netlink.kind_of_ours(name) if may_be else None
            if kind is None:
                continue
            if await kernel.is_in_use(name, kind):
                log.warning("link bears pynet's name but is in use and not in its store; left alone", link=name)
            else:
                yield name, kind
        except PynetError as error:
            log.error("could not look at a link that nothing names", link=name, error=str(error))
