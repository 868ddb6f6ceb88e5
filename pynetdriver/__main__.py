"""The command `pynet`: its subcommands, each of which loads what it needs when it runs."""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path
from typing import Any

import click

from pynetdriver import __version__
from pynetdriver.cli.doctor import doctor
from pynetdriver.cli.options import sockets_option
from pynetdriver.cli.questions import inspect, list_networks, ports, reconcile, status
from pynetdriver.errors import PynetError
from pynetdriver.paths import STATE_DIR, admin_socket
from pynetdriver.process.lock import claim
from pynetdriver.process.sockets import listening


class _Sentences(click.Group):
    """Ends with exit code 1 and one sentence where pynet refuses or fails."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except PynetError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Sentences)
@click.version_option(__version__, prog_name="pynet")
def main() -> None:
    """A network driver for Docker: docker network create -d pynet."""


for _command in (status, list_networks, inspect, ports, doctor, reconcile):
    main.add_command(_command)


@main.command(context_settings={"auto_envvar_prefix": "PYNET"})
@sockets_option
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    show_default=True,
    help="Where networks, endpoints and leases are kept.",
)
@click.option(
    "--firewall",
    type=click.Choice(["auto", "nftables", "iptables"]),
    default="auto",
    show_default=True,
    help="What holds pynet's rules: a table of nftables, or chains in the tables of legacy iptables. auto is iptables "
    "if this host's own rules are in the legacy tables alone or, where that does not tell, if `iptables --version` "
    "says (legacy); else nftables.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least severe messages to write.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people or for programs.",
)
@click.option(
    "--metrics-address",
    default="",
    show_default="off",
    help="HOST:PORT at which Prometheus gets metrics, such as 127.0.0.1:9478; whoever reaches it can read them.",
)
def serve(
    sockets: tuple[Path, ...], state_dir: Path, firewall: str, log_level: str, log_format: str, metrics_address: str
) -> None:
    """Run the driver in the foreground.

    Every flag has an environment twin: PYNET_SOCKET, PYNET_STATE_DIR and so on. SIGTERM and SIGINT finish
    the calls in hand and leave links and rules in place.
    """
    # Until the daemon waits for it itself; process 1 of a container would not be ended by it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with claim(sockets[0], state_dir), listening([admin_socket(sockets[0]), *sockets]) as (admin, *engines):
        # Only now, since to load all that the daemon needs takes a third of a second. None of that is garbage: to look
        # for some meanwhile takes a fifth of the time.
        gc.disable()
        import asyncio

        from pynetdriver.process import daemon

        gc.enable()
        _configure_log(log_level, log_format)
        sockets_by_path = dict(zip(sockets, engines, strict=True))
        asyncio.run(daemon.serve(sockets_by_path, admin, state_dir, firewall, metrics_address))


def _configure_log(level: str, form: str) -> None:
    """Write to stdout: what a managed plugin writes to stderr, the engine takes for errors."""
    import structlog

    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main()
