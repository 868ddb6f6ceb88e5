"""Write docs/options.md from the declarations in the backends; a test compares the two."""

from __future__ import annotations

from pathlib import Path

from pynetdriver.backends import DEFAULT, NAMES, backend_named
from pynetdriver.options import declared

PAGE = Path(__file__).with_name("options.md")


def options_page() -> str:
    """Render the page."""
    lines = [
        "# Network options",
        "",
        "For `docker network create -d pynet -o NAME=VALUE`, in compose files under `driver_opts`.",
        f"`backend` chooses how the network is made ({', '.join(f'`{name}`' for name in NAMES)};",
        f"`{DEFAULT}` if nothing is said). Anything that is not on this page is refused.",
    ]
    for name in NAMES:
        lines += ["", f"## {name}", "", "| option | values | default | meaning |", "|---|---|---|---|"]
        for one in declared(backend_named(name).Options).values():
            names = ", short ".join(f"`{spelling}`" for spelling in one.names)
            lines.append(f"| {names} | {one.kind.allowed} | {one.default} | {one.meaning} |")
    lines += [
        "",
        "## Endpoints",
        "",
        "For `docker network connect --driver-opt NAME=VALUE`.",
        "",
        "| option | values | meaning |",
        "|---|---|---|",
        "| `com.docker.network.endpoint.ifname` | 1 to 15 letters, digits and _ . - "
        "| name of the interface in the container, from engine 29.8 on |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(options_page())
