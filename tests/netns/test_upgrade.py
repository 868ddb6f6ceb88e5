"""What version 0.2.0 left on a host with running containers is taken over: its store, links and rules.

`version-0.2.0` holds what that version wrote for a network with two endpoints, one with a published port: its records,
and its rules of either kind.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.netns import Namespace, Plug, connect
from tests.lab.wait import eventually

from .host import NETWORK, Host, endpoint_id, ids, rows, rules

STATE = Path(__file__).with_name("version-0.2.0")
BRIDGE, MAC = f"pn-{NETWORK[:12]}", "02:18:28:54:d3:f7"
#: names.LINK_GROUP, which that version gave its links as well.
GROUP = "28782"
CLIENT, HOST = "192.0.2.2", "192.0.2.1"
ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 80))
while True:
    one, _ = server.accept()
    while data := one.recv(100):
        one.sendall(data)
"""
TALK = """
import socket, sys, time
with socket.create_connection(("192.0.2.1", 8080), 10) as one:
    one.settimeout(10)
    for number in range(10**6):
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        print(number, flush=True)
        time.sleep(0.02)
"""


@pytest.fixture
def old(folder: Path, firewall: str) -> Iterator[tuple[Host, Namespace, Namespace]]:
    """A host as that version left it when it was ended, a container on it, and a machine beside it."""
    host = Host(folder, firewall)
    with host.netns, Namespace() as container, Namespace() as client:
        connect(Plug(host.netns, "lan0", (f"{HOST}/24",)), Plug(client, "eth0", (f"{CLIENT}/24",)))
        _make_links(host.netns, container)
        if firewall == "nftables":
            host.netns.run("nft", "-f", str(STATE / "nftables"))
        else:
            for name in ("iptables", "ip6tables"):
                host.netns.run(f"{name}-legacy-restore", input=(STATE / name).read_text())
        _write_store(host.daemon.state_dir)
        yield host, container, client
        host.daemon.kill()


def _make_links(netns: Namespace, container: Namespace) -> None:
    netns.write_sysctl("net/ipv4/ip_forward", "1")
    netns.write_sysctl("net/ipv6/conf/all/forwarding", "1")
    commands = [f"link add {BRIDGE} address {MAC} mtu 1500 group {GROUP} type bridge"]
    for number, hairpin in ((2, "on"), (3, "off")):
        name, peer = f"pnh{endpoint_id(number)[:12]}", f"pnc{endpoint_id(number)[:12]}"
        commands += [
            f"link add {name} group {GROUP} type veth peer name {peer} address 02:42:0a:09:00:{number:02x}",
            f"link set {name} master {BRIDGE}",
            f"link set {name} type bridge_slave hairpin {hairpin}",
            f"link set {name} up",
        ]
    commands += [
        f"address add 10.9.0.1/24 dev {BRIDGE}",
        f"address add fd00:9::1/64 dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
        f"link set pnc{endpoint_id(2)[:12]} netns {container.name} name eth0",
    ]
    netns.run("ip", "-batch", "-", input="\n".join(commands) + "\n")
    netns.write_sysctl(f"net/ipv6/conf/{BRIDGE}/accept_ra", "0")
    for command in ("address add 10.9.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.9.0.1"):
        container.run("ip", *command.split())


def _write_store(folder: Path) -> None:
    folder.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with sqlite3.connect(folder / "pynet.db") as store:
        store.execute("CREATE TABLE record (kind TEXT, key TEXT, data BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID")
        store.execute("PRAGMA user_version = 1")
        for one in json.loads((STATE / "store.json").read_text()):
            if one["kind"] == "setting":
                one["data"]["boot"] = boot
            data = json.dumps(one["data"], separators=(",", ":")).encode()
            store.execute("INSERT INTO record VALUES (?, ?, ?)", (one["kind"], one["key"], data))
    store.close()


@pytest.mark.parametrize("firewall", ["nftables", "iptables"])
def test_a_host_of_version_0_2_0_is_taken_over(old: tuple[Host, Namespace, Namespace]) -> None:
    """Not a packet of its containers is lost, nothing of it is made again, and all of it can be removed."""
    host, container, client = old
    before, links = rows(host.daemon.state_dir), json.loads(host.netns.run("ip", "-j", "link"))
    with ExitStack() as stack:

        def started(netns: Namespace, *command: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(netns.popen(*command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        started(container, "python3", "-c", ECHO)
        eventually(lambda: ":80 " in container.run("ss", "-ltn"))
        pings, flow = started(container, "ping", "-n", "-i0.05", CLIENT), started(client, "python3", "-c", TALK)
        assert flow.stdout is not None and pings.stdout is not None
        assert flow.stdout.readline() == b"0\n"
        host.daemon.start()
        # So much more after it has written all of its rules.
        for _ in range(60):
            assert flow.stdout.readline()
        pings.send_signal(signal.SIGINT)
        said = pings.stdout.read().decode()
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0])
    assert sent > 10 and received >= sent - 1, said  # the last one may be on its way
    assert json.loads(host.netns.run("ip", "-j", "link")) == links
    after = rows(host.daemon.state_dir)
    assert {key: one for key, one in after.items() if key[0] != "setting"} == {
        key: one for key, one in before.items() if key[0] != "setting"
    }
    assert "[error" not in host.daemon.log
    for number in (2, 3):
        host.ok("Leave", ids(number))
        host.ok("DeleteEndpoint", ids(number))
    host.ok("DeleteNetwork", {"NetworkID": NETWORK})
    assert not [link for link in host.netns.run("ip", "-br", "link").split() if link.startswith("pn")]
    assert "8080" not in rules(host.netns) and "10.9.0" not in rules(host.netns)
    assert host.netns.sysctl("net/ipv4/ip_forward") == "0"
