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
def test_install_use_upgrade_restart_uninstall(bare: Managed, tmp_path: Path) -> None:
    bare.install()
    assert OLD in bare.inside("pynet", "--version")

    bare.docker("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "web")
    bare.web("first", "--network", "web", "--restart", "always", "-p", "8080:80")
    project = tmp_path / "shop"
    project.mkdir()
    (project / "compose.yaml").write_text(COMPOSE)
    bare.engine.compose(project, "up", "-d")
    assert bare.page(FIRST) == "first"
    assert bare.page(SECOND) == "web"
    assert bare.pings("shop-client-1", "web")

    with bare.watched("first", SECOND) as losses:
        bare.upgrade(NEW)
    figures.append(f"engine {bare.engine.version}, upgrade of the plugin under running containers: {losses}")
    assert losses.unanswered == losses.missing == 0, losses
    assert losses.pages > 10
    assert NEW in bare.inside("pynet", "--version")
    bare.docker("restart", "shop-web-1")
    assert eventually(lambda: bare.page(SECOND)) == "web"

    bare.engine.restart()
    assert eventually(lambda: bare.page(FIRST)) == "first"
    assert eventually(lambda: bare.page(SECOND)) == "web"
    eventually(lambda: bare.pings("shop-client-1", "web"))

    bare.engine.compose(project, "down")
    bare.docker("rm", "-f", "first")
    bare.docker("network", "rm", "web")
    bare.docker("plugin", "disable", ALIAS)
    bare.docker("plugin", "rm", ALIAS)
    assert bare.state() == bare.baseline
