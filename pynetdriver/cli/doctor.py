"""`pynet doctor`: asks the daemon and the engine what they know, and has the host examined."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec

from pynetdriver.admin.answers import Network, Status
from pynetdriver.cli import tables
from pynetdriver.cli.client import Daemon, Silence, T, ask_engine, named
from pynetdriver.cli.options import json_option, sockets_option
from pynetdriver.errors import PynetError
from pynetdriver.paths import STATE_DIR

#: A daemon that is silent for so long is a finding.
_DAEMON_S = 5.0
_DRIVER = "pynet"


class _Plugin(msgspec.Struct):
    name: str = msgspec.field(name="Name")
    enabled: bool = msgspec.field(name="Enabled")


class _EngineNetwork(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    driver: str = msgspec.field(name="Driver")


@click.command()
@sockets_option
@click.option(
    "--state-dir",
    envvar="PYNET_STATE_DIR",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    show_default=True,
    help="Where a daemon that does not run keeps its state.",
)
@json_option
@click.pass_context
def doctor(context: click.Context, sockets: tuple[Path, ...], state_dir: Path, as_json: bool) -> None:
    """Find out why it does not work, and say what to do.

    Looks at the host as root, whether the daemon is up or not, and changes nothing. What it cannot look at it
    says on standard error. The exit code is 1 if something is wrong.
    """
    # It loads what reads links and rules, for which the other commands have no use.
    from pynetdriver.doctor import Plugin, Told, examine, unseen

    daemon = Daemon(sockets[0], _DAEMON_S)
    refusals: list[PynetError] = []
    with ThreadPoolExecutor() as both:  # so that silence is waited for once
        asked = both.submit(_ask, daemon, "/status", Status, refusals)
        networks = _ask(daemon, "/networks", list[Network], refusals)
        status = asked.result()
    plugins = ask_engine("/plugins", list[_Plugin])
    known = ask_engine("/networks", list[_EngineNetwork])
    lost = {one.id: one.name for one in known or () if one.driver == _DRIVER}
    lost = _unknown(lost, networks)
    if lost:  # or made between the two questions
        lost = _unknown(lost, _ask(daemon, "/networks", list[Network], refusals))
    told = Told(
        sockets=sockets,
        state_dir=state_dir,
        status=status,
        networks=None if networks is None else named(networks),
        answers=not all(isinstance(one, Silence) for one in refusals) or (status, networks) != (None, None),
        refusal=str(refusals[0]) if refusals else "",
        plugins=None if plugins is None else [Plugin(one.name, one.enabled) for one in plugins],
        lost=lost,
    )
    findings, hidden = examine(told), unseen(told)
    for one in hidden:
        click.echo(f"not looked at: {one}", err=True)
    shown = tables.findings(findings, complete=not hidden)
    click.echo(msgspec.json.format(msgspec.json.encode(findings)).decode() if as_json else shown)
    context.exit(1 if findings else 0)


def _ask(daemon: Daemon, path: str, kind: type[T], refusals: list[PynetError]) -> T | None:
    """Get an answer of a kind; None if there is none, and why is added to the refusals."""
    try:
        return daemon.ask(path, kind)
    except PynetError as error:
        refusals.append(error)
        return None


def _unknown(names: dict[str, str], networks: list[Network] | None) -> dict[str, str]:
    """Keep the names of networks that the daemon did not list; none if it said nothing."""
    known = None if networks is None else {one.id for one in networks}
    return {id: name for id, name in names.items() if known is not None and id not in known}
