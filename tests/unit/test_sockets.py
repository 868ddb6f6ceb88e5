"""Sockets go with who opened them, whenever that ends."""

import socket
import sys
from pathlib import Path

import pytest

from pynetdriver.process.sockets import listening


def test_a_stop_right_after_bind_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler that raises does so between any two steps."""
    path = tmp_path / "pynet.sock"

    def interrupted(one: socket.socket, backlog: int) -> None:
        assert path.is_socket() and backlog
        sys.exit(0)

    monkeypatch.setattr(socket.socket, "listen", interrupted)
    with pytest.raises(SystemExit), listening([path]):
        pass
    assert not path.exists()
