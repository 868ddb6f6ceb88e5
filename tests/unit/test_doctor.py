"""How the doctor reads rules, and what it says of what the daemon said."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from netaddr import IPAddress

from pynetdriver import doctor
from pynetdriver.admin.answers import Finding, Network, PoolUse, Port, Status, Subnet
from pynetdriver.doctor import daemon
from pynetdriver.doctor.addresses import Listener, listeners
from pynetdriver.doctor.facts import Link, Told
from pynetdriver.doctor.findings import warning
from pynetdriver.doctor.host import Host, run
from pynetdriver.doctor.kernel import dotted
from pynetdriver.doctor.packets import Drop, Packet, Rule, dropped, read_iptables, read_nft, rules_of_iptables
from pynetdriver.names import LINK_GROUP

ID = "9f" * 32


def link(name: str, group: int = 0) -> Link:
    return Link(name, 1, "bridge", True, True, 1500, group, None, None, False)


#: Out of a container, and in by a published port.
OUT = Packet("", 4, IPAddress("10.9.0.2"), IPAddress("1.1.1.1"), 443, link("pn-x", LINK_GROUP), link("eth0"))
IN = Packet(
    "", 4, IPAddress("1.1.1.1"), IPAddress("10.9.0.2"), 80, link("eth0"), link("pn-x", LINK_GROUP), translated=True
)


@pytest.mark.parametrize(
    ("rule", "out", "into"),
    [
        ("-A F -j ACCEPT", True, True),
        ("-A F -i pn-x -j ACCEPT", True, False),
        ("-A F ! -i pn-x -j ACCEPT", False, True),
        ("-A F -i pn+ -o eth+ -j ACCEPT", True, False),
        ("-A F -s 10.9.0.0/24 ! -d 10.9.0.0/24 -j ACCEPT", True, False),
        ("-A F -p tcp -m tcp --dport 443 -j ACCEPT", True, False),
        ("-A F -p tcp -m multiport --dports 22,80:90 -j ACCEPT", False, True),
        ("-A F -p udp -m udp --dport 443 -j ACCEPT", False, False),
        ("-A F -p icmp -m icmp --icmp-type 8 -j ACCEPT", False, False),
        ("-A F -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", False, False),
        ("-A F -m conntrack --ctstate NEW -j ACCEPT", True, True),
        ("-A F -m conntrack --ctstate DNAT -j ACCEPT", False, True),
        ("-A F -m devgroup --src-group 0x706e -j ACCEPT", True, False),
        ('-A F -m comment --comment "any one" -m devgroup --dst-group 0x706e -j ACCEPT', False, True),
        ("-A F -m set --match-set some dst -j ACCEPT", None, None),
        ("-A F -m rpfilter -j ACCEPT", None, None),
        ("-A F -m devgroup --src-group 0x6e/0xff -j ACCEPT", True, False),
        ('-A F -m comment --comment "-j DROP" -i pn-x -j ACCEPT', True, False),
        ("-A F -i pn-x -m set ! --match-set some dst -j ACCEPT", None, False),
    ],
)
def test_rules_of_iptables(rule: str, out: bool | None, into: bool | None) -> None:
    assert read_iptables(rule, OUT) == ("F", Rule(out, "accept", "ACCEPT"))
    assert read_iptables(rule, IN) == ("F", Rule(into, "accept", "ACCEPT"))


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("-j DROP", "drop"),
        ("-j REJECT --reject-with icmp-port-unreachable", "drop"),
        ("-j RETURN", "return"),
        ("-j ufw-forward", "jump"),
        ("-g elsewhere", "goto"),
    ],
)
def test_targets_of_iptables(target: str, verdict: str) -> None:
    found = read_iptables(f"-A F {target}", OUT)
    assert found is not None and found[1].verdict == verdict
    assert read_iptables(":FORWARD DROP [0:0]", OUT) is None


@pytest.mark.parametrize(
    "line",
    ['-A F -m comment --comment "two', "-A F -p tcp --dport what -j DROP", "-A F -s nowhere -j DROP", "-A F -j"],
)
def test_rules_that_cannot_be_read(line: str) -> None:
    """Such as one whose comment has two lines: it may let all pass."""
    assert read_iptables(line, OUT) == ("F", Rule(None, "accept"))
    assert read_iptables('lines" -j ACCEPT', OUT) is None


@pytest.mark.parametrize(
    ("rules", "where"),
    [
        (["-A FORWARD -j NFQUEUE --queue-num 0"], None),
        (["-A FORWARD -j LOG --log-prefix x"], Drop("FORWARD", None)),
        (["-A FORWARD -j own"], Drop("FORWARD", None)),
        (["-A FORWARD -j own", "-A own -j SYNPROXY"], None),
        (["-A FORWARD -j own", "-A own -j DROP"], Drop("own", 1)),
    ],
)
def test_targets_that_are_no_chains(rules: list[str], where: Drop | None) -> None:
    """Some judge, as a program does that reads a queue."""
    lines = [":FORWARD DROP [0:0]", ":own - [0:0]", *rules]
    assert dropped("FORWARD", rules_of_iptables(lines, OUT), policy_drops=True) == where


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


META, CT = "meta", "ct"


@pytest.mark.parametrize(
    ("one", "out", "into"),
    [
        (match({META: {"key": "iifname"}}, "pn-x"), True, False),
        (match({META: {"key": "iifname"}}, "pn-*"), True, False),
        (match({META: {"key": "oif"}}, "pn-x", "!="), True, False),
        (match({META: {"key": "oifname"}}, {"set": ["eth0", "eth1"]}), True, False),
        (match({META: {"key": "oifname"}}, "@some"), None, None),
        (match({META: {"key": "iifgroup"}}, LINK_GROUP), True, False),
        (match({META: {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), True, True),
        (match({META: {"key": "mark"}}, 7), None, None),
        (match({CT: {"key": "state"}}, ["established", "related"], "in"), False, False),
        (match({CT: {"key": "state"}}, "new", "in"), True, True),
        (match({CT: {"key": "status"}}, "dnat", "in"), False, True),
        (
            match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "10.9.0.0", "len": 24}}),
            True,
            False,
        ),
        (match({"payload": {"protocol": "ip", "field": "daddr"}}, "10.9.0.2"), False, True),
        (match({"payload": {"protocol": "ip6", "field": "daddr"}}, "fd00::2"), False, False),
        (match({"payload": {"protocol": "tcp", "field": "dport"}}, {"set": [22, {"range": [80, 90]}]}), False, True),
        (match({"payload": {"protocol": "udp", "field": "dport"}}, 80), False, False),
        ({"xt": {"type": "match", "name": "set"}}, None, None),
        ({"counter": {"packets": 0, "bytes": 0}}, True, True),
        ({"mangle": {"key": {META: {"key": "mark"}}, "value": 7}}, True, True),
        (match({"payload": {"protocol": "ip6", "field": "daddr"}}, "fd00::2", "!="), False, False),
        (match({"payload": {"protocol": "udp", "field": "dport"}}, 53, "!="), False, False),
        (match({"payload": {"protocol": "icmp", "field": "type"}}, "echo-request", "!="), False, False),
        (match({"payload": {"protocol": "tcp", "field": "dport"}}, "https"), None, None),
        ({"ct count": {"val": 100000, "inv": True}}, None, None),
        ({"quota": {"val": 10, "val_unit": "gbytes", "inv": True}}, None, None),
        ({"set": {"op": "add", "elem": 1, "set": "@m", "stmt": [{"limit": {"rate": 1}}]}}, None, None),
    ],
)
def test_rules_of_nftables(one: dict[str, Any], out: bool | None, into: bool | None) -> None:
    assert read_nft([one, {"accept": None}], OUT) == Rule(out, "accept")
    assert read_nft([one, {"accept": None}], IN) == Rule(into, "accept")


def test_statements_that_may_judge() -> None:
    """A queue's reader does, and what is not known here may."""
    assert read_nft([{"queue": {"num": 0, "flags": "bypass"}}], OUT) == Rule(None, "accept")
    assert read_nft([{"xt": {"type": "target", "name": "NFQUEUE"}}], OUT) == Rule(None, "accept")
    other = match({META: {"key": "iifname"}}, "elsewhere")
    assert read_nft([other, {"queue": {"num": 0}}], OUT).holds is False


