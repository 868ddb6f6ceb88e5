"""Killed at any moment: the daemon, the engine, both; and many containers at once."""

from __future__ import annotations

import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.lab import Lab
from tests.lab.wait import eventually

pytestmark = [pytest.mark.smoke, pytest.mark.protocol]

CROWD = 20


def _crowd(lab: Lab) -> list[str]:
    names = [f"crowd{number}" for number in range(CROWD)]
    with ThreadPoolExecutor(CROWD) as pool:
        list(
            pool.map(
                lambda name: lab.web(name, "--network", "net", "-p", f"{8000 + int(name[5:])}:80"),
                names,
            )
        )
    return names


def test_twenty_containers_started_at_once_get_what_they_asked_for(lab: Lab) -> None:
    """Each has an address of its own, its name, and its published port."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    names = _crowd(lab)
    addresses = {lab.addresses(name, "net")["IPAddress"] for name in names}
    assert len(addresses) == CROWD
    for number, name in enumerate(names):
        assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{8000 + number}/hostname") == name
    lab.run("client", "--network", "net")
    assert [lab.fetches("client", f"http://{name}/hostname") for name in names] == names


def test_killing_the_daemon_loses_no_packet(lab: Lab) -> None:
    """kill -9 under twenty containers: none of ten pings a second is lost, before, during and after."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    names = _crowd(lab)
    target = lab.addresses(names[7], "net")["IPAddress"]
    url = f"http://{lab.lan.HOST4}:8007/hostname"
    ping = lab.host.popen("ping", "-n", "-i", "0.1", target, stdout=subprocess.PIPE)
    assert lab.page(lab.neighbour, url) == names[7]
    lab.daemon.kill()
    assert [lab.page(lab.neighbour, url) for _ in range(5)] == [names[7]] * 5
    lab.daemon.start()
    assert [lab.page(lab.neighbour, url) for _ in range(5)] == [names[7]] * 5
    ping.send_signal(signal.SIGINT)
    output = ping.communicate()[0].decode()
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", output)[0])
    # The last one may be on its way still.
    assert received >= sent - 1 and sent > 5, output[-300:]
    lab.docker("stop", "-t0", *names[:10], timeout_s=120)
    lab.docker("start", names[0])
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8000/hostname") == names[0]


def test_ports_are_held_again_after_a_restart_of_the_daemon(lab: Lab) -> None:
    """A restarted daemon still refuses a port that a running container has."""
    lab.network("net")
    lab.web("one", "--network", "net", "-p", "8080:80")
    assert lab.daemon.stop() == 0
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "one"
    lab.daemon.start()
    assert "8080/tcp is taken" in lab.refused(
        "run", "-d", "--name", "two", "--network", "net", "-p", "8080:80", "busybox", "true"
    )


def test_a_crashed_engine_finds_its_ports_and_addresses_free(lab: Lab) -> None:
    """Everything but the daemon dies at once: the same containers start again, nothing is leaked."""
    lab.network("net", "--subnet", "10.6.0.0/24")
    lab.web("web", "--network", "net", "--ip", "10.6.0.9", "-p", "8080:80")
    lab.web("back", "--network", "net", "-p", "8081:80", "--restart", "always")
    lab.engine.crash()
    lab.engine.start()
    lab.docker("start", "web")
    for port, name in ((8080, "web"), (8081, "back")):
        eventually(
            lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:{port}/hostname") == name,  # noqa: B023
            timeout_s=20,
        )
    eventually(lambda: len(lab.rows("endpoint")) == 2, timeout_s=40)


def test_a_crash_of_engine_and_daemon_leaves_nothing_behind(lab: Lab) -> None:
    """After both died, a start of both finds networks whole, containers startable, dead endpoints gone."""
    lab.network("net", "--ipam-driver", "pynet", "--ipv6")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.daemon.kill()
    lab.engine.crash()
    lab.daemon.start()
    lab.engine.start()
    assert lab.rows("endpoint") == []
    lab.docker("start", "web")
    assert eventually(lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname")) == "web"


def test_a_flushed_ruleset_is_written_anew_at_the_next_start(lab: Lab) -> None:
    """What was flushed while the daemon is down is mended when it starts."""
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.daemon.kill()
    lab.flush_rules()
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") is None
    lab.daemon.start()
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"


@pytest.mark.parametrize("ipam", ["default", "pynet"])
def test_what_stopped_while_pynet_was_away_starts_again(lab: Lab, ipam: str) -> None:
    """The engine deleted endpoint and address without pynet's hearing of it: both and the port are free."""
    lab.network("net", "--subnet", "10.6.0.0/24", "--ipam-driver", ipam)
    lab.web("web", "--network", "net", "--ip", "10.6.0.9", "-p", "8080:80")
    lab.web("other", "--network", "net", "-p", "8081:80")
    with lab.away():
        lab.docker("stop", "-t0", "web", "other")
    lab.docker("start", "web")
    lab.web("third", "--network", "net", "-p", "8081:80")
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8081/hostname") == "third"


def test_a_network_removed_while_pynet_was_away_makes_room_for_the_next(lab: Lab) -> None:
    """Its subnet can be given again, and its bridge goes then; a network in use never makes room."""
    gone = lab.network("gone", "--subnet", "10.6.0.0/24")
    with lab.away():
        lab.docker("network", "rm", "gone")
    assert f"pn-{gone[:12]}" in [link["ifname"] for link in lab.links()]
    lab.network("new", "--subnet", "10.6.0.0/24")
    assert f"pn-{gone[:12]}" not in [link["ifname"] for link in lab.links()]
    lab.web("web", "--network", "new", "-p", "8080:80")
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"


def test_a_removed_table_is_written_anew_while_pynet_runs(lab: Lab) -> None:
    """A flush takes isolation and ports for seconds only, also without a new container."""
    lab.network("net")
    lab.web("web", "--network", "net", "-p", "8080:80")
    lab.flush_rules()
    eventually(lambda: lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web", timeout_s=15)


def test_a_removed_bridge_is_made_again_for_the_next_container(lab: Lab) -> None:
    """Somebody deleted the bridge: the next container on it has its network again."""
    bridge = f"pn-{lab.network('net')[:12]}"
    lab.host.run("ip", "link", "del", bridge)
    lab.web("web", "--network", "net", "-p", "8080:80")
    assert lab.page(lab.neighbour, f"http://{lab.lan.HOST4}:8080/hostname") == "web"
    assert lab.pings("web", lab.lan.NEIGHBOUR4)
