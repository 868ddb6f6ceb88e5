"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pynetdriver.paths import HOST, MANAGED, SOCKET

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _checked(context: click.Context, parameter: click.Parameter, sockets: tuple[Path, ...]) -> tuple[Path, ...]:
    for one in sockets:
        if not one.is_absolute() or one.suffix != ".sock":
            raise click.BadParameter(f'"{one}" is no absolute path that ends in .sock, as engines look for')
    if len(set(sockets)) < len(sockets):
        raise click.BadParameter("a path is given twice")
    if MANAGED and (len(sockets) < 2 or not sockets[0].is_relative_to(HOST)):
        raise click.BadParameter(f"the managed plugin has two: the host's, below {HOST}, and its own after it")
    return sockets


sockets_option: Decorator = click.option(
    "--socket",
    "sockets",
    envvar="PYNET_SOCKET",
    type=click.Path(path_type=Path),
    multiple=True,
    default=(SOCKET,),
    show_default=True,
    callback=_checked,
    help="Where the engine looks for the driver; may be given more than once (in PYNET_SOCKET with : between). Beside"
    " the first is the folder with the daemon's lock and the admin socket.",
)

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="For programs; the schema is documented.")
