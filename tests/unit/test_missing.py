"""What cannot be had fails where nothing may be missing."""

from pathlib import Path

import pytest

from tests.lab import missing


def test_only_what_has_a_reason_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a developer's machine anything may; under CI what the file names."""
    file = tmp_path / "unavailable.toml"
    file.write_text('[unavailable]\n"engine 20.10-nft" = "Debian no longer has it"\n"plugin 28.5" = ""\n')
    monkeypatch.setattr(missing, "FILE", file)
    names = ("engine 20.10-nft", "plugin 28.5", "virtual machine")
    monkeypatch.delenv("CI", raising=False)
    assert [missing.excused(name) for name in names] == [True, True, True]
    monkeypatch.setenv("CI", "true")
    assert [missing.excused(name) for name in names] == [True, False, False]
    assert "tests/unavailable.toml" in missing.sentence("virtual machine", "no QEMU")


def test_every_name_has_a_reason() -> None:
    """The file itself is of that form."""
    import tomllib

    reasons = tomllib.loads(missing.FILE.read_text())["unavailable"]
    assert all(isinstance(one, str) and one.strip() for one in reasons.values())
