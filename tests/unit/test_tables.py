"""Answers for people."""

from __future__ import annotations

from typing import Any

from pynetdriver.admin.answers import PublishedPort
from pynetdriver.cli import tables


def published(host: str, host_port: int, number: int, **changes: Any) -> PublishedPort:
    settings = {"protocol": "tcp", "address": "10.9.0.2", "network": "9f" * 32, "endpoint": "ab" * 32} | changes
    return PublishedPort(host_address=host, host_port=host_port, port=number, **settings)


def lines(*several: PublishedPort) -> list[str]:
    return [line.split()[0] for line in tables.ports(several).splitlines()[1:]]


def test_a_range_is_one_line() -> None:
    """As `docker ps` writes it; one ends where anything else differs."""
    several = [published("0.0.0.0", 8000 + number, 80 + number) for number in range(11)]
    assert lines(*several) == ["0.0.0.0:8000-8010->80-90/tcp"]
    several[5] = published("0.0.0.0", 8005, 85, address="10.9.0.3")
    assert lines(*several) == [
        "0.0.0.0:8000-8004->80-84/tcp",
        "0.0.0.0:8005->85/tcp",
        "0.0.0.0:8006-8010->86-90/tcp",
    ]
    assert lines(published("::", 8000, 80), published("::", 8001, 80)) == ["[::]:8000->80/tcp", "[::]:8001->80/tcp"]
    assert lines(published("::", 1, 1), published("::", 2, 2, endpoint="cd" * 32)) == ["[::]:1->1/tcp", "[::]:2->2/tcp"]
    assert lines(*(published("0.0.0.0", 0, number) for number in (80, 81, 443))) == ["80-81/tcp", "443/tcp"]
