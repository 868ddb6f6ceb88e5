"""Kernel switches under /proc/sys/net."""

from __future__ import annotations

from pathlib import Path

from pynetdriver.errors import HostError
from pynetdriver.model import Setting
from pynetdriver.plan import Forwarding, LinkSysctl

ROOT = Path("/proc/sys/net")


def ensure_link_sysctl(sysctl: LinkSysctl) -> None:
    """Set a link's switch unless it is set.

    Raises:
        HostError: the kernel refuses, e.g. for want of IPv6; a kernel without it has it disabled.
    """
    path = ROOT / sysctl.family / "conf" / sysctl.link / sysctl.key
    if (sysctl.key, sysctl.value) == ("disable_ipv6", "1") and not path.parent.exists():
        return
    _write(path, sysctl.value)


def needed(forwarding: Forwarding) -> list[Setting]:
    """Tell what has to change for this host to forward, in order; nothing if it does already.

    The kernel drops default routes learnt from router advertisements when IPv6 forwarding is turned on,
    unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst), so that goes first.
    """
    if forwarding.version == 4:
        switch, others = ROOT / "ipv4/ip_forward", []
    else:
        switch = ROOT / "ipv6/conf/all/forwarding"
        others = [
            path
            for path in sorted((ROOT / "ipv6/conf").glob("*/accept_ra"))
            if path.parent.name not in {"all", "default", "lo"} and _read(path) == "1"
        ]
    if _read(switch) != "0":
        return []
    return [
        *(Setting(path=str(path), version=6, former="1", value="2") for path in others),
        Setting(path=str(switch), version=forwarding.version, former="0", value="1"),
    ]


def change(setting: Setting) -> None:
    """Set a host-wide switch."""
    _write(Path(setting.path), setting.value)


def put_back(setting: Setting) -> None:
    """Set a host-wide switch to what it was, unless somebody else changed it since or it is gone."""
    path = Path(setting.path)
    if path.exists() and _read(path) == setting.value:
        path.write_text(setting.former)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}; is that protocol enabled in the kernel?") from error


def _write(path: Path, value: str) -> None:
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise HostError(f"cannot set {path} to {value}: {error.strerror}") from error
