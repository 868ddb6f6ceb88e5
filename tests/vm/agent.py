"""Run inside the virtual machine what the host asks for; needs nothing but the standard library.

agent.py PORT     says {"ready": true}, then for each line {"command": […], "environment": {…}} says
                  {"output": "…"} as it comes and {"code": …} at its end; {"quit": true} ends it
"""

import codecs
import json
import os
import subprocess
import sys
from typing import Any, BinaryIO


def serve(port: BinaryIO) -> None:
    """Obey until the host says "quit"."""
    _say(port, {"ready": True})
    for line in port:
        request: dict[str, Any] = json.loads(line)
        if "quit" in request:
            return
        _obey(port, request["command"], request["environment"])


def _obey(port: BinaryIO, command: list[str], environment: dict[str, str]) -> None:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except OSError as error:
        _say(port, {"output": f"{error}\n"})
        _say(port, {"code": 127})
        return
    assert process.stdout is not None
    # What comes may end in the middle of a character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := os.read(process.stdout.fileno(), 65536):
        _say(port, {"output": decoder.decode(data)})
    _say(port, {"code": process.wait()})


def _say(port: BinaryIO, message: dict[str, Any]) -> None:
    port.write(json.dumps(message).encode() + b"\n")
    port.flush()


if __name__ == "__main__":
    with open(sys.argv[1], "r+b", buffering=0) as port:
        serve(port)
