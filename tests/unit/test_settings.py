"""Putting switches back, on files."""

from pathlib import Path

import pytest

from pynetdriver.errors import HostError
from pynetdriver.kernel import settings as switches
from pynetdriver.model import Setting

#: A file of the kernel's that nobody may write.
FIXED = "/proc/sys/kernel/random/boot_id"


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """The failure is told after all that can be put back is."""
    good = tmp_path / "accept_ra"
    good.write_text("2\n")
    settings = [
        Setting(path=FIXED, version=6, former="0", value=switches.boot_id()),
        Setting(path=str(good), version=6, former="1", value="2"),
        Setting(path=str(tmp_path / "gone"), version=6, former="1", value="2"),
    ]
    with pytest.raises(HostError, match=f"cannot set {FIXED} to 0"):
        switches.put_back(settings)
    assert good.read_text() == "1"
