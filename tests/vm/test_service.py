"""pynet as a service of a host with systemd: installed, restarted, upgraded, booted with, and taken away."""

import contextlib
import json
import re
from collections.abc import Iterator

import pytest

from tests.lab.command import CommandFailed
from tests.lab.wait import eventually

from .host import PLUGIN, ServiceHost
from .machine import PATIENCE

PAGE = f"http://{ServiceHost.HOST4}:8080/hostname"
BY_HAND = "python -m pynetdriver serve --state-dir /tmp/by-hand"
#: Folders whose files come and go by themselves.
RESTLESS = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/root", "/project"),
    *("/etc/docker", "/var/lib/docker", "/var/lib/containerd", "/var/lib/systemd", "/var/log"),
)
#: Ten times the figure in docs/service.md.
EXPOSURE = 32
#: What the engine says when it does not find a plugin and waits.
WAITS = re.compile(r"plugin.*retrying")


def test_a_service_from_install_to_uninstall(service_host: ServiceHost) -> None:
    """The whole life of a service; the container comes back from each of its turns without any hand."""
    host = service_host
    before = files(host)
    host.make("install")
    assert active(host, "pynet.socket", "pynet.service")
    assert host.vm.run("pynet", "--version").startswith("pynet")
    host.vm.run("systemd-analyze", "security", f"--threshold={EXPOSURE}", "pynet.service")
    keeps_others_out(host)
    host.docker("network", "create", "-d", "pynet", "--ipam-driver", "pynet", "web")
    serve = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    always = ("--restart", "always", "--name", "web", "--hostname", "web")
    host.docker("run", "-d", *always, "--network", "web", "-p", "8080:80", *serve)
    host.eventually_shows(PAGE, "web")
    names_who_has_a_port(host)
    reaches_into_containers(host)
    with nothing_lost(host):
        host.vm.run("systemctl", "restart", "pynet")
        host.vm.run("systemctl", "kill", "--signal=KILL", "pynet.service")
        eventually(lambda: answers(host), timeout_s=20 * PATIENCE, every_s=1)
        host.make("install")
    is_there_when_the_engine_calls(host)
    host.reboot()
    host.eventually_shows(PAGE, "web")
    assert not WAITS.search(host.journal("docker.service"))
    started = host.vm.run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", "pynet.service", "docker.service")
    assert sorted(stamps := list(map(int, started.split()))) == stamps
    takes_settings(host)
    with pytest.raises(CommandFailed, match=r"remove them first: docker network rm [0-9a-f]{12}"):
        host.make("uninstall")
    host.docker("rm", "-f", "web")
    host.docker("network", "rm", "web")
    host.make("uninstall")
    assert files(host) == before
    nothing_is_left(host)


def keeps_others_out(host: ServiceHost) -> None:
    """Neither way takes the socket from the other; who has it is named. Nor is it installed where it cannot work."""
    assert "pynet.service serves" in host.vm.shell(BY_HAND, check=False)
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    assert "needs root; run: sudo make install" in host.make("install", *nobody, check=False)
    host.vm.run("systemctl", "stop", "pynet.socket", "pynet.service")
    with served_by_hand(host):
        said = host.make("install", check=False)
        assert re.search(r"install: `pynet serve`, process \d+ serves this host's engine already; stop it first", said)
        host.vm.run("systemctl", "start", "pynet.socket", check=False)
        assert not active(host, "pynet.socket")
    said = host.journal("pynet.socket")
    assert re.search(rf"`pynet serve`, process \d+ serves {PLUGIN} already; stop it first", said)
    host.vm.run("systemctl", "start", "pynet.socket", "pynet.service")


def names_who_has_a_port(host: ServiceHost) -> None:
    """With what rights are left it still tells whose a port is, also of another user."""
    listen = "import socket; s = socket.create_server(('', 9090)); print(flush=True); s.accept()"
    start = f'setpriv --reuid=65534 --clear-groups python3 -c "{listen}" </dev/null >/tmp/listens 2>&1 & echo $!'
    process = host.vm.shell(start).strip()
    eventually(lambda: host.vm.run("cat", "/tmp/listens"), timeout_s=5 * PATIENCE, every_s=1)
    with pytest.raises(CommandFailed, match=rf"taken by process {process} \(python3\)"):
        host.docker("run", "--rm", "--network", "web", "-p", "9090:80", "busybox")
    host.vm.run("kill", process)


