"""Installing, setting, looking into and removing the plugin."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.conftest import figures
from tests.lab import foreign
from tests.lab.lan import Lan, Site
from tests.lab.plugin import build, built_plugin
from tests.lab.roots import RECIPES, ensure_root
from tests.lab.wait import eventually
from tests.plugin.managed import ALIAS, OLD, Managed, reference

#: Docker's default set with what `plugin/config.json` adds. Source: moby oci/caps/defaults.go, linux/capability.h.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE", "NET_ADMIN", "SYS_ADMIN"),
)
#: Numbers of linux/capability.h.
NUMBERS = {
    **{"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8},
    **{"NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_CHROOT": 18, "SYS_ADMIN": 21},
    **{"MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31},
}
SETTINGS = (
    "PYNET_SOCKET",
    "PYNET_FIREWALL",
    "PYNET_LOG_LEVEL",
    "PYNET_LOG_FORMAT",
    "PYNET_METRICS_ADDRESS",
)


def test_asks_for_no_more_than_it_needs(bare: Managed) -> None:
    said = bare.engine.docker("plugin", "install", "--alias", ALIAS, reference(OLD), input="n\n", check=False)
    asked = [line.strip() for line in said.splitlines() if line.startswith(" - ")]
    assert asked == [
        "- network: [host]",
        "- mount: [/run/docker]",
        "- mount: [/proc/sys/net]",
        "- mount: [/dev/null]",
        "- capabilities: [CAP_NET_ADMIN CAP_SYS_ADMIN]",
    ]


def test_is_small_and_answers_soon(managed: Managed) -> None:
    unpacked = sum(file.lstat().st_size for file in (managed.engine.shared / OLD).rglob("*"))
    layers = sum(layer["size"] for layer in managed.pushed["layers"])
    assert unpacked <= 60e6
    assert layers <= 25e6
    took = []
    for _ in range(3):
        managed.docker("plugin", "disable", ALIAS)
        before = time.monotonic()
        managed.docker("plugin", "enable", ALIAS)
        took.append(time.monotonic() - before)
    sizes = f"{unpacked / 1e6:.1f} MB unpacked, {layers / 1e6:.1f} MB pushed"
    figures.append(f"engine {managed.engine.version}, the plugin: {sizes}, answers {min(took):.2f} s after enable")
    assert min(took) <= 5  # many times what it takes, however busy the machine: it waits for nobody


def test_tables_of_others_by_a_newer_nft(managed: Managed) -> None:
    """They are beside the plugin, and its own table is listed by a command that is older than its library."""
    host = managed.engine.netns
    foreign.add_tables(host)
    try:
        managed.docker("network", "create", "-d", "pynet", "net")
        managed.web("web", "--network", "net", "-p", "8080:80")
        assert eventually(lambda: managed.page(f"http://{Lan.HOST4}:8080/hostname")) == "web"
        pid = managed.pid()
        foreign.nft(host, "delete table inet pynet")
        assert eventually(lambda: managed.page(f"http://{Lan.HOST4}:8080/hostname")) == "web"
        managed.inside("pynet", "reconcile")
        assert managed.pid() == pid
    finally:
        foreign.remove_tables(host)
    for root in map(ensure_root, RECIPES):
        assert "tcp . 8080" in foreign.listed(str(root), host)


def test_settings(bare: Managed) -> None:
    bare.engine.machine.run("touch", "/run/xtables.lock")
    mount = "xtables-lock.source=/run/xtables.lock"
    bare.install("PYNET_LOG_FORMAT=json", "PYNET_METRICS_ADDRESS=127.0.0.1:9478", mount)
    shown = json.loads(bare.docker("plugin", "inspect", ALIAS))[0]["Settings"]["Env"]
    assert [one.partition("=")[0] for one in shown] == list(SETTINGS)
    assert '\\"event\\": \\"serving\\"' in "".join(bare.said(bare.plugin_id()))
    assert bare.engine.netns.run("curl", "-sfm5", "-w", "%{http_code}", "http://127.0.0.1:9478/metrics")[-3:] == "200"
    assert "cannot set on an active plugin" in bare.refused("plugin", "set", ALIAS, "PYNET_LOG_LEVEL=debug")

    bare.docker("plugin", "disable", ALIAS)
    bare.docker("plugin", "set", ALIAS, "PYNET_LOG_FORMAT=text", "PYNET_FIREWALL=iptables", "PYNET_METRICS_ADDRESS=")
    bare.docker("plugin", "enable", ALIAS)
    bare.docker("network", "create", "-d", "pynet", "net")
    bare.web("web", "--network", "net", "-p", "8080:80")
    assert eventually(lambda: bare.page(f"http://{Lan.HOST4}:8080/hostname")) == "web"
    assert "PYNET-" in bare.engine.netns.run("iptables-legacy-save")
    bare.clean()
    assert "PYNET-" not in bare.engine.netns.run("iptables-legacy-save")


def test_a_setting_that_is_wrong_is_said_in_the_log(managed: Managed) -> None:
    managed.docker("plugin", "disable", ALIAS)
    assert "setting" in managed.refused("plugin", "set", ALIAS, "PYNET_STATE_DIR=/elsewhere")
    managed.set(PYNET_FIREWALL="ipfw")
    managed.refused("plugin", "enable", "--timeout", "1", ALIAS)
    assert any("'ipfw' is not one of" in line for line in managed.said(managed.plugin_id()))


def test_questions_are_answered_inside(managed: Managed) -> None:
    managed.docker("network", "create", "-d", "pynet", "net")
    managed.web("web", "--network", "net", "-p", "8080:80")
    status = json.loads(managed.inside("pynet", "status", "--json"))
    assert status["networks"] == 1
    assert "8080" in managed.inside("pynet", "ports")
    assert "bridge" in managed.inside("pynet", "ls")


def test_log_lines_are_the_engines(managed: Managed) -> None:
    before = len(managed.said(managed.plugin_id()))
    managed.docker("plugin", "disable", ALIAS)
    managed.docker("plugin", "enable", ALIAS)
    managed.docker("network", "create", "-d", "pynet", "net")
    lines = managed.said(managed.plugin_id())[before:]
    assert any("level=info" in line and "serving" in line and "the managed plugin" in line for line in lines)
    assert any("NetworkDriver.CreateNetwork" in line and "outcome=ok" in line for line in lines)


def test_has_the_rights_that_the_docs_name_and_nothing_of_the_engine(managed: Managed) -> None:
    machine, pid = managed.engine.machine, managed.pid()
    (line,) = [one for one in machine.run("cat", f"/proc/{pid}/status").splitlines() if one.startswith("CapEff")]
    expected = 0
    for name in CAPABILITIES:
        expected |= 1 << NUMBERS[name]
    assert int(line.split()[1], 16) == expected
    sockets = machine.run("find", f"/proc/{pid}/root/host", f"/proc/{pid}/root/run", "-name", "docker.sock")
    assert sockets == ""


def test_waits_for_the_lock_of_legacy_iptables(managed: Managed) -> None:
    managed.engine.machine.run("touch", "/run/xtables.lock")
    managed.docker("plugin", "disable", ALIAS)
    managed.set(**{"PYNET_FIREWALL": "iptables", "xtables-lock.source": "/run/xtables.lock"})
    managed.docker("plugin", "enable", ALIAS)
    hold = managed.engine.machine.popen("flock", "/run/xtables.lock", "sleep", "60")
    try:
        said = managed.refused("network", "create", "-d", "pynet", "net")
    finally:
        managed.engine.machine.run("pkill", "-x", "sleep")
        hold.wait(10)
    assert "another program holds /run/xtables.lock" in said


def test_reaches_into_containers(managed: Managed) -> None:
    """A link that went with its parent is made again inside, for which the engine's folder and CAP_SYS_ADMIN are."""
    with Site(managed.engine.netns) as site:
        parent = ("-o", "backend=macvlan", "-o", f"parent={site.PARENT}")
        subnet = ("--subnet", site.SUBNET4, "--gateway", site.ROUTER4, "--ip-range", "198.51.100.128/25")
        managed.docker("network", "create", "-d", "pynet", *parent, *subnet, "lan")
        managed.web("one", "--network", "lan")
        assert managed.pings("one", site.PEER4)
        managed.engine.netns.run("ip", "link", "delete", site.PARENT)
        assert not managed.pings("one", site.PEER4)
        site.plug_host()
        eventually(lambda: managed.pings("one", site.PEER4))
        managed.reset()


def test_mends_rules_and_sets_switches(managed: Managed) -> None:
    managed.docker("network", "create", "-d", "pynet", "net")
    managed.web("web", "--network", "net", "-p", "127.0.0.1:8080:80")
    host = managed.engine.netns
    eventually(lambda: host.run("curl", "-sfm2", "http://127.0.0.1:8080/hostname") == "web\n")
    host.run("nft", "delete", "table", "inet", "pynet")
    eventually(lambda: host.run("curl", "-sfm2", "http://127.0.0.1:8080/hostname") == "web\n")


def test_the_recipe_gives_the_same_again(tmp_path: Path) -> None:
    kept = built_plugin()
    again = build(tmp_path / "again")
    packages = Path("rootfs/usr/share/pynet/packages")
    if (tmp_path / "again" / packages).read_text() != (kept / "plugin" / packages).read_text():
        # Debian has other packages by now: not the same input.
        assert build(tmp_path / "third") == again
    else:
        assert again == (kept / "digest").read_text()
