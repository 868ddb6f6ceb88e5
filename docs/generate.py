"""Write what the code itself declares into the pages: options, commands, answers. A test compares the two."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from pynetdriver.__main__ import main
from pynetdriver.admin.answers import Finding, Network, PublishedPort, Reconciliation, Status
from pynetdriver.backends import DEFAULT, NAMES, backend_named
from pynetdriver.options import declared

DOCS = Path(__file__).parent
#: Between these lines, docs/command.md is generated.
BEGIN, END = "<!-- generated: commands -->", "<!-- end -->"
#: What each command prints with --json.
ANSWERS: dict[str, Any] = {
    "status": Status,
    "ls": list[Network],
    "inspect": Network,
    "ports": list[PublishedPort],
    "doctor": list[Finding],
    "reconcile": Reconciliation,
}


def pages() -> dict[Path, str]:
    """Render each file that is generated, or in part."""
    command = DOCS / "command.md"
    before, _, rest = command.read_text().partition(f"{BEGIN}\n")
    _, _, after = rest.partition(f"{END}\n")
    schema = _schema()
    return {
        DOCS / "options.md": _options_page(),
        command: f"{before}{BEGIN}\n{_commands()}{END}\n{after}",
        DOCS / "json.md": _json_page(schema),
        DOCS / "schema.json": json.dumps(schema, indent=2) + "\n",
    }


def _options_page() -> str:
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
        "| name of the interface in the container; no engine that was tried (20.10 to 29.7) takes it from a plugin |",
    ]
    return "\n".join(lines) + "\n"


def _commands() -> str:
    described = {name: list(_options(command)) for name, command in main.commands.items()}
    everywhere = Counter(line for options in described.values() for _, line in options)
    lines: list[str] = []
    for name, command in main.commands.items():
        arguments = [
            one.make_metavar(click.Context(command)) for one in command.params if one.param_type_name == "argument"
        ]
        usage = " ".join(("pynet", name, *(f"[{short}]" for short, _ in described[name]), *arguments))
        own = [line for _, line in described[name] if everywhere[line] == 1]
        lines += [
            f"### pynet {name}",
            f"`{usage}`",
            "",
            _unfolded(command.help or ""),
            "",
            *own,
            *([""] if own else []),
        ]
    several = [line for line, count in everywhere.items() if count > 1]
    return "\n".join([*lines, "### Options of several commands", *several, ""])


def _options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Give each option as in a usage line, and as a line of its own."""
    context = click.Context(command, **command.context_settings)
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        short = option.opts[0] if option.is_flag else f"{option.opts[0]} {option.make_metavar(context)}"
        facts = [f"`{short}`"]
        variable = option.envvar
        if variable is None and context.auto_envvar_prefix:
            variable = f"{context.auto_envvar_prefix}_{option.name}".upper()
        if variable:
            facts.append(f"`{variable}`")
        default = option.default[0] if isinstance(option.default, tuple) else option.default
        if isinstance(option.show_default, str):
            facts.append(f"default {option.show_default}")
        elif option.show_default:
            facts.append(f"default `{default}`")
        yield short, f"* {', '.join(facts)}: {option.help}"


def _schema() -> dict[str, Any]:
    answers, parts = msgspec.json.schema_components(ANSWERS.values(), ref_template="#/$defs/{name}")
    for part in parts.values():
        part["description"] = _unfolded(part["description"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What pynet prints with --json, by command",
        "type": "object",
        "properties": dict(zip(ANSWERS, answers, strict=True)),
        "$defs": parts,
    }


def _json_page(schema: dict[str, Any]) -> str:
    lines = [
        "# Answers for programs",
        "",
        "What the commands print with `--json`. Fields are only ever added. Times are seconds since 1970,",
        "addresses text. The same as a JSON schema: [schema.json](schema.json).",
        "",
        "| command | prints |",
        "|---|---|",
        *(f"| `pynet {name} --json` | {_type(answer)} |" for name, answer in schema["properties"].items()),
    ]
    for name, part in schema["$defs"].items():
        lines += ["", f"## {name}", "", part["description"], "", "| field | type |", "|---|---|"]
        for field, kind in part["properties"].items():
            lines.append(f"| `{field}` | {_type(kind)}{'' if field in part['required'] else ', may be missing'} |")
    return "\n".join(lines) + "\n"


def _type(kind: dict[str, Any]) -> str:
    """Say a JSON type in words."""
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in kind:
        return " or ".join(f"`{one}`" for one in kind["enum"])
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    match kind["type"]:
        case "array":
            return f"list of {_type(kind['items'])}"
        case "object":
            return f"object, each value {_type(kind['additionalProperties'])}"
        case simple:
            return str(simple)


def _unfolded(docstring: str) -> str:
    """Leave line breaks only where a paragraph ends."""
    paragraphs = docstring.replace("\b", "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
