"""One engine with pynet beside it and a second machine on its LAN."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.daemon import Daemon
from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.legacy import legacy_rules
from tests.lab.netns import Namespace
from tests.lab.wait import eventually

#: A UDP server that says it is up, then prints what it receives: python3 -c LISTENER ADDRESS PORT SECONDS
LISTENER = (
    "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind((sys.argv[1],int(sys.argv[2])));"
    "print('up',flush=True);s.settimeout(float(sys.argv[3]));print(s.recv(99).decode(),flush=True)"
)
ABSENT = str(Path(__file__).with_name("absent.py"))
FORGE = str(Path(__file__).with_name("forge.py"))
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/lan0/accept_ra")


@dataclass
class Lab:
    """An engine, a daemon and a LAN, with words for what tests do all the time."""

    name: str
    engine: Engine
    lan: Lan
    daemon: Daemon
    baseline: dict[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> Namespace:
        """The host that the engine runs on."""
        return self.engine.netns

    @property
    def neighbour(self) -> Namespace:
        """The second machine."""
        return self.lan.neighbour

    def docker(self, *arguments: str, timeout_s: float = 60) -> str:
        """Run a docker command."""
        return self.engine.docker(*arguments, timeout_s=timeout_s).strip()

    def refused(self, *arguments: str) -> str:
        """Run a docker command that must fail, and return what the user reads."""
        return self.engine.refused(*arguments)

    def network(self, name: str, *arguments: str) -> str:
        """Create a pynet network; returns its id."""
        return self.docker("network", "create", "-d", "pynet", *arguments, name)

    def run(self, name: str, *arguments: str, command: tuple[str, ...] = ("sleep", "3600")) -> None:
        """Start a container that stays."""
        self.docker("run", "-d", "--name", name, "--hostname", name, *arguments, "busybox", *command)

    def web(self, name: str, *arguments: str) -> None:
        """Start a web server on port 80 whose page /hostname is its own name."""
        self.run(name, *arguments, command=("httpd", "-f", "-p", "80", "-h", "/etc"))

    def inside(self, container: str, *command: str) -> str:
        """Run a command in a container."""
        return self.docker("exec", container, *command)

    def pings(self, container: str, target: str) -> bool:
        """Tell whether a container reaches an address or a name."""
        return "1 packets received" in self.engine.docker("exec", container, "ping", "-c1", "-W1", target, check=False)

    def sandbox(self, container: str, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command of this machine in a container's network namespace."""
        key = self.docker("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container)
        namespace = self.engine.machine.path(f"/run/docker/netns/{Path(key).name}")
        return subprocess.Popen(["nsenter", f"--net={namespace}", "--", *command], **options)

    def mac(self, link: str) -> str:
        """The MAC address of one of the host's links."""
        (found,) = [one["address"] for one in self.links() if one["ifname"] == link]
        return str(found)

    def fetches(self, container: str, url: str) -> str | None:
        """Fetch a page from within a container; None if nobody answers within two seconds."""
        page = self.engine.docker("exec", container, "timeout", "2", "wget", "-qO-", url, check=False).strip()
        return page or None

    def page(self, where: Namespace, url: str) -> str | None:
        """Fetch a page from a machine; None if nobody answers within two seconds."""
        # A server that was started just now may not listen yet: it is asked once more if it refuses.
        fetch = 'curl -gsm2 "$0" || { test $? = 7 && sleep 0.5 && curl -gsm2 "$0"; }'
        return where.run("sh", "-c", fetch, url, check=False).strip() or None

    def addresses(self, container: str, network: str) -> dict[str, Any]:
        """What `docker inspect` says of a container on a network."""
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        settings: dict[str, Any] = found["NetworkSettings"]["Networks"][network]
        return settings

    def links(self) -> list[dict[str, Any]]:
        """The host's links."""
        found: list[dict[str, Any]] = json.loads(self.host.run("ip", "-d", "-j", "addr"))
        return found

    def rules(self) -> str:
        """The table of pynet and its chains in legacy tables, empty if there are none."""
        table = self.host.run("nft", "list", "table", "inet", "pynet", check=False)
        # What packets put into a set is no rule.
        return re.sub(r"(set traffic\d {[^{}]*)elements = {[^{}]*}\s*", r"\1", table) + legacy_rules(self.host)

    def flush_rules(self) -> None:
        """Do away with what leads ports into containers."""
        if legacy_rules(self.host):
            self.host.run("iptables-legacy", "-t", "nat", "-F", "PYNET-PUBLISH")
        else:
            self.host.run("nft", "delete", "table", "inet", "pynet")

    def rows(self, *kinds: str) -> list[tuple[str, str]]:
        """Kind and key of what the daemon has stored."""
        with closing(self._store()) as store:
            found = store.execute("SELECT kind, key FROM record").fetchall()
        return [(kind, key) for kind, key in found if not kinds or kind in kinds]

    def host_port(self, container: str, network: str, port: int) -> int:
        """The host port that pynet chose: `docker port` cannot show it for any plugin."""
        endpoint = self.addresses(container, network)["EndpointID"]
        with closing(self._store()) as store:
            (data,) = store.execute(
                "SELECT data FROM record WHERE kind = 'endpoint' AND key = ?", (endpoint,)
            ).fetchone()
        (number,) = {one["host_port"] for one in json.loads(data)["ports"] if one["port"] == port}
        return int(number)

    def _store(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.daemon.state_dir}/pynet.db?mode=ro", uri=True)

    def state(self) -> dict[str, Any]:
        """Everything that pynet may change on the host."""
        tables = {}
        for command in ("iptables", "ip6tables"):
            saved = self.engine.machine.run(f"{command}-save", check=False)
            rules = [line for line in saved.splitlines() if "DOCKER-USER" in line and line.startswith("-A DOCKER-USER")]
            tables[command] = rules
        return {
            "links": sorted(link["ifname"] for link in self.links() if link["ifname"].startswith("pn")),
            "rules": self.rules(),
            "engine's chain": tables,
            "rows": self.rows(),
            "forwarding": [self.host.sysctl(name).strip() for name in FORWARDING],
        }

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill the daemon, and have the engine believe that it agrees to everything meanwhile."""
        self.daemon.kill()
        self.daemon.socket.unlink()
        stand_in = subprocess.Popen([sys.executable, ABSENT, str(self.daemon.socket)], stderr=subprocess.DEVNULL)
        try:
            eventually(self.daemon.socket.exists)
            yield
        finally:
            stand_in.kill()
            stand_in.wait()
            self.daemon.start()

    def clean(self) -> None:
        """Remove all containers and all networks of pynet."""
        containers = self.docker("ps", "-aq").split()
        if containers:
            self.docker("rm", "-f", *containers, timeout_s=180)
        networks = self.docker("network", "ls", "-q", "--filter", "driver=pynet").split()
        if networks:
            self.docker("network", "rm", *networks, timeout_s=180)
