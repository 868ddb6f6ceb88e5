"""Causes of "it does not work", each made on purpose: something breaks, the doctor names it, its command mends it."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pynetdriver.nlmsg import attribute, message
from tests.lab.ailing import Patient
from tests.lab.lan import Lan
from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually
from tests.vm import kernel

from .host import GENERIC, NETWORK, OTHER, PROGRAM, UNKNOWN, Host, both_firewalls, endpoint, network, port, program
from .inside import inside
from .parents import PARENT, SHIM, container, endpoint_on, on_lan, on_parent, reaches

BRIDGE = "pn-9f9f9f9f9f9f"
CONTAINER4, CONTAINER6 = "10.9.0.2", "fd00:9::2"
SERVER = "import http.server as h;h.ThreadingHTTPServer(('',80),h.SimpleHTTPRequestHandler).serve_forever()"
#: Says that it is up, then waits: python3 -c LISTENER ADDRESS
LISTENER = (
    "import socket,sys,time;s=socket.socket(socket.AF_UNIX);s.bind(sys.argv[1]);s.listen();print('up',flush=True);"
    "time.sleep(99)"
)

#: A router's advertisement (RFC 4861, 4862): default route for 1800 s, addresses in 2001:db8:1::/64.
ROUTER = (
    "import socket,struct;s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,58);"
    "s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_MULTICAST_HOPS,255);"
    "prefix=struct.pack('!BBBBIII',3,4,64,0xc0,3600,3600,0)+socket.inet_pton(socket.AF_INET6,'2001:db8:1::');"
    "s.sendto(struct.pack('!BBHBBHII',134,0,0,64,0,1800,0,0)+prefix,('ff02::1',0,0,socket.if_nametoindex('eth0')))"
)


def remember_flows() -> None:
    """Have the kernel remember as many flows as it may, none of which it lets go before its time (ctnetlink)."""

    def tuple_of(source: bytes, target: bytes, ports: tuple[int, int]) -> bytes:
        addresses = attribute(1, source) + attribute(2, target)
        numbers = attribute(1, b"\x11") + b"".join(attribute(2 + n, struct.pack("!H", ports[n])) for n in (0, 1))
        return attribute(0x8001, addresses) + attribute(0x8002, numbers)

    most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    # Assured, confirmed, replied to; for ten minutes.
    rest = attribute(3, struct.pack("!I", 14)) + attribute(7, struct.pack("!I", 600))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as one:
        orders = []
        for number in range(most):
            here, there = b"\x0a\x63" + struct.pack("!H", number >> 15), b"\x0a\x64\0\1"
            ports = (1 + (number & 0x7FFF), 9)
            body = struct.pack("!BBH", 2, 0, 0) + attribute(0x8001, tuple_of(here, there, ports))
            body += attribute(0x8002, tuple_of(there, here, ports[::-1])) + rest
            orders.append(message(0x100, 0x400, body))
            if len(orders) == 200 or number == most - 1:
                one.send(b"".join(orders))
                orders.clear()


def forget_flows() -> None:
    """Have the kernel forget all flows."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as one:
        one.send(message(0x102, 0, struct.pack("=BBH", 2, 0, 0)))


@dataclass
class Ward:
    """A host on a LAN with a network of pynet's, a container of it, and a doctor."""

    host: Host
    neighbour: Namespace
    sandbox: Namespace
    patient: Patient
    stack: ExitStack

    @property
    def netns(self) -> Namespace:
        return self.host.netns

    def gets_out(self) -> bool:
        """Whether the container reaches the LAN."""
        return reaches(self.sandbox, Lan.NEIGHBOUR4, 1)

    def gets_out_by_ipv6(self) -> bool:
        return reaches(self.sandbox, Lan.NEIGHBOUR6, 1)

    def is_published(self) -> bool:
        """Whether a machine of the LAN reaches the container's port."""
        return bool(self.neighbour.run("curl", "-gsm1", f"http://{Lan.HOST4}:8080/", check=False))

    def is_found(self) -> bool:
        """Whether a call of the engine's gets an answer."""
        try:
            return self.host.daemon.call("NetworkDriver.GetCapabilities", timeout_s=2)[0] == 200
        except (OSError, ValueError):
            return False

    def examine(self) -> list[dict[str, Any]]:
        return self.patient.examine()

    def follow(self, command: str) -> None:
        """Do what the doctor says; a daemon in the foreground ends with the test."""
        *before, last = command.split(" && ")
        if "pynet serve" in last:
            for one in before:
                self.patient.run(one)
            with (self.host.folder / "started.log").open("wb") as log:
                process = self.patient.popen("sh", "-c", f"exec {last}", stdout=log, stderr=log)
            self.stack.callback(process.wait)
            self.stack.callback(process.kill)
        else:
            self.patient.run(command)

    def cured(self, check: str, works: Callable[[], Any], *words: str) -> None:
        """It does not work, the doctor finds just this, and with its commands it works and nothing is found."""
        assert not works()
        findings = self.examine()
        assert {one["check"] for one in findings} == {check}, findings
        said = " ".join(one["what"] for one in findings)
        assert all(word in said for word in words), said
        for one in findings:
            self.follow(one["command"])
        eventually(works, timeout_s=20)
        eventually(lambda: self.examine() == [], timeout_s=10)


