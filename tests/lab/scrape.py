"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from .unix import get


class Scrape:
    """The values that a daemon tells once; finding one takes its name and some of its labels."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))

    @classmethod
    def of(cls, engine_socket: Path) -> Scrape:
        """Ask over the admin socket."""
        status, body = get(engine_socket.with_suffix("") / "admin.sock", "/metrics")
        assert status == 200, body
        return cls(body.decode())

    @property
    def names(self) -> set[str]:
        """Names of all values."""
        return {one.name for family in self.families for one in family.samples}

    def all(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """List labels and values."""
        samples = (one for family in self.families for one in family.samples)
        return [(one.labels, one.value) for one in samples if one.name == name and labels.items() <= one.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Give the value of which there is one."""
        ((_, value),) = self.all(name, **labels)
        return value

    def values(self, names: Iterable[str], **labels: str) -> list[float]:
        """Give the values of several that have the same labels."""
        return [self.value(name, **labels) for name in names]
