"""The commands that ask the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from pynetdriver.admin.answers import Network, PublishedPort, Reconciliation, Status
from pynetdriver.cli import tables
from pynetdriver.cli.client import Daemon, named
from pynetdriver.cli.options import json_option, sockets_option
from pynetdriver.errors import PynetError


@click.command()
@sockets_option
@json_option
def status(sockets: tuple[Path, ...], as_json: bool) -> None:
    """Say how the daemon is, what it holds and what it repaired last."""
    answer = _daemon(sockets).ask("/status", Status)
    _show(answer, as_json, tables.status(answer))


@click.command("ls")
@sockets_option
@json_option
def list_networks(sockets: tuple[Path, ...], as_json: bool) -> None:
    """List networks."""
    networks = _networks(sockets)
    _show(networks, as_json, tables.networks(networks))


@click.command()
@click.argument("network")
@sockets_option
@json_option
def inspect(network: str, sockets: tuple[Path, ...], as_json: bool) -> None:
    """Show a network, by name or the beginning of its id, with its endpoints."""
    found = _chosen(_networks(sockets), network)
    _show(found, as_json, tables.network(found))


@click.command()
@click.argument("network", required=False)
@sockets_option
@json_option
def ports(network: str | None, sockets: tuple[Path, ...], as_json: bool) -> None:
    """List published ports, which `docker ps` cannot show for any plugin; of one network if it is named."""
    networks = _networks(sockets)
    published = [
        PublishedPort(
            **msgspec.structs.asdict(port),
            network=one.id,
            network_name=one.name,
            endpoint=endpoint.id,
            container=endpoint.container,
        )
        for one in (networks if network is None else [_chosen(networks, network)])
        for endpoint in one.endpoints
        for port in endpoint.ports
    ]
    published.sort(
        key=lambda one: (one.network_name or one.network, one.container or "", one.endpoint, tables.order(one))
    )
    _show(published, as_json, tables.ports(published))


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what differs.")
@sockets_option
@json_option
@click.pass_context
def reconcile(context: click.Context, dry_run: bool, sockets: tuple[Path, ...], as_json: bool) -> None:
    """Compare what pynet knows with what the host has, say what differs and repair it.

    The exit code is 1 if something differs still.
    """
    answer = _daemon(sockets).tell(f"/reconcile?dry_run={str(dry_run).lower()}", Reconciliation)
    _show(answer, as_json, tables.reconciliation(answer))
    context.exit(0 if all(one.mended for one in answer.differences) else 1)


def _daemon(sockets: tuple[Path, ...]) -> Daemon:
    return Daemon(sockets[0])


def _networks(sockets: tuple[Path, ...]) -> list[Network]:
    return named(_daemon(sockets).ask("/networks", list[Network]))


def _chosen(networks: list[Network], wanted: str) -> Network:
    if not wanted:
        raise click.BadParameter("it is empty", param_hint="NETWORK")
    found = [one for one in networks if one.name == wanted] or [one for one in networks if one.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise PynetError(f'the ids of {len(found)} networks begin with "{wanted}"; give more of it')
    raise PynetError(f'pynet has no network "{wanted}"; `pynet ls` lists those that it has')


def _show(answer: Any, as_json: bool, text: str) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(answer)).decode() if as_json else text)