def test_verdict_maps() -> None:
    """What is in the map decides; a map with a name may hold anything."""
    key = {META: {"key": "iifname"}}
    within = {"vmap": {"key": key, "data": {"set": [["eth0", {"drop": None}], ["pn-x", {"jump": {"target": "mine"}}]]}}}
    assert read_nft([within], OUT) == Rule(True, "jump", "mine")
    assert read_nft([within], IN) == Rule(True, "drop")
    assert read_nft([{"vmap": {"key": key, "data": {"set": [["lo", {"accept": None}]]}}}], OUT).holds is False
    assert read_nft([{"vmap": {"key": key, "data": "@zones"}}], OUT) == Rule(None, "accept")


@pytest.mark.parametrize(
    ("chains", "policy_drops", "where"),
    [
        ({"F": []}, False, None),
        ({"F": []}, True, Drop("F", None)),
        ({"F": [Rule(False, "accept"), Rule(True, "drop")]}, False, Drop("F", 2)),
        ({"F": [Rule(None, "accept"), Rule(True, "drop")]}, True, None),
        ({"F": [Rule(None, "drop")]}, False, None),
        ({"F": [Rule(True, "jump", "a"), Rule(True, "accept")], "a": [Rule(True, "drop")]}, False, Drop("a", 1)),
        ({"F": [Rule(None, "jump", "a")], "a": [Rule(True, "drop")]}, False, None),
        ({"F": [Rule(None, "jump", "a")], "a": [Rule(True, "accept")]}, True, None),
        ({"F": [Rule(True, "jump", "a")], "a": [Rule(True, "return"), Rule(True, "accept")]}, True, Drop("F", None)),
        ({"F": [Rule(True, "goto", "a"), Rule(True, "accept")], "a": []}, True, Drop("F", None)),
        ({"F": [Rule(True, "jump", "LOG"), Rule(True, "")]}, True, Drop("F", None)),
        ({"F": [Rule(True, "jump", "F")]}, True, Drop("F", None)),
        ({"F": [Rule(True, "jump", "a")], "a": [Rule(None, "return"), Rule(True, "drop")]}, False, None),
        ({"F": [Rule(None, "return"), Rule(True, "drop")]}, True, Drop("F", None)),
        ({"F": [Rule(None, "goto", "a"), Rule(True, "drop")], "a": []}, False, None),
        ({"F": [Rule(None, "goto", "a"), Rule(True, "drop")], "a": [Rule(True, "drop")]}, False, Drop("F", 2)),
    ],
)
def test_where_a_packet_is_dropped(chains: dict[str, list[Rule]], policy_drops: bool, where: Drop | None) -> None:
    """Only what is certain is said: a rule that may hold accepts, and does not drop."""
    assert dropped("F", lambda chain: chains.get(chain, []), policy_drops=policy_drops) == where


