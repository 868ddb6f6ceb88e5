"""At start: store and kernel are compared and made to match, without touching traffic that flows.

*ready* is ensured again, *creating* is removed (the engine never got a yes), *deleting* is finished,
endpoints whose link went with its sandbox are dropped, and links that bear pynet's names but have no
record are collected, unless a container uses them. A failure in one place stops nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Set

import structlog

from pynetdriver.driver import NetworkDriver
from pynetdriver.errors import PynetError
from pynetdriver.healing import Healing
from pynetdriver.journal import Journal, Subject
from pynetdriver.kernel import Kernel
from pynetdriver.model import Endpoint
from pynetdriver.names import OUR_NAMES, VLAN_NAME
from pynetdriver.plan import Owner, Plan
from pynetdriver.registry import Registry
from pynetdriver.siting import Siting

log = structlog.get_logger()


async def restore(
    journal: Journal, kernel: Kernel, registry: Registry, driver: NetworkDriver, siting: Siting, healing: Healing
) -> None:
    """Bring the kernel to what the store says, and those who serve to know it.

    Raises:
        PynetError: a stored network has options that this pynet does not know; nothing is touched then.
    """
    networks, endpoints = journal.load()
    known = {one.id for one in networks}
    driver.restore(networks, [one for one in endpoints if one.network_id in known])
    await siting.follow_all()
    networks = list(registry.networks.values())
    links = kernel.netlink.links()
    plans: dict[Owner, Plan] = {}
    # Left by a removal that failed before its network's; such a link is collected below.
    unwanted: list[tuple[Subject, Plan]] = [
        (one, Plan(Owner.endpoint(one.id))) for one in endpoints if one.network_id not in known
    ]
    for network in networks:
        plan = registry.network_plan(network)
        if network.phase == "ready":
            plans[plan.owner] = plan
        else:
            unwanted.append((network, plan))
    endpoint_plans = {one.id: registry.endpoint_plan(one) for one in registry.endpoints.values()}
    there = await kernel.links_of_plans(endpoint_plans.values())
    for endpoint in registry.endpoints.values():
        plan = endpoint_plans[endpoint.id]
        ready = endpoint.phase == registry.networks[endpoint.network_id].phase == "ready"
        if ready and (
            there.has(plan)
            or kernel.netlink.is_missing(plan.lowers)
            or (plan.lowers and await healing.is_revived(endpoint, plan))
        ):
            plans[plan.owner] = plan
            driver.restore_ports(endpoint)
        else:
            unwanted.append((endpoint, plan))
    for plan in plans.values():
        kernel.conntrack.keep(plan.published)
        kernel.share(plan)
        kernel.expect(plan)
    # Before links are made and the host forwards. What guards who does not need that goes with the rest of the rules.
    try:
        await driver.follow_engine_bridges(at_start=True)
    except PynetError as error:
        log.error("could not tell the engine's rules what passes; trying again later", error=str(error))
    await journal.guess_strangers(lost=not known)
    if known or not await _has_lost_its_store(kernel, links):
        intents = {owner: plan.intents for owner, plan in plans.items()}
        await kernel.firewall.reset({**intents, **journal.strangers})
        # Of what changed just before a crash, or while there were no rules.
        kernel.conntrack.recheck()
    for plan in plans.values():
        kind, id = plan.owner
        if kind == "endpoint" and registry.endpoints[id].network_id in healing.unsound:
            continue  # its port would go into a bridge that somebody else has by now
        try:
            await kernel.stands(plan)  # or its settings and addresses would go to what has its name
            await journal.use_settings(plan)
            await kernel.mend(plan)
            await journal.use_settings(plan)  # those of a link that was not there before
        except PynetError as error:
            log.error("could not restore", owner=str(plan.owner), error=str(error))
            if kind == "network":
                healing.unsound.add(id)
    for record, plan in sorted(unwanted, key=lambda one: not isinstance(one[0], Endpoint)):
        await _drop(journal, driver, record, plan)
    await _collect(kernel, plans.values())
    log.info("restored", networks=len(registry.networks), endpoints=len(registry.endpoints))


async def _has_lost_its_store(kernel: Kernel, links: Iterable[str]) -> bool:
    """Tell whether containers are on networks of which nothing is stored; their rules are then left alone."""
    for name in links:
        if OUR_NAMES.fullmatch(name) and await kernel.netlink.is_in_use(name):
            log.error("containers use pynet's links, but its store is empty: links and rules are left as they are")
            return True
    return False


async def _drop(journal: Journal, driver: NetworkDriver, record: Subject, plan: Plan) -> None:
    log.info("removing what is left", owner=str(plan.owner), phase=record.phase)
    try:
        await journal.delete(record, plan)
    except PynetError as error:
        log.error("could not remove; trying again later", owner=str(plan.owner), error=str(error))
    driver.drop(record)


async def _collect(kernel: Kernel, plans: Iterable[Plan]) -> None:
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
