"""The rules of the wire, and of being one daemon on one host."""

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.command import CommandFailed
from tests.lab.daemon import Daemon
from tests.lab.netns import Namespace
from tests.lab.unix import call
from tests.lab.wait import eventually

from .host import NETWORK, PROGRAM, Host, assert_refusal, network, port, program

WITHOUT_ARGUMENTS = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
]
WITH_ARGUMENTS = [
    "NetworkDriver.GwAllocCheck",
    "NetworkDriver.AllocateNetwork",
    "NetworkDriver.FreeNetwork",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.ProgramExternalConnectivity",
    "NetworkDriver.RevokeExternalConnectivity",
    "NetworkDriver.DiscoverNew",
    "NetworkDriver.DiscoverDelete",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
]


def test_methods_without_arguments_take_an_empty_body(host: Host) -> None:
    """Handshake and capabilities come with an empty body and are answered as the engine wants."""
    answers = {method: host.raw(method, b"") for method in WITHOUT_ARGUMENTS}
    assert all(status == 200 for status, _ in answers.values())
    assert answers["Plugin.Activate"][1] == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert answers["NetworkDriver.GetCapabilities"][1]["Scope"] == "local"
    spaces = answers["IpamDriver.GetDefaultAddressSpaces"][1]
    assert len(set(spaces.values())) == 2 and all(spaces.values())


def test_methods_with_arguments_refuse_an_empty_body(host: Host) -> None:
    """An empty body is the retry of a broken call and gets 400, or the engine takes it for done."""
    host.ok("CreateNetwork", network())
    before = host.state()
    for method in WITH_ARGUMENTS:
        status, answer = host.raw(method, b"")
        assert status == 400, method
        assert_refusal(status, answer)
    assert host.state() == before


@pytest.mark.parametrize("path", ["NetworkDriver.Nonsense", "", "NetworkDriver", "x" * 5000, "plugin.activate"])
def test_unknown_path_is_404(host: Host, path: str) -> None:
    """404 means "not implemented" to the engine, and is said of unknown paths alone."""
    status, answer = host.raw(path, b"{}")
    assert status == 404 and answer["Err"] == answer["Error"] and len(answer["Err"]) < 200


@pytest.mark.parametrize("verb", ["GET", "PUT", "HEAD", "DELETE"])
def test_calls_are_posts(folder: Path, verb: str) -> None:
    """Whatever is not a POST is no call."""
    with Host(folder) as host:
        if verb != "HEAD":
            assert host.raw("Plugin.Activate", b"", verb)[0] == 404
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(host.daemon.socket))
            client.sendall(f"{verb} /Plugin.Activate HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 404 ")


def test_request_is_read_whatever_its_headers_say(host: Host) -> None:
    """Engines send no Content-Type, and an empty Host before 23.0."""
    body = b'{"NetworkID": "%s"}\n' % NETWORK.encode()
    head = b"POST /NetworkDriver.DeleteNetwork HTTP/1.1\r\nHost: \r\nContent-Type: text/plain\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(host.daemon.socket))
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_socket_is_root_only(host: Host) -> None:
    """Whoever can write to the socket can change the network."""
    mode = host.daemon.socket.lstat().st_mode
    assert stat.S_ISSOCK(mode) and mode & 0o777 == 0o600


def test_sigterm_leaves_links_and_rules(host: Host) -> None:
    """SIGTERM ends with 0, removes the socket and touches no traffic."""
    host.ok("CreateNetwork", network())
    host.attach()
    host.ok(PROGRAM, program(2, port(8080)))
    before = host.state()
    assert host.daemon.stop() == 0
    assert host.state() == before
    assert not host.daemon.socket.exists()
    host.daemon.start()
    assert host.state() == before


def test_stale_socket_is_replaced(host: Host) -> None:
    """A socket that a killed daemon left is no obstacle."""
    host.daemon.kill()
    assert host.daemon.socket.exists()
    host.daemon.start()
    assert host.raw("Plugin.Activate", b"")[0] == 200


