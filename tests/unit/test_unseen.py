"""The doctor says what it did not look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from pynetdriver import doctor
from pynetdriver.cli import tables
from pynetdriver.doctor import Plugin, Told, unseen


def test_what_is_out_of_sight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent daemon, a silent engine, and the host's processes, of which the managed plugin sees none."""
    whole = Told((Path("/x.sock"),), Path("/x"), networks=[], plugins=[Plugin("a", True)])
    assert unseen(whole) == []
    assert [one.split()[0] for one in unseen(Told((Path("/x.sock"),), Path("/x")))] == ["pynet's", "networks"]
    monkeypatch.setattr(doctor, "MANAGED", True)
    (said,) = unseen(whole)
    assert "processes" in said
    assert tables.findings([], complete=False) != tables.findings([], complete=True) == "nothing is wrong"
