"""The command `pynet` as a user runs it beside a daemon, and what it does not take the time to load."""

import json
import subprocess
import sys
from typing import Any

from pynetdriver.paths import admin_socket
from tests.lab.unix import UnixConnection

from .host import Host


def ask(host: Host, *arguments: str, code: int = 0) -> str:
    """Run a command that ends with an exit code; returns what it prints, errors included."""
    run = (sys.executable, "-m", "pynetdriver", *arguments, "--socket", str(host.daemon.socket))
    with host.netns.popen(*run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == code, output
    assert "Traceback" not in output
    return output


def asked(host: Host, *arguments: str, code: int = 0) -> Any:
    """Run a command for programs; what a doctor could not look at is no part of its answer."""
    lines = ask(host, *arguments, "--json", code=code).splitlines()
    return json.loads("\n".join(line for line in lines if not line.startswith("not looked at: ")))


def differences(host: Host) -> Any:
    """What `pynet reconcile --dry-run` would say."""
    connection = UnixConnection(admin_socket(host.daemon.socket), 30)
    try:
        connection.request("POST", "/reconcile?dry_run=true")
        return json.loads(connection.getresponse().read())["differences"]
    finally:
        connection.close()
