"""Tests in here start virtual machines: they run when they are named, as `python -m tests.vm` does."""

from collections.abc import Iterator

import pytest

from tests.lab.command import Unavailable

from .host import Host
from .image import ensure_image
from .machine import VirtualMachine

collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with a fresh disk, booted, whose engine has the busybox image."""
    try:
        image = ensure_image()
    except Unavailable as error:
        pytest.skip(f"no virtual machine is to be had: {error}")
    with VirtualMachine(image) as vm:
        made = Host(vm)
        made.boot()
        made.docker("load", "-qi", "/lab/busybox.tar")
        yield made
