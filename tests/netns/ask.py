"""The command `pynet` as a user runs it beside a daemon."""

import json
import subprocess
import sys
from typing import Any

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
    """Run a command for programs."""
    return json.loads(ask(host, *arguments, "--json", code=code))
