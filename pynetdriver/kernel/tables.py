"""Tables by types of objects: the only place where what plans name is told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")


def of(one: object, table: Mapping[type, K]) -> K:
    """Find what a table says of an object. Raises AssertionError if it does not know the type."""
    try:
        return table[type(one)]
    except KeyError:
        raise AssertionError(f"nothing says what is to be done with {one!r}") from None
