"""Repeating in turn, medians, ratios and their spread; knows nothing of what is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

BUILTIN, PYNET = "built-in", "pynet"

Unit = Literal["s", "ms", "µs", "MB", "Gbit/s", ""]
Action = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    builtin: str
    pynet: str
    ratio: str = "-"
    goal: str = "-"
    met: bool | None = None


@dataclass
class Samples:
    """What was measured, by side; the n-th values of all sides were taken one after the other."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, side: str) -> float:
        """The middle of a side."""
        return statistics.median(self.values[side])

    def ratios(self, side: str, base: str) -> list[float]:
        """One ratio a round: slow drift of the machine hits both sides of it."""
        return [one / other for one, other in zip(self.values[side], self.values[base], strict=True)]


def timed(action: Action) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(rounds: int, sides: Mapping[str, Callable[[], float]], warm_up: bool = True) -> Samples:
    """Measure all sides again and again, every other round in the opposite order."""
    samples = Samples({side: [] for side in sides})
    for number in range(-1 if warm_up else 0, rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for side in order:
            value = sides[side]()
            if number >= 0:
                samples.values[side].append(value)
    return samples


def median_of(times: int, measurement: Callable[[], float]) -> Callable[[], float]:
    """Make one measurement of several."""
    return partial(_median_of, times, measurement)


def compared(
    what: str,
    samples: Samples,
    unit: Unit,
    goal: float | None,
    side: str = PYNET,
    base: str = BUILTIN,
    at_least: bool = False,
) -> Row:
    """Make a row of two sides; a base that is not the built-in driver is to be named in `what`."""
    ratios = samples.ratios(side, base)
    # What is judged is what is shown.
    middle = rounded(statistics.median(ratios))
    met = None if goal is None else middle >= goal if at_least else middle <= goal
    builtin = shown(samples.median(base), unit) if base == BUILTIN else "-"
    name = what if base == BUILTIN else f"{what} ({shown(samples.median(base), unit)})"
    wanted = "-" if goal is None else f"{'≥' if at_least else '≤'} {goal:g} x"
    return Row(name, builtin, shown(samples.median(side), unit), _spread(ratios), wanted, met)


def added(what: str, samples: Samples, most_ms: float | None, side: str, base: str = BUILTIN) -> Row:
    """Make a row of two sides whose difference has a limit; values are in seconds."""
    more = [(one - other) * 1000 for one, other in zip(samples.values[side], samples.values[base], strict=True)]
    # What is judged is what is shown.
    middle, low, high = (round(one) for one in (statistics.median(more), *quartiles(more)))
    builtin = shown(samples.median(base), "s") if base == BUILTIN else "-"
    goal = "-" if most_ms is None else f"≤ {base} + {most_ms:g} ms"
    met = None if most_ms is None else middle <= most_ms
    spread = f"**{middle:+d} ms** ({low:+d} to {high:+d})"
    return Row(what, builtin, shown(samples.median(side), "s"), spread, goal, met)


def limited(what: str, value: float, unit: Unit, most: float | None, builtin: str = "-", spread: str = "-") -> Row:
    """Make a row of a value that has a limit of its own."""
    goal = "-" if most is None else f"≤ {most:g} {unit}".rstrip()
    return Row(what, builtin, shown(value, unit), spread, goal, None if most is None else value <= most)


def shown(value: float, unit: Unit) -> str:
    """Write a value with three digits."""
    if unit == "":
        return f"{value:g}"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:#.3g} {unit}"


def quartiles(values: list[float]) -> tuple[float, float]:
    """The spread: half of the values are between these two."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def rounded(ratio: float) -> float:
    """Round a ratio to what the spread allows to be said."""
    return round(ratio, 2 if ratio >= 0.1 else 3)


def _median_of(times: int, measurement: Callable[[], float]) -> float:
    return statistics.median(measurement() for _ in range(times))


def _spread(ratios: list[float]) -> str:
    low, high = quartiles(ratios)
    return f"**{rounded(statistics.median(ratios)):g}** ({rounded(low):g} to {rounded(high):g})"