@pytest.fixture
def ward(host: Host, folder: Path) -> Iterator[Ward]:
    with ExitStack() as stack:
        neighbour = stack.enter_context(on_lan(host))
        host.ok("CreateNetwork", network(dual=True))
        sandbox = stack.enter_context(container(host, 2, f"{CONTAINER4}/24", f"{CONTAINER6}/64"))
        server = stack.enter_context(sandbox.popen(sys.executable, "-c", SERVER, stderr=subprocess.DEVNULL))
        stack.callback(server.kill)
        host.ok(PROGRAM, program(2, port(8080)))
        # The neighbour answers whoever he is asked by: the host's own address, or a container's.
        neighbour.run("ip", "route", "add", "10.9.0.0/24", "via", Lan.HOST4)
        patient = stack.enter_context(Patient(host.netns, folder, host.daemon.state_dir))
        made = Ward(host, neighbour, sandbox, patient, stack)
        eventually(lambda: made.gets_out() and made.gets_out_by_ipv6() and made.is_published())
        yield made


@pytest.fixture
def stand(host: Host, folder: Path) -> Iterator[Ward]:
    """A network on a parent in place of the bridge, with the host on it."""
    with ExitStack() as stack:
        neighbour = stack.enter_context(on_lan(host))
        host.ok("CreateNetwork", on_parent(host_access="true", aux={"host": "192.0.2.200"}))
        sandbox = stack.enter_context(container(host, 2, "192.0.2.10/24"))
        patient = stack.enter_context(Patient(host.netns, folder, host.daemon.state_dir))
        made = Ward(host, neighbour, sandbox, patient, stack)
        eventually(made.gets_out)
        yield made


@pytest.fixture
def bare(host: Host, folder: Path) -> Iterator[Ward]:
    """A network on a parent, without containers."""
    with ExitStack() as stack:
        neighbour = stack.enter_context(on_lan(host))
        host.ok("CreateNetwork", on_parent())
        patient = stack.enter_context(Patient(host.netns, folder, host.daemon.state_dir))
        yield Ward(host, neighbour, neighbour, patient, stack)


@both_firewalls
def test_nothing_is_wrong_with_a_healthy_host(ward: Ward) -> None:
    """Neither with nor without networks, of both kinds."""
    assert ward.examine() == []
    ward.host.ok("CreateNetwork", on_parent(OTHER, host_access="true", aux={"host": "192.0.2.200"}))
    with container(ward.host, 3, "192.0.2.10/24", network_id=OTHER):
        assert ward.examine() == []
        text = ward.patient.popen("pynet", "doctor", stdout=subprocess.PIPE).communicate()[0]
    assert text == b"nothing is wrong with what was looked at\n", "there is no engine"


def test_a_healthy_host_without_networks(host: Host, folder: Path) -> None:
    """Nothing at all is needed then."""
    with Patient(host.netns, folder, host.daemon.state_dir) as patient:
        assert patient.examine() == []


