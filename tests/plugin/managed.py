"""A host on which pynet is a managed plugin, with a registry that offers two versions of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.engine import Engine
from tests.lab.lan import Lan
from tests.lab.plugin import PROJECT, another_version, built_plugin
from tests.lab.registry import Registry
from tests.lab.wait import eventually

#: What users are told to call it: see docs/plugin.md.
ALIAS = "pynet-plugin"
VERSIONS = OLD, NEW = "1.0.0", "1.1.0"
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
CONFIG = json.loads((PROJECT / "plugin/config.json").read_text())
#: What can be set, as it is set by default.
DEFAULTS = {
    **{one["name"]: one["value"] for one in CONFIG["env"]},
    **{f"{one['name']}.source": one["source"] for one in CONFIG["mounts"] if one["settable"]},
}


def reference(version: str) -> str:
    """Name a version of the plugin as it is in the registry."""
    return f"{Registry.ADDRESS}/pynet:{version}"


@dataclass
class Losses:
    """What went lost between the neighbour and a container, of how many."""

    pings: int = 0  #: packets that were sent, but for the last, whose answer was not waited for
    unanswered: int = 0
    pages: int = 0  #: that were asked for, each over a new connection
    missing: int = 0  #: that nobody answered

    def __str__(self) -> str:
        return f"{self.unanswered} of {self.pings} pings and {self.missing} of {self.pages} new connections lost"


@dataclass
class Managed:
    """An engine, a registry and a LAN, with words for what these tests do all the time."""

    engine: Engine
    lan: Lan
    registry: Registry
    pushed: dict[str, Any] = field(default_factory=dict)  #: the manifest of the old version
    baseline: dict[str, Any] = field(default_factory=dict)
    installed: dict[str, Any] = field(default_factory=dict)  #: the state with the plugin, empty if it is not there
    _changed: dict[str, str] = field(default_factory=dict)

    def publish(self) -> None:
        """Make and push both versions as their vendor would, and leave nothing of them in the engine."""
        plugin = built_plugin() / "plugin"
        for version in VERSIONS:
            folder = self.engine.shared / version
            another_version(plugin, folder, version)
            self.docker("plugin", "create", reference(version), str(folder))
            self.docker("plugin", "push", reference(version), timeout_s=120)
            self.docker("plugin", "rm", reference(version))
        self.pushed = json.loads(self.registry.manifest("pynet", OLD))

    def docker(self, *arguments: str, timeout_s: float = 60, input: str | None = None) -> str:
        """Run a docker command."""
        return self.engine.docker(*arguments, timeout_s=timeout_s, input=input).strip()

    def refused(self, *arguments: str) -> str:
        """Run a docker command that must fail, and return what the user reads."""
        return self.engine.refused(*arguments)

    def install(self, *settings: str, version: str = OLD, alias: str | None = ALIAS) -> None:
        """Install the plugin as docs/plugin.md says."""
        named = ("--alias", alias) if alias else ()
        self.docker("plugin", "install", "--grant-all-permissions", *named, reference(version), *settings)

    def set(self, **settings: str) -> None:
        """Set what tests set, on a plugin that is disabled; `reset` puts it back."""
        self._changed |= settings
        self.docker("plugin", "set", ALIAS, *(f"{name}={value}" for name, value in settings.items()))

    def upgrade(self, version: str) -> None:
        """Change the version under running containers, as docs/plugin.md says."""
        self.docker("plugin", "disable", "-f", ALIAS)
        asked = ("--skip-remote-check", "--grant-all-permissions")
        self.docker("plugin", "upgrade", *asked, ALIAS, reference(version))
        self.docker("plugin", "enable", ALIAS)

    def web(self, name: str, *arguments: str) -> None:
        """Start a web server on port 80 whose page /hostname is its own name."""
        server = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
        self.docker("run", "-d", "--name", name, "--hostname", name, *arguments, *server)

    def pings(self, container: str, target: str) -> bool:
        """Tell whether a container reaches an address or a name."""
        said = self.engine.docker("exec", container, "ping", "-c1", "-W1", target, check=False)
        return "1 packets received" in said

    def page(self, url: str) -> str | None:
        """Fetch a page from the neighbour; None if nobody answers within two seconds."""
        return self.lan.neighbour.run("curl", "-gsm2", url, check=False).strip() or None

    @contextmanager
    def watched(self, container: str, url: str) -> Iterator[Losses]:
        """Ping the neighbour from a container, twenty times a second, and fetch a page over and over meanwhile."""
        losses, key = Losses(), self.docker("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container)
        sandbox = self.engine.machine.path(f"/run/docker/netns/{Path(key).name}")
        ping = ("ping", "-n", "-i0.05", Lan.NEIGHBOUR4)
        pings = subprocess.Popen(["nsenter", f"--net={sandbox}", "--", *ping], stdout=subprocess.PIPE, text=True)
        # A line for each page, with its status: 000 if there was no answer.
        fetch = f"while sleep 0.05; do curl -sm2 -o /dev/null -w '%{{http_code}}\\n' {url}; done"
        fetches = self.lan.neighbour.popen("sh", "-c", fetch, stdout=subprocess.PIPE, text=True)
        try:
            yield losses
        finally:
            pings.send_signal(2)
            said, _ = pings.communicate(timeout=10)
            fetches.kill()
            statuses = str(fetches.communicate(timeout=10)[0]).split()
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", said)}
        (sent,) = map(int, re.findall(r"(\d+) packets transmitted", said))
        # The last ones, of a quarter of a second, may be on their way, or not read yet by a ping that had to wait.
        losses.pings = max(sent - 5, *answered)
        losses.unanswered = losses.pings - len(answered)
        losses.pages, losses.missing = len(statuses), sum(status != "200" for status in statuses)

    def plugin_id(self, name: str = ALIAS) -> str:
        """The engine's identifier of the plugin."""
        return self.docker("plugin", "inspect", "-f", "{{.Id}}", name)

    def inside(self, *command: str, name: str = ALIAS) -> str:
        """Run a command in the plugin, as docs/plugin.md says."""
        root = ("--root", "/run/docker/runtime-runc/plugins.moby")
        return self.engine.machine.run("runc", *root, "exec", self.plugin_id(name), *command)

    def pid(self) -> int:
        """The plugin's process in the machine's process namespace."""
        root = ("--root", "/run/docker/runtime-runc/plugins.moby")
        return int(json.loads(self.engine.machine.run("runc", *root, "state", self.plugin_id()))["pid"])

    def said(self, plugin: str) -> list[str]:
        """What a plugin wrote, as the engine has it in its log."""
        lines = self.engine.log.read_text(errors="replace").splitlines()
        return [line for line in lines if f"plugin={plugin}" in line]

    def state(self) -> dict[str, Any]:
        """Everything that pynet and its plugin may leave on the host."""
        machine, host = self.engine.machine, self.engine.netns
        ids = self.docker("plugin", "ls", "-q").split()
        chains = [machine.run(f"{name}-save", check=False).splitlines() for name in ("iptables", "ip6tables")]
        return {
            "links": [line for line in host.run("ip", "-o", "link").splitlines() if ": pn" in line],
            "rules": host.run("nft", "list", "table", "inet", "pynet", check=False),
            "engine's chain": [line for lines in chains for line in lines if line.startswith("-A DOCKER-USER")],
            # A plugin that did not start leaves a folder with the engine's own pipes.
            "sockets": sorted(machine.run("find", "/run/docker/plugins", "-name", "pynet*").split()),
            "plugins": machine.run("ls", "/var/lib/docker/plugins").split(),
            "forwarding": [host.sysctl(name).strip() for name in FORWARDING],
            "settings": self.docker("plugin", "inspect", "-f", "{{.Enabled}} {{json .Settings}}", *ids) if ids else "",
        }

    def reset(self) -> None:
        """Remove all containers and all networks, and have the plugin run as it was installed by `install`."""
        eventually(lambda: self.docker("plugin", "ls") or True)
        enabled = self.docker("plugin", "inspect", "-f", "{{.Enabled}}", ALIAS) == "true"
        if enabled:
            self._empty()
        if self._changed and enabled:
            self.docker("plugin", "disable", ALIAS)
        if self._changed:
            self.set(**{name: DEFAULTS[name] for name in self._changed})
        if self._changed or not enabled:
            # Right after one that failed the engine may still be removing that one's pipes.
            eventually(lambda: self.docker("plugin", "enable", ALIAS), timeout_s=30)
        self._changed.clear()
        self._empty()

    def clean(self) -> None:
        """Remove all containers, all networks of pynet and the plugin."""
        eventually(lambda: self.docker("plugin", "ls") or True)
        self._empty()
        plugins = self.docker("plugin", "ls", "-q").split()
        if plugins:
            self.docker("plugin", "rm", "-f", *plugins, timeout_s=180)
        self.installed.clear()
        self._changed.clear()

    def _empty(self) -> None:
        for what, ids in (
            (("rm", "-f"), self.docker("ps", "-aq")),
            (("network", "rm"), self.docker("network", "ls", "-q", "--filter", "type=custom")),
        ):
            if ids:
                self.docker(*what, *ids.split(), timeout_s=180)