def reaches_into_containers(host: ServiceHost) -> None:
    """Namespaces of containers that start after it are seen: a link that went with its parent is made anew inside."""
    parent = "ip link add par0 type veth peer name par1; ip link set par0 up; ip link set par1 up"
    host.vm.shell(parent)
    lan = ("--subnet", "203.0.113.0/24", "-o", "parent=par0", "-o", "macvlan_mode=bridge", "-o", "host_access=true")
    host.docker("network", "create", "-d", "pynet", *lan, "lan")
    host.docker("run", "-d", "--name", "lan", "--network", "lan", "--ip=203.0.113.7", "busybox", "sleep", "inf")
    ping = ("ping", "-c1", "-W2", "203.0.113.7")
    host.vm.run(*ping)
    host.vm.run("ip", "link", "delete", "par0")
    host.vm.shell(parent)
    eventually(lambda: host.vm.run(*ping), timeout_s=20 * PATIENCE, every_s=1)
    host.docker("rm", "-f", "lan")
    host.docker("network", "rm", "lan")
    host.vm.run("ip", "link", "delete", "par0")


@contextlib.contextmanager
def nothing_lost(host: ServiceHost) -> Iterator[None]:
    """Send pings to the container and from it to the LAN meanwhile, and fetch its page: all are answered."""
    address = host.docker("inspect", "-f", "{{.NetworkSettings.Networks.web.IPAddress}}", "web")
    inside = host.docker("inspect", "-f", "{{.State.Pid}}", "web")
    script = """
        ping -i 0.2 -W 5 $1 >/tmp/in 2>&1 & echo $!
        nsenter --net --target $2 ping -i 0.2 -W 5 $3 >/tmp/out 2>&1 & echo $!
        ip netns exec lan sh -c 'while curl -sm5 $0 || echo lost; do sleep 1; done' $4 >/tmp/pages 2>&1 & echo $!
    """
    processes = host.vm.shell(script, address, inside, host.NEIGHBOUR4, PAGE).split()
    yield
    host.vm.shell("kill -INT $1 $2; kill $3; sleep 1", *processes)
    for direction in ("in", "out"):
        said = host.vm.run("tail", "-n3", f"/tmp/{direction}")
        sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
        assert int(sent) > 100 and sent == received, said
    assert set(host.vm.run("cat", "/tmp/pages").split()) == {"web"}


def is_there_when_the_engine_calls(host: ServiceHost) -> None:
    """An engine is restarted, and starts at once while pynet does not run though its networks need it."""
    host.vm.run("systemctl", "stop", "docker.socket", "docker.service", "pynet.service")
    host.vm.run("systemctl", "start", "docker.service")
    host.eventually_shows(PAGE, "web")
    assert active(host, "pynet.service")
    assert not WAITS.search(host.journal("docker.service"))


def takes_settings(host: ServiceHost) -> None:
    """A drop-in with `Environment=` is how a setting is changed."""
    setting = "mkdir /etc/systemd/system/pynet.service.d; printf '[Service]\nEnvironment=PYNET_LOG_FORMAT=json\n' >$1"
    host.vm.shell(setting, "/etc/systemd/system/pynet.service.d/settings.conf")
    host.vm.shell("systemctl daemon-reload; systemctl restart pynet")
    lines = [line for line in host.journal("pynet.service").splitlines() if line.startswith("{")]
    assert any(json.loads(line)["event"] == "serving" for line in lines)


def nothing_is_left(host: ServiceHost) -> None:
    """No unit, socket, link or rule of pynet's."""
    assert "pynet" not in host.vm.run("systemctl", "list-units", "--all", "--no-legend")
    assert "pynet" not in host.vm.run("find", "/run", "-name", "*pynet*", "-not", "-path", "/run/docker/libnetwork/*")
    assert not re.search(r"\bpn", host.vm.run("ip", "-br", "link"))
    assert "pynet" not in host.vm.run("nft", "list", "ruleset")


@contextlib.contextmanager
def served_by_hand(host: ServiceHost) -> Iterator[None]:
    """Run a daemon as somebody would in a terminal."""
    process = host.vm.shell(f"{BY_HAND} >/tmp/by-hand.log 2>&1 & echo $!").strip()
    eventually(lambda: "serving" in host.vm.run("cat", "/tmp/by-hand.log"), timeout_s=20 * PATIENCE, every_s=1)
    yield
    host.vm.shell("kill $1; while kill -0 $1; do sleep 0.2; done; rm -r /tmp/by-hand*", process)


def active(host: ServiceHost, *units: str) -> bool:
    """Tell whether all units are active."""
    return set(host.vm.run("systemctl", "is-active", *units, check=False).split()) == {"active"}


def answers(host: ServiceHost) -> bool:
    """Tell whether pynet serves."""
    return "pynet.service" in host.vm.run("pynet", "status")


def files(host: ServiceHost) -> list[str]:
    """List the host's files, but for those that come and go."""
    apart = " -o ".join(f"-path {path}" for path in RESTLESS)
    return sorted(host.vm.shell(rf"find / \( {apart} \) -prune -o -print").splitlines())
