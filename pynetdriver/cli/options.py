"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pynetdriver.answers import SOCKET

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

sockets_option: Decorator = click.option(
    "--socket",
    "sockets",
    envvar="PYNET_SOCKET",
    type=click.Path(path_type=Path),
    multiple=True,
    default=(SOCKET,),
    show_default=True,
    help="Where the engine looks for the driver; may be given more than once (in PYNET_SOCKET with : between). Beside"
    " the first is the folder with the daemon's lock and the admin socket.",
)

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="For programs; the schema is documented.")
