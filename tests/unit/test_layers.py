"""The rooms of the house: who may know whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pynetdriver
from pynetdriver.backends import NAMES

PACKAGE = Path(pynetdriver.__file__).parent
#: Floors, lowest first: a module imports its own package and those of lower floors, but none beside it unless named.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"descriptors", "errors", "locks", "model", "names", "nlmsg", "options", "paths", "plan", "pool"})
    | frozenset({"", "portmap", "seldom"}),
    frozenset({"backends", "firewall", "kernel", "lan", "store", "server"}),
    frozenset({"state"}),
    frozenset({"addresses"}),
    frozenset({"networks"}),
    frozenset({"watchdog"}),
    frozenset({"admin", "docker"}),
    frozenset({"__main__", "cli", "doctor", "process"}),
)
#: Modules of one floor that know each other: the vocabulary.
BESIDE = FLOORS[0]
#: Other neighbours that one may know.
KNOWN = {("kernel", "firewall"), ("cli", "doctor"), ("__main__", "cli"), ("__main__", "process")}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
#: Most that a constructor takes.
COLLABORATORS = 6
#: Most lines of a function, and those that have more.
LINES = 50
LONG = {
    "firewall/chains.py:_bound",
    "firewall/ruleset.py:_bound",
    "lan/probe.py:holders",
}
#: Third parties, and the rooms that alone know them.
OWNED = {
    "aiohttp": {"admin", "docker", "server"},
    "pyroute2": {"doctor", "kernel", "lan"},
    "sqlite3": {"store"},
    "click": {"__main__", "cli"},
    "tabulate": {"cli"},
    "iptc": {"firewall"},
    "prometheus_client": {"admin"},
}
#: No module of these says which backends there are.
BLIND = {room for room, floor in FLOOR.items() if floor > FLOOR["kernel"]}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room(source: Path) -> str:
    first = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(source: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, at its top or anywhere inside."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(source: Path) -> set[str]:
    found = set()
    for name in imported(source):
        parts = name.split(".")
        if parts[0] == "pynetdriver":
            exists = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists()
            found.add(parts[1] if exists else "")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(source: Path) -> None:
    """A module imports its own room and the floors below, never one above, nor beside but for the vocabulary."""
    own = room(source)
    others = rooms_imported(source) - {own}
    beside = {one for one in others if FLOOR[one] == FLOOR[own] and (own, one) not in KNOWN}
    assert not {one for one in others if FLOOR[one] > FLOOR[own]}
    assert own in BESIDE or not beside


@pytest.mark.parametrize("library", OWNED)
def test_library_is_known_to_one_room(library: str) -> None:
    """What could be exchanged is imported in one room alone."""
    users = {room(source) for source in SOURCES for name in imported(source) if name.split(".")[0] == library}
    assert users and users <= OWNED[library]


@pytest.mark.parametrize("source", [one for one in SOURCES if room(one) in BLIND], ids=lambda path: path.name)
def test_backends_are_not_named_outside(source: Path) -> None:
    """Neither an import nor a string outside the backends names one of them."""
    names = {"bridge", "macvlan", "ipvlan", *NAMES}
    assert not {part for name in imported(source) for part in name.split(".")} & names
    constants = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
    assert not [value for value in constants if isinstance(value, str) and value in names]


def test_every_module_is_in_the_table() -> None:
    """A new module has to find its room first."""
    assert {room(source) for source in SOURCES} == set(FLOOR)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{source.relative_to(PACKAGE)}:{node.name}", node


def test_a_service_has_few_collaborators() -> None:
    """Each is given the few that it uses, and looks for none of them elsewhere."""
    wide = [
        name
        for name, node in functions()
        if node.name == "__init__" and len(node.args.args) + len(node.args.kwonlyargs) - 1 > COLLABORATORS
    ]
    assert wide == []


def test_functions_that_are_too_long_become_fewer() -> None:
    """These are what is left; none may join them."""
    long = {name for name, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > LINES}
    assert long == LONG
