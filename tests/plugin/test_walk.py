"""The whole path of a user, from the registry to the removal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import figures
from tests.lab.lan import Lan
from tests.lab.wait import eventually
from tests.plugin.managed import ALIAS, NEW, OLD, Managed

COMPOSE = """\
services:
  web:
    image: busybox
    command: httpd -f -p 80 -h /etc
    hostname: web
    restart: always
    ports: ["8081:80"]
    networks: [front]
  client:
    image: busybox
    command: sleep 3600
    restart: always
    networks: [front]
networks:
  front:
    driver: pynet
"""
FIRST, SECOND = f"http://{Lan.HOST4}:8080/hostname", f"http://{Lan.HOST4}:8081/hostname"


@pytest.mark.timeout(240)
def test_install_use_upgrade_restart_uninstall(managed: Managed, tmp_path: Path) -> None:
    managed.install()
    assert OLD in managed.inside("pynet", "--version")

    managed.docker("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "web")
    managed.web("first", "--network", "web", "--restart", "always", "-p", "8080:80")
    project = tmp_path / "shop"
    project.mkdir()
    (project / "compose.yaml").write_text(COMPOSE)
    managed.engine.compose(project, "up", "-d")
    assert managed.page(FIRST) == "first"
    assert managed.page(SECOND) == "web"
    assert managed.pings("shop-client-1", "web")

    with managed.watched("first", SECOND) as losses:
        managed.upgrade(NEW)
    figures.append(f"engine {managed.engine.version}, upgrade of the plugin under running containers: {losses}")
    assert losses.unanswered == losses.missing == 0, losses
    assert losses.pages > 10
    assert NEW in managed.inside("pynet", "--version")
    managed.docker("restart", "shop-web-1")
    assert eventually(lambda: managed.page(SECOND)) == "web"

    managed.engine.restart()
    assert eventually(lambda: managed.page(FIRST)) == "first"
    assert eventually(lambda: managed.page(SECOND)) == "web"
    eventually(lambda: managed.pings("shop-client-1", "web"))

    managed.engine.compose(project, "down")
    managed.docker("rm", "-f", "first")
    managed.docker("network", "rm", "web")
    managed.docker("plugin", "disable", ALIAS)
    managed.docker("plugin", "rm", ALIAS)
    assert managed.state() == managed.baseline
