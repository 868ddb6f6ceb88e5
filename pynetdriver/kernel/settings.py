"""Switches of the kernel: those under /proc/sys/net, and whether a link is promiscuous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pynetdriver.errors import NO_DESCRIPTORS, HostError, reason
from pynetdriver.kernel.health import Health
from pynetdriver.kernel.rtnetlink import IFF_PROMISC, flags_of
from pynetdriver.kernel.tables import of
from pynetdriver.model import Setting
from pynetdriver.paths import seen
from pynetdriver.plan import Forwarding, HostSetting, LinkSysctl, Owner, Promiscuity

T = TypeVar("T", bound=HostSetting)

ROOT = seen("/proc/sys/net")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: By IP version; writing one sets every link's own `forwarding` (net/ipv4/devinet.c, net/ipv6/addrconf.c).
_SWITCHES = {4: ROOT / "ipv4/ip_forward", 6: ROOT / "ipv6/conf/all/forwarding"}

#: Stands for a link's promiscuity where other switches have their file.
_PROMISCUOUS = Path("promiscuous")


def ensure_link_sysctl(sysctl: LinkSysctl) -> None:
    """Set a link's switch unless it is set.

    Raises:
        HostError: the kernel refuses, e.g. to enable IPv6 if it has none; it does none of what other switches are for.
    """
    path = _path(sysctl)
    enables = (sysctl.key, sysctl.value) == ("disable_ipv6", "0")
    if sysctl.family == "ipv6" and not enables and not path.parent.exists():
        return
    _write(path, sysctl.value)


def differs(sysctl: LinkSysctl) -> bool:
    """Tell whether a link's switch is another than it should be; one that the kernel does not have is not."""
    path = _path(sysctl)
    return path.exists() and not _is(path, sysctl.value)


def boot_id() -> str:
    """Name this run of the kernel."""
    return _read(_BOOT_ID)


class Switch(Generic[T]):
    """What is to be known of a kind of host setting; an instance is kept in `SWITCHES` for each."""

    def needed(self, setting: T) -> list[Setting]:
        """Tell what has to change, in order; nothing if all is as it should be."""
        raise NotImplementedError

    def key(self, setting: T) -> int | str:
        """Give what the records of a setting have in common: the IP version, or the path of a link's switch."""
        raise NotImplementedError

    def expect(self, setting: T, owner: Owner, health: Health) -> None:
        """Say what should be, as far as the kernel tells of it."""

    def forget(self, setting: T, owner: Owner, health: Health) -> None:
        """Say that it need not be any more."""


class _Forwarding(Switch[Forwarding]):
    def needed(self, setting: Forwarding) -> list[Setting]:
        return _needed_to_forward(setting)

    def key(self, setting: Forwarding) -> int | str:
        return setting.version


class _LinkSysctl(Switch[LinkSysctl]):
    def needed(self, setting: LinkSysctl) -> list[Setting]:
        return _needed_of_link(setting, setting.value, lambda former: _is_in_the_way(setting, former))

    def key(self, setting: LinkSysctl) -> int | str:
        return str(_path(setting))


class _Promiscuity(Switch[Promiscuity]):
    def needed(self, setting: Promiscuity) -> list[Setting]:
        return _needed_of_link(setting, "1")

    def key(self, setting: Promiscuity) -> int | str:
        return str(_path(setting))

    def expect(self, setting: Promiscuity, owner: Owner, health: Health) -> None:
        health.expect_promiscuous(owner, setting.link)

    def forget(self, setting: Promiscuity, owner: Owner, health: Health) -> None:
        health.forget_promiscuous(owner, setting.link)


SWITCHES: Mapping[type, Switch[Any]] = {
    Forwarding: _Forwarding(),
    LinkSysctl: _LinkSysctl(),
    Promiscuity: _Promiscuity(),
}


def needed(setting: HostSetting) -> list[Setting]:
    """Tell what has to change, in order; nothing if all is as it should be."""
    return of(setting, SWITCHES).needed(setting)


def key(setting: HostSetting) -> int | str:
    """Give what the records of a setting have in common: the IP version, or the path of a link's switch."""
    return of(setting, SWITCHES).key(setting)


def _needed_of_link(
    setting: LinkSysctl | Promiscuity, value: str, is_in_the_way: Callable[[str], bool] = lambda _: True
) -> list[Setting]:
    if not (ROOT / "ipv4/conf" / setting.link).exists():
        return []  # whoever needs the link says so
    path = _path(setting)
    former = _read(path)
    if former == value or not is_in_the_way(former):
        return []
    return [Setting(path=str(path), version=0, former=former, value=value, boot=boot_id())]