def test_it_is_quick(ward: Ward) -> None:
    """Below two seconds, with hundreds of containers, and of that the interpreter's start is a good part."""
    for number in range(3, 203):
        ward.host.ok("CreateEndpoint", endpoint(number))
    process = ward.patient.popen("sh", "-c", "time -p pynet doctor", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    _, user, system = process.communicate()[1].decode().splitlines()[-3:]
    # Of the processor, since others may want it too.
    assert float(user.split()[1]) + float(system.split()[1]) < 1.5


def test_used_wrongly(ward: Ward) -> None:
    process = ward.patient.popen("pynet", "doctor", "--jsno", stderr=subprocess.DEVNULL)
    assert process.wait() == 2


class TestDaemon:
    def test_killed(self, ward: Ward) -> None:
        """Its socket is still there."""
        ward.host.daemon.kill()
        ward.cured("daemon", ward.is_found, "nobody serves it")

    def test_not_running(self, ward: Ward) -> None:
        ward.host.daemon.stop()
        ward.cured("daemon", ward.is_found, "is not running")

    def test_stopped(self, ward: Ward) -> None:
        """It listens, and answers nobody."""
        assert ward.host.daemon.pid is not None
        ward.host.netns.run("kill", "-STOP", str(ward.host.daemon.pid))
        ward.cured("daemon", ward.is_found, "stopped it")

    def test_another_program_has_the_socket(self, ward: Ward) -> None:
        ward.host.daemon.stop()
        with ward.netns.popen(
            sys.executable, "-c", LISTENER, str(ward.host.daemon.socket), stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None and other.stdout.readline() == b"up\n"
            ward.cured("daemon", ward.is_found, "it is not pynet", str(other.pid))

    def test_socket_removed(self, ward: Ward) -> None:
        ward.host.daemon.socket.unlink()
        ward.cured("daemon", ward.is_found, "removed its socket")

    def test_a_file_names_another_address(self, ward: Ward) -> None:
        """The engine reads it if there is no socket of the name; pynet serves elsewhere."""
        sock, empty = ward.host.daemon.socket, ward.host.folder / "empty"
        empty.mkdir()
        with Patient(ward.netns, empty, ward.host.daemon.state_dir) as patient:
            examine = ("--socket", str(sock))
            (finding,) = patient.examine(*examine)
            assert finding["check"] == "name" and "`-d pynet` is not found" in finding["what"]
            patient.run(finding["command"])
            assert patient.examine(*examine) == []
            patient.run("echo unix:///run/elsewhere.sock >/etc/docker/plugins/pynet.spec")
            (finding,) = patient.examine(*examine)
            assert finding["check"] == "name" and "/run/elsewhere.sock" in finding["what"]
            patient.run(finding["command"])
            assert patient.examine(*examine) == []
            assert patient.run("cat /etc/docker/plugins/pynet.spec") == f"unix://{sock}\n"

    def test_of_another_version(self, ward: Ward) -> None:
        """After an upgrade the old one goes on."""
        ward.host.daemon.stop()
        with tempfile.TemporaryDirectory() as name:
            shutil.copytree(Path(__file__).parents[2] / "pynetdriver", Path(name) / "pynetdriver")
            (Path(name) / "pynetdriver/__init__.py").write_text('__version__ = "0.0.1"\n')
            old = ("env", f"PYTHONPATH={name}", sys.executable, "-P", "-m", "pynetdriver", "serve")
            daemon = ward.netns.popen(
                *old,
                *("--socket", str(ward.host.daemon.socket), "--state-dir", str(ward.host.daemon.state_dir)),
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
            # It has nothing compiled.
            eventually(ward.is_found, timeout_s=60)
            (finding,) = ward.examine()
            assert finding["check"] == "version" and "0.0.1" in finding["what"]
            ward.follow(finding["command"])
            assert daemon.wait(20) == 0
            eventually(lambda: ward.examine() == [])

    def test_no_root(self, ward: Ward) -> None:
        """Others than root cannot even see."""
        examine = (
            "import os; from pathlib import Path; from pynetdriver.doctor import *; os.seteuid(65534);"
            "print(examine(Told(sockets=[Path('/x.sock')], state_dir=Path('/x')))[0].command)"
        )
        out = ward.patient.popen(sys.executable, "-c", examine, stdout=subprocess.PIPE).communicate()[0]
        assert out == b"sudo pynet doctor\n"


class TestState:
    @pytest.fixture
    def disk(self, host: Host, folder: Path) -> Iterator[Patient]:
        """The daemon's state is on a file system of its own, as the administrator sees it."""
        host.daemon.kill()
        with on_lan(host), Patient(host.netns, folder, host.daemon.state_dir) as patient:
            patient.run(f"mount -t tmpfs -o size=1M,mode=0700 tmpfs {host.daemon.state_dir}")
            host.daemon.before = patient.room
            host.daemon.start()
            yield patient

    def test_read_only(self, disk: Patient, host: Host) -> None:
        """As after an error of the disk: pynet does not start."""
        host.daemon.kill()
        disk.run(f"mount -o remount,ro {host.daemon.state_dir}")
        with pytest.raises(RuntimeError, match="ended with 1"):
            host.daemon.start()
        state, daemon = sorted(disk.examine(), key=lambda one: str(one["check"]), reverse=True)
        assert (state["check"], daemon["check"]) == ("state", "daemon") and "read-only" in state["what"]
        disk.run(state["command"])
        host.daemon.start()
        assert disk.examine() == []

    def test_full(self, disk: Patient, host: Host) -> None:
        disk.run(f"cat /dev/zero >{host.daemon.state_dir}/large || true")
        host.refused("CreateNetwork", network())
        (finding,) = disk.examine()
        assert finding["check"] == "state" and "full" in finding["what"]
        assert "100%" in disk.run(finding["command"])
        host.restart()  # with nothing to write
        assert host.call("NetworkDriver.GetCapabilities", {})[0] == 200
        host.refused("CreateNetwork", network())
        disk.run(f"rm {host.daemon.state_dir}/large")
        host.ok("CreateNetwork", network())
        assert disk.examine() == []


class TestKernel:
    def test_forwarding_is_off(self, ward: Ward) -> None:
        ward.netns.write_sysctl("net/ipv4/ip_forward", "0")
        ward.cured("forwarding", ward.gets_out, "IPv4")
        assert ward.is_published()

    def test_ipv6_forwarding_is_off(self, ward: Ward) -> None:
        ward.netns.write_sysctl("net/ipv6/conf/all/forwarding", "0")
        ward.cured("forwarding", ward.gets_out_by_ipv6, "IPv6")

    def test_a_link_does_not_forward(self, ward: Ward) -> None:
        ward.netns.write_sysctl(f"net/ipv4/conf/{PARENT}/forwarding", "0")
        ward.cured("forwarding", ward.gets_out, PARENT)

    def test_ipv6_is_disabled(self, ward: Ward) -> None:
        """pynet keeps it on its own links; the way out is the host's."""
        ward.netns.write_sysctl("net/ipv6/conf/all/disable_ipv6", "1")
        assert not ward.gets_out_by_ipv6()
        (finding,) = ward.examine()
        assert finding["check"] == "ipv6-disabled"
        ward.follow(finding["command"])
        ward.netns.run("ip", "address", "add", f"{Lan.HOST6}/64", "dev", PARENT, "nodad")
        ward.netns.run("ip", "route", "add", "default", "via", Lan.NEIGHBOUR6)
        eventually(ward.gets_out_by_ipv6)
        assert ward.examine() == []

    def test_advertisements_are_not_heard(self, ward: Ward) -> None:
        """A host that forwarded already when its link came up takes no default route from the router."""
        ward.netns.run("ip", "-6", "route", "del", "default")
        ward.netns.run("ip", "-6", "address", "flush", "dev", PARENT, "scope", "global")
        ward.netns.write_sysctl(f"net/ipv6/conf/{PARENT}/accept_ra", "2")
        ward.neighbour.run("ip", "address", "add", "fe80::2/64", "dev", "eth0", "nodad")

        ward.neighbour.run("ip", "address", "add", "2001:db8:9::1/128", "dev", "lo")

        def advertise() -> bool:
            ward.neighbour.run(sys.executable, "-c", ROUTER)
            return reaches(ward.sandbox, "2001:db8:9::1", 1)

        ward.neighbour.run("ip", "-6", "route", "add", "fd00:9::/64", "via", "fe80::1", "dev", "eth0")
        eventually(advertise)
        assert ward.examine() == []
        ward.netns.write_sysctl(f"net/ipv6/conf/{PARENT}/accept_ra", "1")
        ward.netns.run("ip", "-6", "route", "del", "default")
        ward.cured("router-advertisements", advertise, PARENT)

    def test_the_table_of_connections_is_full(self, ward: Ward) -> None:
        """The kernel has one limit for all namespaces, so it is the table that is filled, and emptied."""
        inside(ward.netns, remember_flows)
        assert not ward.is_published()
        (finding,) = ward.examine()
        assert finding["check"] == "connections"
        assert finding["command"] == "sysctl -w net.netfilter.nf_conntrack_max=524288"
        inside(ward.netns, forget_flows)
        eventually(ward.is_published)
        assert ward.examine() == []

    def test_a_strict_reverse_path(self, ward: Ward) -> None:
        """A client comes in by the second way out, and the way back to it is the first."""
        with Namespace() as far:
            connect(Plug(ward.netns, "wan1", ("198.51.100.1/24",)), Plug(far, "eth0", ("198.51.100.2/24",)))
            far.run("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
            far.run("ip", "route", "add", "default", "via", "198.51.100.1")
            ward.neighbour.run("ip", "route", "add", "203.0.113.1/32", "via", Lan.HOST4)
            far.run("ping", "-c1", "198.51.100.1")
            ward.netns.write_sysctl("net/ipv4/conf/wan1/rp_filter", "1")
            ward.netns.run("ip", "route", "add", "default", "via", "198.51.100.2", "metric", "500")
            sends = ("ping", "-c1", "-W1", "-I", "203.0.113.1", "198.51.100.1")

            def arrives() -> bool:
                before = _echoes(ward.netns)
                far.run(*sends, check=False)
                return _echoes(ward.netns) > before

            ward.cured("reverse-path", arrives, "wan1")

    def test_a_strict_reverse_path_that_was_right(self, ward: Ward) -> None:
        """What it dropped since the start of the host says nothing if no link's own side is reached by another."""
        with Namespace() as far:
            connect(Plug(ward.netns, "wan1", ("198.51.100.1/24",)), Plug(far, "eth0", ("198.51.100.2/24",)))
            far.run("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
            for link in ("wan1", PARENT):
                ward.netns.write_sysctl(f"net/ipv4/conf/{link}/rp_filter", "1")
            far.run("ping", "-c1", "198.51.100.1")
            far.run("ping", "-c1", "-W1", "-I", "203.0.113.1", "198.51.100.1", check=False)
            dropped = ward.netns.run("nstat", "-asz", "TcpExtIPReversePathFilter").split()[-2]
            assert int(dropped) > 0 and ward.examine() == []


def _echoes(netns: Namespace) -> int:
    lines = [line.split() for line in netns.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Icmp:")]
    return int(lines[1][lines[0].index("InEchos")])


class TestFirewall:
    def test_asleep(self, ward: Ward) -> None:
        """Somebody had pynet's table sleep while pynet was away, which wakes it up when it comes."""
        ward.host.daemon.kill()
        ward.netns.run("nft", "add table inet pynet { flags dormant; }")
        assert not ward.is_published()
        found = {one["check"]: one for one in ward.examine()}
        assert set(found) == {"daemon", "own-rules"} and "dormant" in found["own-rules"]["what"]
        ward.follow(found["own-rules"]["command"])
        eventually(ward.is_published)
        assert {one["check"] for one in ward.examine()} == {"daemon"}

    @both_firewalls
    def test_rules_are_gone(self, ward: Ward) -> None:
        """While pynet runs they are back at once."""
        ward.host.daemon.kill()
        ward.host.flush_rules()
        assert not ward.is_published()
        found = {one["check"]: one for one in ward.examine()}
        assert set(found) == {"daemon", "own-rules"}
        ward.follow(found["own-rules"]["command"] + f" --firewall {ward.host.firewall}")
        eventually(ward.is_published)
        eventually(lambda: ward.examine() == [])

    @pytest.mark.parametrize("kind", ["nft", "legacy"])
    @pytest.mark.parametrize("chain", ["DOCKER-USER", "FORWARD"])
    def test_rules_beside_the_engines_are_gone(self, ward: Ward, kind: str, chain: str) -> None:
        """Flushed while pynet was away, which puts its own back when it comes."""
        _engine_rules(ward, kind)
        ward.host.daemon.kill()
        for command in (f"iptables-{kind}", f"ip6tables-{kind}"):
            ward.netns.run(command, "-F", chain)
        assert not ward.gets_out() and not ward.is_published() and not ward.gets_out_by_ipv6()
        findings = [one for one in ward.examine() if one["check"] != "daemon"]
        assert [one["check"] for one in findings] == ["engine-rules"] * 2 and chain in findings[0]["what"]
        for one in findings:
            ward.follow(one["command"])
        assert ward.gets_out() and ward.is_published() and ward.gets_out_by_ipv6()
        assert [one["check"] for one in ward.examine()] == ["daemon"]

    def test_the_engines_chains_were_flushed(self, ward: Ward) -> None:
        """Its policy stays: only a start of the engine helps."""
        ward.netns.run("ip", "link", "add", "docker0", "up", "type", "bridge")
        ward.netns.run("iptables-nft", "-P", "FORWARD", "DROP")
        assert not ward.gets_out()
        (finding,) = ward.examine()
        assert (finding["check"], finding["command"]) == ("engine-rules", "systemctl restart docker")

    def test_the_engine_went_over_to_nftables(self, ward: Ward) -> None:
        """It leaves the policy that it set before, which a start of it does not change; pynet opens nothing itself."""
        ward.netns.run("ip", "link", "add", "docker0", "up", "type", "bridge")
        ward.netns.run("nft", "add table ip docker-bridges; add chain ip docker-bridges filter-FORWARD")
        ward.netns.run("iptables-nft", "-P", "FORWARD", "DROP")
        assert not ward.gets_out()
        (finding,) = ward.examine()
        assert (finding["check"], finding["command"]) == ("engine-rules", "iptables-nft -P FORWARD ACCEPT")
        ward.follow(finding["command"])
        eventually(ward.gets_out)

    def test_the_other_kind_of_iptables_drops(self, ward: Ward) -> None:
        """The engine's rules are in nftables, and somebody's policy is in the legacy tables."""
        _engine_rules(ward, "nft")
        eventually(ward.gets_out)
        ward.netns.run("iptables-legacy", "-P", "FORWARD", "DROP")
        ward.cured("other-rules", lambda: ward.gets_out() and ward.is_published(), "iptables-legacy", "both judge")

    def test_a_rule_before_the_engines(self, ward: Ward) -> None:
        _engine_rules(ward, "nft")
        ward.netns.run("iptables-nft", "-I", "FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "REJECT")
        ward.cured(
            "other-rules",
            lambda: ward.gets_out() and ward.is_published(),
            "rule 1 of the chain FORWARD",
            "--ctstate NEW",
        )

    @pytest.mark.parametrize("adopted", [False, True])
    def test_a_policy_in_nftables(self, ward: Ward, adopted: bool) -> None:
        """As in a firewall by the book of the distribution; bridges of others are named by their name."""
        if adopted:
            _adopt(ward)
        ward.netns.run("nft", "-f", "-", input=DENYING)
        assert not ward.is_published()
        ward.cured("other-rules", lambda: ward.gets_out() and ward.gets_out_by_ipv6(), "inet filter forward")
        assert ward.is_published()

    def test_a_reject_at_the_end(self, ward: Ward) -> None:
        """As firewalld has it: by zones, with a reject for what no zone accepts."""
        ward.netns.run("nft", "-f", "-", input=ZONES.replace("TABLE", "zones"))
        ward.cured("other-rules", lambda: ward.gets_out() and ward.gets_out_by_ipv6(), "inet zones FORWARD")
        ward.netns.run("nft", "delete", "table", "inet", "zones")
        ward.netns.run("nft", "-f", "-", input=ZONES.replace("TABLE", "firewalld"))
        (finding,) = ward.examine()
        assert finding["command"].startswith(f"firewall-cmd --permanent --zone=trusted --add-interface={BRIDGE}")

    def test_rules_that_let_pass_are_no_finding(self, ward: Ward) -> None:
        """Denying firewalls that know what they do, and tables that sleep."""
        ward.netns.run("nft", "-f", "-", input=DENYING)
        ward.netns.run(
            "nft", "insert rule inet filter forward iifname vmap { pn-9f9f9f9f9f9f : accept, lan0 : accept }"
        )
        ward.netns.run("nft", "-f", "-", input=DENYING.replace("filter {", "slept {\n flags dormant"))
        assert ward.gets_out() and ward.is_published()
        assert ward.examine() == []

    def test_bridged_packets_are_judged_too(self, ward: Ward) -> None:
        """With br_netfilter a firewall drops what containers of one network send to each other."""
        ward.host.ok("CreateNetwork", network(OTHER, 7, internal=True))
        with (
            container(ward.host, 3, "10.7.0.3/24", network_id=OTHER) as one,
            container(ward.host, 4, "10.7.0.4/24", network_id=OTHER),
        ):
            eventually(lambda: reaches(one, "10.7.0.4", 1))
            ward.netns.write_sysctl("net/bridge/bridge-nf-call-iptables", "1")
            ward.netns.run("nft", "-f", "-", input=DENYING)
            for way in ("iifname", "oifname"):
                ward.netns.run("nft", "insert", "rule", "inet", "filter", "forward", way, BRIDGE, "accept")
            ward.cured("other-rules", lambda: reaches(one, "10.7.0.4", 1), "br_netfilter")

    def test_no_iptables(self, ward: Ward) -> None:
        """It is needed beside an engine."""
        _engine_rules(ward, "nft")
        real = ward.patient.run("readlink -f $(command -v iptables-nft)").strip()
        ward.patient.run(f"mount --bind /dev/null {real}")
        (finding,) = (one for one in ward.examine() if one["check"] == "commands")
        assert "iptables-nft" in finding["what"]
        assert finding["command"] == "apt-get install --reinstall iptables"
        ward.patient.run(f"umount {real}")
        assert "commands" not in {one["check"] for one in ward.examine()}

    def test_no_libnftables(self, ward: Ward) -> None:
        library = ward.patient.run("ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p'").strip()
        ward.netns.run("nft", "-f", "-", input=DENYING)
        ward.patient.run(f"mount --bind /dev/null {library}")
        found = {one["check"]: one for one in ward.examine()}
        # Nor are rules judged that cannot be read.
        assert "libnftables1" in found["commands"]["command"] and "other-rules" not in found
        ward.patient.run(f"umount {library}")
        ward.netns.run("nft", "delete", "table", "inet", "filter")
        assert ward.examine() == []


class TestParent:
    """What a network on a parent needs of it."""

    def test_down(self, stand: Ward) -> None:
        stand.netns.run("ip", "link", "set", PARENT, "down")
        assert not stand.gets_out()
        assert [one["check"] for one in stand.examine()] == ["parent"]
        stand.cured("parent", stand.gets_out, "is down")

    def test_another_name(self, stand: Ward) -> None:
        """As after an update that names links otherwise; new containers do not start."""
        stand.netns.run("ip", "link", "set", PARENT, "down")
        stand.netns.run("ip", "link", "set", PARENT, "name", "enp1s0")
        stand.netns.run("ip", "link", "set", "enp1s0", "up")
        assert "lan0" in stand.host.refused("CreateEndpoint", endpoint_on(3, address4="192.0.2.11/24"))
        (finding,) = stand.examine()
        assert finding["check"] == "parent" and "not on this host" in finding["what"]
        stand.follow(finding["command"])
        stand.host.ok("CreateEndpoint", endpoint_on(3, address4="192.0.2.11/24"))
        assert stand.examine() == []

    def test_port_of_a_bridge(self, bare: Ward) -> None:
        """Somebody put it into a bridge while no container was there."""
        bare.netns.run("ip", "link", "add", "br0", "up", "type", "bridge")
        bare.netns.run("ip", "link", "set", PARENT, "master", "br0")
        call = endpoint_on(3, address4="192.0.2.11/24")
        bare.host.refused("CreateEndpoint", call)
        (finding,) = bare.examine()
        assert finding["check"] == "parent" and "a port of br0" in finding["what"]
        bare.follow(finding["command"])
        bare.host.ok("CreateEndpoint", call)
        assert bare.examine() == []

    def test_nothing_at_the_other_end(self, stand: Ward) -> None:
        stand.neighbour.run("ip", "link", "set", "eth0", "down")
        assert not stand.gets_out()
        (finding,) = stand.examine()
        assert finding["check"] == "parent" and "no carrier" in finding["what"]
        assert "NO-CARRIER" in stand.patient.run(finding["command"])
        stand.neighbour.run("ip", "link", "set", "eth0", "up")
        eventually(stand.gets_out)
        eventually(lambda: stand.examine() == [])

    def test_a_bridge_whose_port_is_down(self, bare: Ward) -> None:
        """The parent is up, and what it stands on is not."""
        bare.netns.run("ip", "link", "add", "br0", "up", "type", "bridge")
        connect(Plug(bare.netns, "port0"), Plug(bare.neighbour, "eth1", ("198.51.100.2/24",)))
        bare.netns.run("ip", "link", "set", "port0", "master", "br0")
        eventually(lambda: "LOWER_UP" in bare.netns.run("ip", "link", "show", "br0"))
        bare.host.ok("CreateNetwork", on_parent(OTHER, "198.51.100.0/24", parent="br0"))
        with container(bare.host, 3, "198.51.100.3/24", network_id=OTHER) as sandbox:
            eventually(lambda: reaches(sandbox, "198.51.100.2", 1))
            bare.netns.run("ip", "link", "set", "port0", "down")
            bare.cured("parent", lambda: reaches(sandbox, "198.51.100.2", 1), "port0 below it is down")

    def test_nobody_is_at_the_gateway(self, bare: Ward) -> None:
        """A network whose --gateway was forgotten has the subnet's first address, which the LAN's router has not."""
        bare.host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        for gateway, wrong in (("192.0.2.2", False), ("192.0.2.254", True)):
            bare.host.ok("CreateNetwork", on_parent(gateways=(gateway, "")))
            found = [(one["check"], "--gateway 192.0.2.2," in one["what"]) for one in bare.examine()]
            assert found == [("gateway", True)] * wrong
            bare.host.ok("DeleteNetwork", {"NetworkID": NETWORK})

    def test_a_smaller_mtu(self, bare: Ward) -> None:
        bare.host.ok("DeleteNetwork", {"NetworkID": NETWORK})
        bare.host.ok("CreateNetwork", on_parent(mtu="1400"))
        assert bare.examine() == []
        bare.netns.run("ip", "link", "set", PARENT, "mtu", "1300")
        call = endpoint_on(3, address4="192.0.2.11/24")
        bare.host.refused("CreateEndpoint", call)
        (finding,) = bare.examine()
        assert finding["check"] == "mtu" and "do not start" in finding["what"]
        bare.follow(finding["command"])
        bare.host.ok("CreateEndpoint", call)
        assert bare.examine() == []

    def test_the_route_by_the_hosts_link_was_replaced(self, stand: Ward) -> None:
        def reached() -> bool:
            return reaches(stand.netns, "192.0.2.10", 1)

        eventually(reached)
        stand.netns.run("ip", "route", "replace", "192.0.2.10", "dev", PARENT)
        stand.cured("routes", reached, SHIM)

    def test_the_route_by_the_hosts_link_is_shadowed(self, stand: Ward) -> None:
        """Its own is gone, and the LAN's covers it."""

        def reached() -> bool:
            return reaches(stand.netns, "192.0.2.10", 1)

        stand.host.daemon.kill()
        stand.netns.run("ip", "route", "del", "192.0.2.10", "dev", SHIM)
        assert not reached()
        stand.host.daemon.start()
        eventually(reached)
        assert stand.examine() == []


class TestLinks:
    def test_adopted_bridge_is_down(self, ward: Ward) -> None:
        """pynet brings it up for the next container; those that are there wait."""
        _adopt(ward)
        with container(ward.host, 3, "10.7.0.3/24", network_id=OTHER) as sandbox:
            eventually(lambda: reaches(sandbox, Lan.NEIGHBOUR4, 1))
            assert ward.examine() == []
            ward.netns.run("ip", "link", "set", "br7", "down")
            ward.cured("adopted", lambda: reaches(sandbox, Lan.NEIGHBOUR4, 1), "br7", "is down")

    def test_adopted_bridge_is_gone(self, ward: Ward) -> None:
        """pynet waits for who made it."""
        _adopt(ward)
        ward.netns.run("ip", "link", "delete", "br7")
        assert "br7" in ward.host.refused("CreateEndpoint", endpoint(3, OTHER, 7))
        found = {one["check"]: one for one in ward.examine()}
        assert found.keys() <= {"adopted", "networks"} and "not on this host" in found["adopted"]["what"]
        ward.follow(found["adopted"]["command"])
        eventually(lambda: ward.examine() == [])
        ward.host.ok("CreateEndpoint", endpoint(3, OTHER, 7))

    @pytest.mark.skipif(not kernel.lacks("ipvlan"), reason="this kernel has all kinds of links")
    def test_kernel_without_the_kind(self, bare: Ward) -> None:
        """The state is from another kernel, which had it."""
        bare.host.daemon.kill()
        with closing(sqlite3.connect(bare.host.daemon.state_dir / "pynet.db")) as store, store:
            store.execute(
                "UPDATE record SET data = CAST(replace(data, 'macvlan', 'ipvlan') AS BLOB) WHERE kind = 'network'"
            )
        bare.host.daemon.start()
        assert "kernel" in bare.host.refused("CreateEndpoint", endpoint_on(3, address4="192.0.2.11/24"))
        found = {one["check"]: one for one in bare.examine()}
        assert found.keys() <= {"kernel", "networks"} and found["kernel"]["command"] == "modprobe ipvlan"

    @pytest.mark.parametrize("what", [BRIDGE, "pnh000200020002"])
    def test_own_link_is_down(self, ward: Ward, what: str) -> None:
        """While pynet is away; else it is up again at once."""
        ward.host.daemon.kill()
        ward.netns.run("ip", "link", "set", what, "down")
        assert not ward.gets_out()
        found = {one["check"]: one for one in ward.examine()}
        assert set(found) == {"daemon", "own-links"} and what in found["own-links"]["what"]
        ward.follow(found["own-links"]["command"])
        eventually(ward.gets_out)
        assert {one["check"] for one in ward.examine()} == {"daemon"}

    def test_own_link_is_in_no_bridge(self, ward: Ward) -> None:
        ward.host.daemon.kill()
        ward.netns.run("ip", "link", "set", "pnh000200020002", "nomaster")
        assert not ward.gets_out()
        found = {one["check"]: one for one in ward.examine()}
        assert set(found) == {"daemon", "own-links"} and "in no bridge" in found["own-links"]["what"]
        ward.follow(found["own-links"]["command"])
        eventually(ward.gets_out)
        eventually(lambda: ward.examine() == [])

    def test_the_way_out_is_narrower(self, ward: Ward) -> None:
        """What does not fit is refused to who asks not to cut it up, and he is told by ICMP alone."""

        def large_fits() -> bool:
            ward.sandbox.run("ip", "route", "flush", "cache")
            return ", 1 received" in ward.sandbox.run(
                "ping", "-c1", "-W1", "-Mdo", "-s1400", Lan.NEIGHBOUR4, check=False
            )

        ward.netns.run("ip", "link", "set", PARENT, "mtu", "1400")
        assert not large_fits()
        (finding,) = ward.examine()
        assert finding["check"] == "mtu" and PARENT in finding["what"]
        remove, make = finding["command"].split(" && ")
        assert remove.startswith("docker network rm") and "-o mtu=1400" in make and "--subnet 10.9.0.0/24" in make
        ward.netns.run("ip", "link", "set", PARENT, "mtu", "1500")
        assert large_fits() and ward.examine() == []

    def test_a_narrower_way_out_that_is_not_in_use(self, ward: Ward) -> None:
        """As a VPN's, that stands by."""
        ward.netns.run("ip", "link", "add", "tun7", "mtu", "1400", "up", "type", "bridge")
        ward.netns.run("ip", "address", "add", "198.51.100.1/24", "dev", "tun7")
        ward.netns.run("ip", "route", "add", "default", "via", "198.51.100.2", "dev", "tun7", "metric", "500")
        assert ward.examine() == []


class TestAddresses:
    def test_a_route_to_the_subnet_came_later(self, ward: Ward) -> None:
        """As a VPN brings it."""
        ward.netns.run("ip", "link", "add", "tun7", "up", "type", "bridge")
        ward.netns.run("ip", "route", "add", "10.9.0.0/25", "dev", "tun7")
        ward.cured("routes", lambda: ward.gets_out() and ward.is_published(), "10.9.0.0/25", "tun7")

    def test_an_address_of_the_hosts(self, ward: Ward) -> None:
        ward.netns.run("ip", "address", "add", f"{CONTAINER4}/32", "dev", PARENT)
        ward.cured("addresses", lambda: ward.gets_out() and ward.is_published(), CONTAINER4)

    def test_no_default_route(self, ward: Ward) -> None:
        ward.neighbour.run("ip", "address", "add", "203.0.113.1/32", "dev", "lo")
        ward.netns.run("ip", "route", "del", "default", "via", Lan.NEIGHBOUR4)
        assert not reaches(ward.sandbox, "203.0.113.1", 1)
        (finding,) = ward.examine()
        assert finding["check"] == "default-route" and PARENT in finding["command"]
        ward.follow(finding["command"].replace("ROUTER", Lan.NEIGHBOUR4))
        assert reaches(ward.sandbox, "203.0.113.1", 1)
        assert ward.examine() == []

    def test_a_published_port_is_taken(self, ward: Ward) -> None:
        """By a program that came while pynet was away; it wonders why nobody comes."""
        ward.host.daemon.kill()
        serving = "import socket,time;s=socket.create_server(('0.0.0.0',8080));print('up',flush=True);time.sleep(99)"
        with ward.netns.popen(sys.executable, "-c", serving, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None and other.stdout.readline() == b"up\n"
            ward.host.daemon.start()
            (finding,) = ward.examine()
            assert finding["check"] == "ports" and finding["command"] == f"kill {other.pid}"
            ward.follow(finding["command"])
        assert ward.is_published()
        eventually(lambda: ward.examine() == [])


def _may_raise_limits() -> bool:
    """Whether root has CAP_SYS_RESOURCE here (linux/capability.h), which in containers it has not."""
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(status["CapEff"], 16) >> 24 & 1)


class TestLimits:
    def test_too_few_files(self, ward: Ward) -> None:
        """Without the right to raise its limit the daemon has what it was given."""
        ward.host.daemon.kill()
        ward.host.daemon.before = (
            *("prlimit", "--nofile=60:60", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"),
        )
        ward.host.daemon.start()
        calls = []
        for number in range(3, 30):
            ward.host.attach(number, dual=True)
            calls.append(program(number, port(9000 + number)))
            if ward.host.call(PROGRAM, calls[-1])[0] != 200:
                break
        # The daemon may have none left to look into containers for an answer, either.
        (finding,) = (one for one in ward.examine() if one["check"] != "daemon")
        assert finding["check"] == "descriptors"
        assert finding["command"] == f"prlimit --pid {ward.host.daemon.pid} --nofile=1048576:1048576"
        if _may_raise_limits():
            ward.follow(finding["command"])
        else:
            ward.host.daemon.kill()
            ward.host.daemon.before = ()
            ward.host.daemon.start()
        ward.host.ok(PROGRAM, calls[-1])
        assert ward.examine() == []

    def test_all_addresses_are_in_use(self, ward: Ward) -> None:
        pool = ward.host.ok(
            "IpamDriver.RequestPool", {"AddressSpace": "pynet-local", "Pool": "10.8.0.0/30", "V6": False}
        )
        request = {"PoolID": pool["PoolID"], "Address": "", "Options": {}}
        given = ward.host.ok("IpamDriver.RequestAddress", request)["Address"]
        assert ward.examine() == []
        ward.host.ok("IpamDriver.RequestAddress", request)
        ward.host.refused("IpamDriver.RequestAddress", request)
        (finding,) = ward.examine()
        assert finding["check"] == "pools" and finding["command"].startswith("docker ps")
        ward.host.ok("IpamDriver.ReleaseAddress", {"PoolID": pool["PoolID"], "Address": given.partition("/")[0]})
        assert ward.examine() == []


#: Drops what it does not know, as /etc/nftables.conf of many hosts does.
DENYING = """
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "wg0" oifname { "eth0", "eth1" } accept
    tcp dport 22 accept
  }
}
"""
ZONES = """
table inet TABLE {
  chain public { jump pre; jump post; meta l4proto { icmp, ipv6-icmp } accept; }
  chain pre { }
  chain post { }
  chain by_zone { iifname "eth0" goto public; goto public; }
  chain FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    ct state vmap { invalid : drop }
    jump by_zone
    reject with icmpx admin-prohibited
  }
}
""".replace("meta l4proto { icmp, ipv6-icmp } accept;", "")


def _adopt(ward: Ward) -> None:
    """Make a network on a bridge of somebody else's."""
    ward.netns.run("ip", "link", "add", "br7", "up", "type", "bridge")
    named = {GENERIC: {"com.docker.network.bridge.name": "br7"}}
    ward.host.ok("CreateNetwork", {**network(OTHER, 7), "Options": named})
    ward.neighbour.run("ip", "route", "replace", "10.7.0.0/24", "via", Lan.HOST4)


def _engine_rules(ward: Ward, kind: str) -> None:
    """Write what an engine writes, as far as it matters to others, and have pynet find it."""
    for command in (f"iptables-{kind}", f"ip6tables-{kind}"):
        for rule in ("-N DOCKER-USER", "-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"):
            ward.netns.run(command, *rule.split())
    ward.host.ok("CreateNetwork", network(UNKNOWN, 5, internal=True))
