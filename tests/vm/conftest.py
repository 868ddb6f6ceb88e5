"""Tests in here start virtual machines: they run when they are named, as `python -m tests.vm` does."""

from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.conftest import left_out
from tests.lab.command import Unavailable

from .host import Host, ServiceHost
from .image import ensure_image
from .machine import VirtualMachine

H = TypeVar("H", bound=Host)

collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with a fresh disk, booted, whose engine has the busybox image."""
    with _machine() as vm:
        yield _booted(Host(vm))


@pytest.fixture
def service_host() -> Iterator[ServiceHost]:
    """The same under systemd; pynet is not installed."""
    with _machine(systemd=True) as vm:
        yield _booted(ServiceHost(vm))


def _machine(*, systemd: bool = False) -> VirtualMachine:
    try:
        return VirtualMachine(ensure_image(), systemd=systemd)
    except Unavailable as error:
        left_out("virtual machine", error)


def _booted(host: H) -> H:
    host.boot()
    host.docker("load", "-qi", "/lab/busybox.tar")
    return host
