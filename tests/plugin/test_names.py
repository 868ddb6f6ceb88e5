"""`-d pynet` with a managed plugin, whatever is restarted; and who else serves it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import figures
from tests.lab.command import CommandFailed
from tests.lab.daemon import Daemon
from tests.lab.lan import Lan
from tests.lab.wait import eventually
from tests.plugin.managed import ALIAS, OLD, Managed, reference

URL = f"http://{Lan.HOST4}:8080/hostname"


def works(managed: Managed) -> None:
    """Make a network, a container on it with a port, and take them away again."""
    managed.docker("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "another")
    managed.web("another", "--network", "another", "-p", "8090:80")
    assert managed.page(f"http://{Lan.HOST4}:8090/hostname") == "another"
    managed.docker("rm", "-f", "another")
    managed.docker("network", "rm", "another")


def test_under_the_name_of_the_registry(bare: Managed) -> None:
    bare.install(alias=None)
    assert bare.docker("plugin", "ls", "--format", "{{.Name}}") == reference(OLD)
    works(bare)


@pytest.mark.timeout(240)
def test_over_restarts_and_crashes(managed: Managed) -> None:
    managed.docker("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "net")
    managed.web("web", "--network", "net", "--restart", "always", "-p", "8080:80")
    managed.web("client", "--network", "net", "--restart", "always")

    def is_back() -> bool:
        return managed.page(URL) == "web" and managed.pings("client", "web")

    with managed.watched("web", URL) as losses:
        # The engine starts it again by itself.
        before = managed.pid()
        managed.engine.machine.run("kill", "-KILL", str(before))
        eventually(lambda: managed.pid() != before)
        eventually(lambda: managed.inside("pynet", "status"))
        managed.docker("plugin", "disable", ALIAS)
        managed.docker("plugin", "enable", ALIAS)
    # Not meanwhile: with engine 26.1 a network that is made may cost the others a packet (docs/limits.md).
    works(managed)
    figures.append(f"engine {managed.engine.version}, kill -9 of the plugin, disable and enable: {losses}")
    assert losses.unanswered == losses.missing == 0, losses

    managed.engine.restart()
    eventually(is_back)
    works(managed)

    managed.engine.kill()
    managed.engine.start()
    eventually(is_back, timeout_s=30)
    works(managed)

    managed.engine.crash()
    managed.engine.start()
    eventually(is_back, timeout_s=30)
    works(managed)


def test_networks_by_the_bare_name_do_not_keep_the_plugin_from_being_disabled(managed: Managed) -> None:
    managed.docker("network", "create", "-d", "pynet", "bare")
    managed.docker("plugin", "disable", ALIAS)
    sockets = managed.engine.machine.run("find", "/run/docker/plugins", "-name", "pynet*").split()
    assert sockets == []
    managed.docker("plugin", "enable", ALIAS)
    managed.docker("network", "create", "-d", f"{ALIAS}:latest", "full")
    assert "is in use" in managed.refused("plugin", "disable", ALIAS)


def test_a_plugin_that_is_called_pynet_keeps_the_bare_name_from_being_found(bare: Managed) -> None:
    bare.install(alias="pynet")
    # As long as it runs, an engine remembers drivers that it found by that name before.
    bare.engine.restart()
    said = bare.refused("network", "create", "-d", "pynet", "net")
    assert "could not resolve driver pynet in registry" in said
    bare.docker("network", "create", "-d", "pynet:latest", "--ipam-driver", "pynet:latest", "net")
    bare.docker("network", "rm", "net")


def test_a_plugin_beside_a_daemon_of_the_host_does_not_start_and_says_why(managed: Managed, tmp_path: Path) -> None:
    managed.docker("plugin", "disable", ALIAS)
    with Daemon(managed.engine.netns, managed.engine.plugins / "pynet.sock", tmp_path / "state") as daemon:
        managed.refused("plugin", "enable", "--timeout", "1", ALIAS)
        reasons = [line for line in managed.said(managed.plugin_id()) if "already; stop it first" in line]
        assert any(
            re.search(rf"`pynet serve`, process {daemon.pid} serves .* already; stop it first", one) for one in reasons
        )
        works(managed)
        assert daemon.stop() == 0
    managed.docker("plugin", "enable", ALIAS)
    works(managed)


def test_a_daemon_of_the_host_beside_a_plugin_does_not_start_and_says_why(managed: Managed, tmp_path: Path) -> None:
    serve = (sys.executable, "-m", "pynetdriver", "serve", "--state-dir", str(tmp_path / "state"))
    with pytest.raises(CommandFailed) as refusal:
        managed.engine.netns.run(*serve, "--socket", str(managed.engine.plugins / "pynet.sock"))
    assert refusal.value.outcome == "exit code 1"
    assert re.search("the managed plugin serves .* already; stop it first", refusal.value.stderr)
    works(managed)
