"""status, ls, inspect and ports: what a user is told is what there is."""

import http.client
import subprocess
import sys
import time

from pynetdriver import __version__
from tests.lab.netns import Namespace
from tests.lab.unix import UnixConnection
from tests.lab.wait import eventually

from .ask import ask, asked
from .host import NETWORK, OTHER, PROGRAM, Host, both_firewalls, endpoint_id, network, port, program

BRIDGE = "pn-9f9f9f9f9f9f"


def with_networks(host: Host) -> None:
    host.ok("CreateNetwork", network(dual=True))
    host.ok("CreateNetwork", network(OTHER, 8, internal=True))
    host.attach(2, dual=True)
    host.attach(3)
    host.ok(PROGRAM, program(2, port(8080), port(5353, 53, 17, "127.0.0.1")))


def test_status_says_what_is_held(host: Host) -> None:
    """Numbers, sockets and pools are those of the daemon."""
    with_networks(host)
    pool = host.ok("IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "Pool": "10.77.0.0/28"})["PoolID"]
    host.ok("IpamDriver.RequestAddress", {"PoolID": pool, "Address": ""})
    found = asked(host, "status")
    assert (found["version"], found["networks"], found["endpoints"]) == (__version__, 2, 2)
    assert found["owner"] == f"`pynet serve`, process {host.daemon.pid}"
    assert abs(found["since"] - time.time()) < 60
    assert (found["sockets"], found["state_dir"]) == ([str(host.daemon.socket)], str(host.daemon.state_dir))
    assert found["pools"] == [{"subnet": "10.77.0.0/28", "range": None, "space": "pynet-local", "size": 14, "used": 1}]
    assert found["ports"] == sum(len(one["ports"]) for one in asked(host, "inspect", NETWORK)["endpoints"])
    shown = ask(host, "status")
    assert f"pynet {__version__}" in shown and "10.77.0.0/28" in shown and str(host.daemon.state_dir) in shown


def test_repairs_are_remembered(host: Host) -> None:
    """What others damaged and pynet mended is told, with its time."""
    with_networks(host)
    host.netns.run("ip", "link", "delete", BRIDGE)

    def mended() -> bool:
        kinds = {one["kind"] for one in asked(host, "status")["repairs"]}
        assert "bridge" in kinds, kinds
        return True

    eventually(mended)
    assert f"bridge {BRIDGE} " in ask(host, "status")


def test_networks_are_listed_and_inspected(host: Host) -> None:
    """A network is found by the beginning of its id; its endpoints have what the engine was answered."""
    with_networks(host)
    listed = asked(host, "ls")
    assert [(one["id"], one["link"], one["internal"], len(one["endpoints"])) for one in listed] == [
        (NETWORK, BRIDGE, False, 2),
        (OTHER, f"pn-{OTHER[:12]}", True, 0),
    ]
    assert asked(host, "inspect", NETWORK[:5]) == listed[0]
    (first, second) = listed[0]["endpoints"]
    assert (first["id"], first["addresses"], first["joined"]) == (endpoint_id(2), ["10.9.0.2/24", "fd00:9::2/64"], True)
    assert first["link"] == f"pnh{endpoint_id(2)[:12]}" and second["ports"] == []
    assert [(one["pool"], one["gateway"]) for one in listed[0]["subnets"]] == [
        ("10.9.0.0/24", "10.9.0.1"),
        ("fd00:9::/64", "fd00:9::1"),
    ]
    for shown in (ask(host, "ls"), ask(host, "inspect", NETWORK)):
        assert BRIDGE in shown and "10.9.0.0/24" in shown


def test_the_interface_inside_is_named(host: Host) -> None:
    """What a link is called in its container is seen without entering that."""
    with_networks(host)
    with Namespace() as container:
        host.netns.run("ip", "link", "set", f"pnc{endpoint_id(2)[:12]}", "netns", container.name, "name", "eth7")
        first, second = asked(host, "inspect", NETWORK)["endpoints"]
        assert (first["interface"], second["interface"]) == ("eth7", None)


def test_ports_are_listed(host: Host) -> None:
    """Each published port stands with its host address, container and network."""
    with_networks(host)
    found = {(one["protocol"], one["host_address"], one["host_port"]): one for one in asked(host, "ports")}
    assert set(found) >= {("tcp", "0.0.0.0", 8080), ("tcp", "::", 8080), ("udp", "127.0.0.1", 5353)}
    one = found["tcp", "::", 8080]
    assert (one["address"], one["port"], one["network"], one["endpoint"]) == ("fd00:9::2", 80, NETWORK, endpoint_id(2))
    assert asked(host, "ports", OTHER) == []
    shown = ask(host, "ports", NETWORK)
    rows = [line.split()[:2] for line in shown.splitlines()]
    assert ["0.0.0.0:8080->80/tcp", "10.9.0.2"] in rows and ["[::]:8080->80/tcp", "fd00:9::2"] in rows


def test_refusals_are_sentences(host: Host) -> None:
    """What is not there is named, and what to do; wrong usage has an exit code of its own."""
    with_networks(host)
    assert 'pynet has no network "nonsense"; `pynet ls` lists' in ask(host, "inspect", "nonsense", code=1)
    ask(host, "inspect", code=2)
    ask(host, "inspect", "", code=2)
    ask(host, "ports", "", code=2)
    ask(host, "nonsense", code=2)
    host.daemon.kill()
    assert "is it running? `pynet doctor` looks for the reason" in ask(host, "status", code=1)


def test_only_root_may_ask(host: Host) -> None:
    """Another user is told so."""
    # The interpreter may be where nobody else gets.
    code = "import os, sys, pynetdriver.__main__ as pynet; os.setuid(65534); sys.argv[0] = 'pynet'; pynet.main()"
    run = (sys.executable, "-c", code, "ls", "--socket", str(host.daemon.socket))
    process = subprocess.run(run, capture_output=True, text=True, check=False)
    assert process.returncode == 1 and "only root may ask pynet" in process.stderr, process.stderr


def test_the_admin_socket_answers_nothing_else(host: Host) -> None:
    """Unknown paths and verbs are refused in the usual shape, and the engine's socket takes no questions."""
    admin = host.daemon.socket.with_suffix("") / "admin.sock"
    for sock, verb, path, status in (
        (admin, "GET", "/nonsense", 404),
        (admin, "DELETE", "/networks", 405),
        (admin, "POST", "/NetworkDriver.CreateNetwork", 404),
        (host.daemon.socket, "GET", "/networks", 404),
    ):
        connection = UnixConnection(sock)
        connection.request(verb, path)
        response: http.client.HTTPResponse = connection.getresponse()
        assert response.status == status and b'"Err"' in response.read()
        connection.close()


@both_firewalls
def test_the_firewall_is_named(host: Host) -> None:
    """The kind in force is told."""
    assert asked(host, "status")["firewall"] == host.firewall


def test_ports_are_in_order(host: Host) -> None:
    """Those of a range follow each other, whatever the order in which they were published."""
    host.ok("CreateNetwork", network())
    for number in (3, 2):
        host.attach(number)
    for number, first in ((3, 9010), (2, 9000)):
        host.ok(PROGRAM, program(number, *(port(first + one, 80 + one) for one in (2, 0, 1)), port(first + 5, 53, 17)))
    shown = [line.split()[0] for line in ask(host, "ports").splitlines()[1:] if line.startswith("0.0.0.0")]
    assert shown == [
        "0.0.0.0:9000-9002->80-82/tcp",
        "0.0.0.0:9005->53/udp",
        "0.0.0.0:9010-9012->80-82/tcp",
        "0.0.0.0:9015->53/udp",
    ]
    assert len([one for one in asked(host, "ports") if one["host_address"] == "0.0.0.0"]) == 8
