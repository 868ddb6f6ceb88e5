"""Options that users type: declared once, as fields of a backend's `Options` dataclass.

The declaration is the only list: parsing, ranges, "did you mean" and docs/options.md come from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

from netaddr import AddrFormatError, IPAddress

from pynetdriver.errors import InvalidOption

T = TypeVar("T")

#: Names that begin so are the engine's own, and more come with its versions.
ENGINE_OPTIONS = "com.docker.network."


@dataclass(frozen=True)
class Kind:
    """A kind of value: `parse` raises ValueError for what `allowed` does not describe."""

    parse: Callable[[str], Any]
    allowed: str


@dataclass(frozen=True)
class Option:
    """One option: its names as typed after `-o`, the full one first; `unset` is a text that means its default."""

    names: tuple[str, ...]
    kind: Kind
    meaning: str
    default: str
    unset: str | None = None


def option(
    *names: str, kind: Kind, meaning: str, default: Any, shown: str | None = None, unset: str | None = None
) -> Any:
    """Declare a dataclass field that is an option; `shown` is the default as documentation says it."""
    text = str(default).lower() if shown is None else shown
    return field(default=default, metadata={"option": Option(names, kind, meaning, text, unset)})


def declared(options: type) -> dict[str, Option]:
    """List a dataclass's options by field name."""
    return {f.name: f.metadata["option"] for f in fields(options) if "option" in f.metadata}


def parse_options(options: type[T], given: Mapping[str, str]) -> T:
    """Read what the user typed into an instance of `options`.

    Raises:
        InvalidOption: a name that is not declared, a value that its kind does not take, or two names
            of one option with different values.
    """
    return cast(T, _parsed(cast(Any, options), tuple(given.items())))


@lru_cache(4096)
def _parsed(options: Any, given: tuple[tuple[str, str], ...]) -> Any:
    """Read options once for each network: they are asked for at every call."""
    by_name = {name: key for key, one in declared(options).items() for name in one.names}
    values: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for name, text in given:
        if name not in by_name:
            raise InvalidOption.unknown(name, by_name)
        key = by_name[name]
        if text == declared(options)[key].unset:
            continue
        kind = declared(options)[key].kind
        try:
            value = kind.parse(text)
        except (ValueError, AddrFormatError):
            raise InvalidOption.value(name, text, kind.allowed) from None
        if key in values and values[key] != value:
            raise InvalidOption(f'options "{typed[key]}" and "{name}" are the same one; give it once')
        values[key], typed[key] = value, name
    return options(**values)


def integer(low: int, high: int, *, zero_is_none: bool = False) -> Kind:
    """Take a whole number within both bounds, written as Go's strconv.Atoi takes it; 0 may stand for no number."""

    def parse(text: str) -> int | None:
        if not re.fullmatch(r"[+-]?[0-9]{1,10}", text):
            raise ValueError
        if int(text) == 0 and zero_is_none:
            return None
        if not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(parse, f"{low} to {high}")


def choice(*values: str) -> Kind:
    """Take one of the given words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return Kind(parse, ", ".join(values))


def address(version: Literal[4, 6]) -> Kind:
    """Take a bare address of the given IP version."""
    return Kind(lambda text: IPAddress(text, version), f"an IPv{version} address")


def _parse_any_address(text: str) -> IPAddress:
    """Read an address of either version, as Go's net.ParseIP: one of IPv4 may be written as of IPv6."""
    found = IPAddress(text)
    return found.ipv4() if found.is_ipv4_mapped() else found


#: The words that Go's strconv.ParseBool takes, as the built-in drivers use it.
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}


def _parse_boolean(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise ValueError
    return text in _TRUE


def _parse_link_name(text: str) -> str:
    # dev_valid_name() in the kernel's net/core/dev.c, less what would need quoting in a ruleset.
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) or text in {".", ".."}:
        raise ValueError
    return text


def _parse_link_prefix(text: str) -> str:
    # As above, with room for a number; "%" would have the kernel choose one.
    if not re.fullmatch(r"[^\s/:%]{1,12}", text) or not text.isprintable() or len(text.encode()) > 12:
        raise ValueError
    return text


def _parse_link_names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_parse_link_name(name) for name in text.split(":") if name))


any_address = Kind(_parse_any_address, "an address")
boolean = Kind(_parse_boolean, "true, false")
link_name = Kind(_parse_link_name, "1 to 15 letters, digits and _ . -")
link_names = Kind(_parse_link_names, "names of links with : between them")
link_prefix = Kind(_parse_link_prefix, "1 to 12 characters without spaces and / : %")