def _is_in_the_way(sysctl: LinkSysctl, own: str) -> bool:
    """Tell whether a switch has to change: of rp_filter the greater of a link's own and the one for all counts.

    1 drops what does not come from where its answer would go, 2 what no answer would reach, 0 nothing
    (Documentation/networking/ip-sysctl.rst).
    """
    return sysctl.key != "rp_filter" or max(own, _read(ROOT / sysctl.family / "conf/all/rp_filter")) == "1"


def _needed_to_forward(forwarding: Forwarding) -> list[Setting]:
    """Tell what has to change for this host to forward.

    The kernel drops default routes learnt from router advertisements when IPv6 forwarding is turned on,
    unless `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst), so that goes first. Links that forward
    already take no advertisements; they are named for `put_back`, with the value that they have.
    """
    version, boot = forwarding.version, boot_id()
    switch = _SWITCHES[version]
    if _read(switch) != "0":
        return []
    settings = []
    for link in sorted((ROOT / f"ipv{version}/conf").iterdir()):
        if link.name != "all" and _is(link / "forwarding", "1"):
            path, value = link / "forwarding", "1"
        elif version == 6 and link.name not in {"all", "default", "lo"} and _is(link / "accept_ra", "1"):
            path, value = link / "accept_ra", "2"
        else:
            continue
        settings.append(Setting(path=str(path), version=version, former="1", value=value, boot=boot))
    return [*settings, Setting(path=str(switch), version=version, former="0", value="1", boot=boot)]


def turned_on(version: int) -> Setting | None:
    """Tell of the host's switch what was kept when pynet turned it on; None if it is off."""
    switch = _SWITCHES[version]
    if not _is(switch, "1"):
        return None
    return Setting(path=str(switch), version=version, former="0", value="1", boot=boot_id())


def is_host_wide(setting: Setting) -> bool:
    """Tell whether it is the switch that has the whole host forward."""
    return Path(setting.path) in _SWITCHES.values()


def routes_by_itself(version: int, link: str) -> bool:
    """Tell whether packets that come by a link are forwarded although the host's switch is off.

    For IPv4 the link's own switch decides, for IPv6 that of the host, unless a newer kernel is told otherwise
    (net/ipv4/route.c, net/ipv6/ip6_output.c).
    """
    return _is(ROOT / f"ipv{version}/conf" / link / ("forwarding" if version == 4 else "force_forwarding"), "1")


def change(setting: Setting) -> None:
    """Set a host-wide switch."""
    _write(Path(setting.path), setting.value)


def put_back(settings: Iterable[Setting]) -> None:
    """Set switches to what they were, unless somebody else changed them since or they are gone.

    All are looked at before the first is written, and links come last, since the host's switch resets them.

    Raises:
        HostError: one that names all failures; the others are put back.
    """
    standing = [one for one in settings if _is(Path(one.path), one.value)]
    failures = []
    for one in sorted(standing, key=lambda one: Path(one.path) not in _SWITCHES.values()):
        try:
            _write(Path(one.path), one.former)
        except HostError as error:
            failures.append(str(error))
    if failures:
        raise HostError("; ".join(failures))


def _path(setting: LinkSysctl | Promiscuity) -> Path:
    if isinstance(setting, Promiscuity):
        return _PROMISCUOUS / setting.link
    return ROOT / setting.family / "conf" / setting.link / setting.key


def _is(path: Path, value: str) -> bool:
    try:
        return _value(path) == value
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise HostError.of(error.errno, f"read {path}") from error
        return False  # a link may go at any time


def _read(path: Path) -> str:
    try:
        return _value(path)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise HostError.of(error.errno, f"read {path}") from error
        raise HostError(f"cannot read {path}: {error.strerror}; is that protocol enabled in the kernel?") from error


def _write(path: Path, value: str) -> None:
    try:
        if _value(path) == value:
            return
        if path.parent == _PROMISCUOUS:
            flags = flags_of(path.name) & ~IFF_PROMISC | (IFF_PROMISC if value == "1" else 0)
            flags_of(path.name, flags)
        else:
            path.write_text(value)
    except OSError as error:
        raise HostError(f"cannot set {path} to {value}: {reason(error.errno)}") from error


def _value(path: Path) -> str:
    if path.parent == _PROMISCUOUS:
        return "1" if flags_of(path.name) & IFF_PROMISC else "0"
    return path.read_text().strip()