def test_switches_of_links_with_dots() -> None:
    """As sysctl(8) wants them."""
    assert dotted("ipv4/ip_forward") == "net.ipv4.ip_forward"
    assert dotted("ipv4/conf/eth0.50/rp_filter") == "net.ipv4.conf.eth0/50.rp_filter"


@pytest.mark.parametrize(
    ("listens", "both", "published", "taken"),
    [
        ("0.0.0.0", False, "192.0.2.1", True),
        ("192.0.2.1", False, "0.0.0.0", True),
        ("192.0.2.1", False, "192.0.2.1", True),
        ("127.0.0.53", False, "192.0.2.1", False),
        ("::", True, "192.0.2.1", True),
        ("::", False, "0.0.0.0", False),
        ("fd00::1", True, "0.0.0.0", False),
        ("0.0.0.0", False, "::", False),
        ("::", False, "fd00::1", True),
    ],
)
def test_who_shares_a_port(listens: str, both: bool, published: str, taken: bool) -> None:
    """A program on another address is in nobody's way."""
    port = Port(protocol="tcp", host_address=published, host_port=53, address="10.9.0.2", port=53)
    assert Listener(IPAddress(listens), 53, 1, both).takes(port) is taken
    assert not Listener(IPAddress(listens), 54, 1, both).takes(port)