def refusal_of(daemon: Daemon) -> str:
    """Start a daemon that must not come up; returns the last line it wrote."""
    with pytest.raises(RuntimeError, match="the daemon ended with 1"):
        daemon.start()
    lines = daemon.log.strip().splitlines()
    assert "Traceback" not in daemon.log, daemon.log
    assert lines[-1].startswith("Error: ")
    return lines[-1]


@pytest.fixture
def netns() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def test_live_socket_is_not_taken(netns: Namespace, folder: Path) -> None:
    """The socket of another process, whatever that is, stays its own."""
    sock = folder / "pynet.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(sock))
        other.listen()
        run = ("serve", "--socket", str(sock), "--state-dir", str(folder / "state"))
        with pytest.raises(CommandFailed) as refused:
            netns.run(sys.executable, "-m", "pynetdriver", *run)
        assert refused.value.stderr.splitlines()[-1] == f"Error: another process serves {sock} already; stop it first"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(sock))


def test_second_daemon_on_one_host_is_refused(host: Host, folder: Path) -> None:
    """Two daemons with folders of their own would fight over one host's table."""
    host.ok("CreateNetwork", network())
    before = host.state()
    second = Daemon(host.netns, folder / "other.sock", folder / "other")
    assert "manages this host's network already" in refusal_of(second)
    assert host.state() == before


def test_file_in_place_of_the_socket_is_left_alone(netns: Namespace, folder: Path) -> None:
    """What is not a socket is not removed."""
    (folder / "pynet.sock").write_text("precious")
    assert "is not a socket" in refusal_of(Daemon(netns, folder / "pynet.sock", folder / "state"))
    assert (folder / "pynet.sock").read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 200 + ".sock", "file/pynet.sock"])
def test_impossible_socket_is_refused_in_a_sentence(netns: Namespace, folder: Path, name: str) -> None:
    """A path where no socket can be is refused in words, not by a traceback."""
    (folder / "file").write_text("")
    assert name.removesuffix(".sock") in refusal_of(Daemon(netns, folder / name, folder / "state"))


def test_damaged_store_is_refused_in_a_sentence(netns: Namespace, folder: Path) -> None:
    """A damaged state file is named, and stays for whoever can mend it."""
    (folder / "state").mkdir()
    (folder / "state" / "pynet.db").write_bytes(b"nonsense" * 1000)
    assert "pynet.db" in refusal_of(Daemon(netns, folder / "pynet.sock", folder / "state"))
    assert (folder / "state" / "pynet.db").read_bytes() == b"nonsense" * 1000


#: Passes on a socket as a service manager does: python3 -c PASS PATH COMMAND…
PASS = """
import os, socket, sys
one = socket.socket(socket.AF_UNIX)
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
one.bind(sys.argv[1])
one.listen()
os.dup2(one.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_socket_that_a_service_manager_passes_is_served_and_stays(netns: Namespace, folder: Path) -> None:
    """What the manager holds is taken, and is not the daemon's to remove (sd_listen_fds(3))."""
    sock = folder / "pynet.sock"
    command = (sys.executable, "-c", PASS, str(sock), sys.executable, "-m", "pynetdriver")
    with Daemon(netns, sock, folder / "state", command=command) as daemon:
        made = sock.stat().st_ino
        assert daemon.call("NetworkDriver.GetCapabilities")[1]["Scope"] == "local"
        assert daemon.stop() == 0
        assert sock.stat().st_ino == made and not sock.with_suffix("").exists()


def test_several_sockets_are_served_alike(netns: Namespace, folder: Path) -> None:
    """A managed plugin answers to the engine's path and to its own; all go with the daemon."""
    first, second = folder / "pynet.sock", folder / "own" / "plugin.sock"
    with Daemon(netns, first, folder / "state", "--socket", str(second)) as daemon:
        for sock in (first, second):
            assert call(sock, "NetworkDriver.GetCapabilities")[1]["Scope"] == "local"
        assert not second.with_suffix("").exists()
        daemon.stop()
        assert not first.exists() and not second.exists()


#: Stands before a library that the daemon needs, and lets nobody load it until the file `open` is there.
GATE = """
import pathlib, sys, time
here = pathlib.Path(__file__).parent
while not (here / "open").exists():
    time.sleep(0.01)
sys.path.remove(str(here))
del sys.modules["aiohttp"]
import aiohttp
"""


