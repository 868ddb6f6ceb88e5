"""A compose file whose networks say `driver: pynet`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.lab import Lab

FILE = """
services:
  front:
    image: busybox
    hostname: front
    command: httpd -f -p 80 -h /etc
    ports: ["8080:80"]
    networks: [outer, inner]
  back:
    image: busybox
    hostname: back
    command: httpd -f -p 80 -h /etc
    networks: [inner]
  client:
    image: busybox
    command: sleep 3600
    networks: [outer]
networks:
  outer:
    driver: pynet
  inner:
    driver: pynet
    internal: true
"""


@pytest.mark.smoke
def test_a_compose_project_comes_up_works_and_goes_down(lab: Lab, tmp_path: Path) -> None:
    """Three services, two networks, one of them internal, one port: reachable by name, gone after down."""
    if not lab.engine.has_compose:
        pytest.skip(f"engine {lab.engine.version} has no compose v2")
    (tmp_path / "compose.yaml").write_text(FILE)
    lab.engine.compose(tmp_path, "up", "-d")
    project = tmp_path.name
    front, back, client = (f"{project}-{service}-1" for service in ("front", "back", "client"))
    assert lab.fetches(client, "http://front/hostname") == "front"
    assert lab.fetches(front, "http://back/hostname") == "back"
    assert lab.fetches(client, "http://back/hostname") is None
    assert not lab.pings(back, lab.lan.NEIGHBOUR4)
    assert lab.pings(front, lab.lan.NEIGHBOUR4)
    for where, host in ((lab.host, "127.0.0.1"), (lab.neighbour, lab.lan.HOST4)):
        assert lab.page(where, f"http://{host}:8080/hostname") == "front"
    lab.engine.compose(tmp_path, "down", "-t", "0")
    assert lab.state() == lab.baseline
    assert lab.host.run("ss", "-Hltnu", "sport = :8080") == ""