@pytest.mark.parametrize("both", [False, True])
def test_who_listens(both: bool) -> None:
    """As the kernel tells it."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as one:
        wanted = Listener(IPAddress("::"), one.getsockname()[1], os.fstat(one.fileno()).st_ino, both)
        assert wanted in list(listeners())


#: Somebody else holds a file whose inode number is that of the lock on another file system.
SAME_INODE = """
set -e
mount --make-rprivate /
for one in pynet other; do mkdir $one; mount -t tmpfs tmpfs $one; touch $one/lock; done
[ $(stat -c %i pynet/lock) = $(stat -c %i other/lock) ]
exec 9>other/lock
flock 9
exec "$0" -c "$1"
"""
DAEMON_PID = """
from pathlib import Path
from pynetdriver.doctor import Told
from pynetdriver.doctor.host import Host
print(Host(Told(sockets=[Path("pynet.sock").absolute()], state_dir=Path("/x"))).daemon_pid)
"""


def test_the_holder_of_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "pynet/lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Host(Told(sockets=[tmp_path / "pynet.sock"], state_dir=tmp_path)).daemon_pid == os.getpid()


def test_another_lock_of_that_number(tmp_path: Path) -> None:
    """Inode numbers repeat from file system to file system."""
    command = ("unshare", "--mount", "sh", "-c", SAME_INODE, sys.executable, DAEMON_PID)
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout == "None\n"


def status(**changed: Any) -> dict[str, Any]:
    """Write what a daemon says of itself."""
    return {
        **{"version": "1", "owner": "", "since": 0.0, "sockets": [], "state_dir": "/x", "firewall": "nftables"},
        **{"networks": 1, "endpoints": 0, "ports": 0, "pools": [], "repairs": [], "metrics": []},
        **{"unfinished": [], "unsound": [], **changed},
    }


def host(**changed: Any) -> Host:
    network = Network(
        id=ID,
        name="web",
        backend="b",
        internal=False,
        options={},
        sound=True,
        endpoints=[],
        subnets=[Subnet(pool="10.9.0.0/24")],
    )
    told = Told(sockets=[Path("/x.sock")], state_dir=Path("/x"), status=Status(**status(**changed)), networks=[network])
    return Host(told)


def test_a_check_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with what it failed, and does not hide what others find."""

    def failing(host: Host) -> Iterator[Finding]:
        yield warning("x", "found before", command="true")
        raise KeyError("eth0")

    def working(host: Host) -> Iterator[Finding]:
        yield warning("y", "found after", command="true")

    monkeypatch.setattr(doctor, "_CHECKS", (failing, working))
    before, fault, after = doctor.examine(Told(sockets=[Path("/x.sock")], state_dir=Path("/x")))
    assert (before.check, fault.check, after.check) == ("x", "doctor", "y")
    assert "failing" in fault.what and "KeyError: 'eth0'" in fault.what


def test_a_state_folder_from_here(tmp_path: Path) -> None:
    """Named as from the working directory, of a daemon that does not run."""
    told = Told(sockets=[tmp_path / "pynet.sock"], state_dir=Path("state"))
    assert list(daemon.state_folder(Host(told))) == []


def test_words_in_any_encoding() -> None:
    """As a comment of a rule may be, written long ago."""
    assert run("printf", r"Stra\337e") == "Stra\ufffde"