@contextmanager
def starting(netns: Namespace, sock: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon whose socket is there since a moment."""
    run = ("serve", "--socket", str(sock), "--state-dir", str(sock.with_name("state")))
    options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "env": {**os.environ, **variables}}
    with netns.popen(sys.executable, "-m", "pynetdriver", *run, **options) as process:
        try:
            eventually(lambda: sock.exists() or process.poll() is not None, timeout_s=20, every_s=0.001)
            yield process
        finally:
            process.kill()


def test_who_calls_while_pynet_starts_is_answered(netns: Namespace, folder: Path) -> None:
    """The socket takes calls before what the daemon needs is loaded, so the engine need not try again."""
    sock, gate = folder / "pynet.sock", folder / "gate"
    gate.mkdir()
    (gate / "aiohttp.py").write_text(GATE)
    with starting(netns, sock, PYTHONPATH=str(gate)) as process, socket.socket(socket.AF_UNIX) as caller:
        # Between bind and listen, a moment, it is there and refuses.
        eventually(lambda: caller.connect_ex(str(sock)) == 0)
        (gate / "open").touch()
        assert call(sock, "NetworkDriver.GetCapabilities")[1]["Scope"] == "local"
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("sockets", ["pynet.sock", "/x/pynet.socket", "/x/a.sock::/x/b.sock", "/x/a.sock:/x/a.sock"])
def test_sockets_that_no_engine_looks_for_are_wrong_usage(netns: Namespace, folder: Path, sockets: str) -> None:
    """Paths are right or said to be wrong, before anything is made."""
    run = (sys.executable, "-m", "pynetdriver", "serve", "--state-dir", str(folder / "state"))
    with pytest.raises(CommandFailed) as refused:
        netns.run("env", f"PYNET_SOCKET={sockets}", *run)
    assert "Invalid value for '--socket'" in refused.value.stderr and "Traceback" not in refused.value.stderr
    assert not (folder / "state").exists()


@pytest.mark.parametrize("passed", ["x", "", "7"])
def test_descriptors_that_nobody_passed_are_refused(netns: Namespace, folder: Path, passed: str) -> None:
    """What a service manager says of its sockets is not trusted blindly."""
    claim = 'LISTEN_FDS="$0" LISTEN_PID=$$ exec "$@"'
    run = ("serve", "--socket", str(folder / "pynet.sock"), "--state-dir", str(folder / "state"))
    with pytest.raises(CommandFailed) as refused:
        netns.run("sh", "-c", claim, passed, sys.executable, "-m", "pynetdriver", *run)
    assert refused.value.stderr.startswith("Error: cannot take over what the service manager passes")


def test_a_stop_during_the_start_leaves_nothing(netns: Namespace, folder: Path) -> None:
    """Whenever SIGTERM comes, sockets and locks go with the daemon."""
    sock = folder / "pynet.sock"
    for delay in (0.0, 0.05, 0.2, 0.4):
        with starting(netns, sock) as process:
            time.sleep(delay)
            process.terminate()
            assert process.wait(20) == 0
        assert not sock.exists() and not sock.with_suffix("").exists()


def test_many_daemons_at_one_instant_come_to_one(netns: Namespace, folder: Path) -> None:
    """Whoever is late is told in a sentence, also while the first one goes again."""
    run = ("serve", "--socket", str(folder / "pynet.sock"), "--state-dir", str(folder / "state"))
    with ExitStack() as stack:
        command = (sys.executable, "-m", "pynetdriver", *run)
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        several = [stack.enter_context(netns.popen(*command, **streams)) for _ in range(6)]
        eventually(lambda: len([one for one in several if one.poll() is None]) == 1, timeout_s=60)
        (first,) = [one for one in several if one.poll() is None]
        # It has its locks before its sockets.
        asked = (folder / "pynet.sock", "NetworkDriver.GetCapabilities")
        eventually(lambda: call(*asked)[1]["Scope"] == "local", timeout_s=30)
        first.terminate()
        assert first.wait(20) == 0
        for one in several:
            said = one.communicate()[1].decode()
            assert one is first or (one.returncode == 1 and said.startswith("Error: `pynet serve`, process")), said