def test_what_the_daemon_could_not_do() -> None:
    """Networks by the names that users gave them."""
    unsound, unfinished = daemon.soundness(host(unsound=[ID], unfinished=["endpoint:0123456789ab"]))
    assert "network web is not on this host" in unsound.what and unsound.command == "pynet reconcile"
    assert "endpoint:0123456789ab" in unfinished.what and unfinished.command == "pynet reconcile"
    assert not list(daemon.soundness(host()))


def test_full_pools() -> None:
    """Told with the network whose it is."""
    pool = PoolUse(subnet="10.9.0.0/24", space="x", size=253, used=253)
    (finding,) = daemon.pools(host(pools=[pool]))
    assert "network web" in finding.what and finding.command == "docker ps --filter network=web"


Answers = dict[str, tuple[int, Any]]


@contextmanager
def answering(path: Path, answers: Answers) -> Iterator[None]:
    """Serve answers at a Unix socket, as code and body; a body may be a function that gives it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path, (200, []))
            body = body() if callable(body) else body
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "a client"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    path.parent.mkdir(exist_ok=True)
    with ThreadingUnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Listen at a Unix socket, and answer nobody."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        one.listen()
        yield


def examined(folder: Path) -> list[dict[str, Any]]:
    """Run the command beside these sockets; what it finds of the daemon."""
    command = (sys.executable, "-m", "pynetdriver", "doctor", "--json", "--socket", str(folder / "pynet.sock"))
    environment = {**os.environ, "DOCKER_HOST": f"unix://{folder / 'engine.sock'}"}
    out = subprocess.run(command, env=environment, capture_output=True, check=False).stdout
    return [one for one in json.loads(out) if one["check"] in ("daemon", "networks")]


def test_a_network_made_meanwhile(tmp_path: Path) -> None:
    """Between what is asked of daemon and engine; only what the daemon never knows is lost."""
    made = {"id": ID, "backend": "macvlan", "internal": False, "options": {}, "sound": True}
    made |= {"endpoints": [], "subnets": []}
    listed = iter([[], [made]])
    daemon_answers: Answers = {"/status": (200, status()), "/networks": (200, lambda: next(listed))}
    known = [{"Id": id, "Name": name, "Driver": "pynet"} for id, name in ((ID, "fresh"), ("8e" * 32, "old"))]
    with (
        listening(tmp_path / "pynet.sock"),
        answering(tmp_path / "pynet/admin.sock", daemon_answers),
        answering(tmp_path / "engine.sock", {"/networks": (200, known)}),
    ):
        (finding,) = examined(tmp_path)
    assert finding["command"] == "docker network rm old"


@pytest.mark.parametrize(("refused", "command"), [("/networks", "pynet ls"), ("/status", "pynet status")])
def test_a_daemon_that_cannot_say_all(tmp_path: Path, refused: str, command: str) -> None:
    """It is at work, so it is not to be killed; and no network is lost of which it said nothing."""
    answers: Answers = {"/status": (200, status()), "/networks": (200, [])}
    known = [{"Id": ID, "Name": "web", "Driver": "pynet"}] if refused == "/networks" else []
    with (
        listening(tmp_path / "pynet.sock"),
        answering(tmp_path / "pynet/admin.sock", answers | {refused: (500, {"Err": "the disk is full"})}),
        answering(tmp_path / "engine.sock", {"/networks": (200, known)}),
    ):
        (finding,) = examined(tmp_path)
    assert finding["severity"] == "warning" and finding["command"] == command
    assert "the disk is full" in finding["what"]


@pytest.mark.parametrize(("slow", "command"), [("/networks", "pynet ls"), ("/status", "pynet status")])
def test_a_daemon_that_is_slow_to_say_one_thing(tmp_path: Path, slow: str, command: str) -> None:
    answers: Answers = {"/status": (200, status()), "/networks": (200, []), slow: (200, lambda: time.sleep(6))}
    with (
        listening(tmp_path / "pynet.sock"),
        answering(tmp_path / "pynet/admin.sock", answers),
        answering(tmp_path / "engine.sock", {}),
    ):
        (finding,) = examined(tmp_path)
        assert finding["severity"] == "warning" and finding["command"] == command
