"""The daemon itself: whether it serves, where the engine looks, and what it lacks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pynetdriver import __version__
from pynetdriver.admin.answers import Finding
from pynetdriver.descriptors import given
from pynetdriver.doctor.facts import title
from pynetdriver.doctor.findings import error, warning
from pynetdriver.doctor.host import Host, end, peer, text
from pynetdriver.paths import SOCKET, seen

#: Where the engine looks after its own folder for sockets (moby, pkg/plugins/discovery.go).
_SPECS = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))
_CONNECT_S = 1.0
_SERVICE_MANAGER = 1
#: A published port takes two descriptors.
_FOR_SOME_PORTS = 8
#: SQLite writes a page and its journal.
_ENOUGH_BYTES = 65536


def serving(host: Host) -> Iterator[Finding]:
    """Somebody serves the socket on which engines call, and it is pynet."""
    path = seen(host.told.sockets[0])
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(_CONNECT_S)
            one.connect(str(path))
            pid = peer(one)
    except ConnectionRefusedError:
        yield _absent(host, f"the socket {path} is there, but nobody serves it: pynet was killed")
    except FileNotFoundError:
        if not host.told.answers:
            yield _absent(host, f"pynet is not running: there is no socket {path}")
        else:
            yield error(
                "daemon",
                f"pynet is running, but somebody removed its socket {path}: the engine does not find it",
                command=host.again(host.daemon_pid),
            )
    except OSError as refusal:
        yield _absent(host, f"the socket {path} cannot be reached: {refusal.strerror or refusal}")
    else:
        if host.told.answers:
            yield from _refusal(host)
        elif host.daemon_pid is None and pid == _SERVICE_MANAGER:
            yield _absent(host, f"systemd listens at {path}, but the service behind it does not run")
        else:
            yield _silent(host, path, host.daemon_pid or pid)


def _absent(host: Host, what: str) -> Finding:
    return error(
        "daemon",
        f"{what}. The engine waits 15 seconds for each call and fails; containers that run go on",
        command=host.start,
    )


def _refusal(host: Host) -> Iterator[Finding]:
    """A daemon that answers is at work, even if it cannot say all."""
    asked = {"status": host.status, "ls": host.told.networks}
    for command in (command for command, answer in asked.items() if answer is None):
        yield warning(
            "daemon",
            f"pynet runs, but there is no answer to `pynet {command}`, so what depends on that was not looked at:"
            f" {host.told.refusal}",
            command=f"pynet {command}",
        )


def _silent(host: Host, path: Path, pid: int) -> Finding:
    status = dict(line.partition(":\t")[::2] for line in (text(Path(f"/proc/{pid}/status")) or "").splitlines())
    who = f"{status.get('Name', 'a process')} (process {pid})"
    if status.get("State", "").startswith(("T", "t")):
        what, command = f"{who} serves {path}, but somebody stopped it: every call waits", f"kill -CONT {pid}"
    elif pid == host.daemon_pid:
        what, command = f"pynet, {who}, does not answer: {host.told.refusal}", host.again(pid)
    else:
        what, command = f"{who} serves {path}, and it is not pynet: {host.told.refusal}", f"{end(pid)} && {host.start}"
    return error("daemon", what, command=command)


def found_by_engine(host: Host) -> Iterator[Finding]:
    """The engine takes the first thing that is called pynet: a plugin, a socket, a file that names an address."""
    for plugin in host.told.plugins or ():
        if plugin.name in ("pynet", "pynet:latest"):
            yield error(
                "name",
                f"a managed plugin is installed as {plugin.name}: the engine takes `-d pynet` for that, and does not"
                " find it under so short a name. Install it with --alias pynet-plugin",
                command=f"docker plugin rm -f {plugin.name}",
            )
    sockets = (SOCKET, SOCKET.parent / SOCKET.stem / SOCKET.name)
    if any(seen(one).is_socket() for one in sockets) or (SOCKET in host.told.sockets and host.told.answers):
        return
    spec = next((one for folder in _SPECS for name in _spec_names() if (one := seen(folder / name)).exists()), None)
    addresses = [f"unix://{path}" for path in host.told.sockets]
    if spec is not None and not any(one in (text(spec) or "") for one in addresses):
        yield error(
            "name",
            f"{spec} sends the engine to {(text(spec) or 'nowhere').splitlines()[0]}, where pynet does not serve",
            command=f"rm {spec}" if SOCKET in host.told.sockets else f"echo {addresses[0]} > {spec}",
        )
    elif spec is None and SOCKET not in host.told.sockets:
        yield error(
            "name",
            f"pynet serves {host.told.sockets[0]}, and the engine looks for {SOCKET}: `-d pynet` is not found",
            command=f"mkdir -p {_SPECS[0]} && echo {addresses[0]} > {_SPECS[0] / 'pynet.spec'}",
        )


def _spec_names() -> Iterator[str]:
    for suffix in ("spec", "json"):
        yield from (f"pynet.{suffix}", f"pynet/pynet.{suffix}")


def state_folder(host: Host) -> Iterator[Finding]:
    """What pynet answers is written down first, so that folder has to take it; seen as the daemon sees it."""
    named = (Path(host.status.state_dir) if host.status else host.told.state_dir).absolute()
    inside = Path(f"/proc/{host.daemon_pid}/root") if host.daemon_pid else Path("/")
    folder = inside / named.relative_to("/")
    try:
        found = os.statvfs(folder)
    except OSError:
        return  # it is made at the start
    if found.f_flag & os.ST_RDONLY:
        yield error(
            "state",
            f"pynet's state folder {named} is on a file system that is mounted read-only: no network or container that"
            " needs it can be made or removed",
            command=f"mount -o remount,rw {_mount_point(folder, inside)}",
        )
    elif found.f_blocks and (found.f_bavail * found.f_frsize < _ENOUGH_BYTES or (found.f_files and not found.f_favail)):
        yield error(
            "state",
            f"the file system of pynet's state folder {named} is full: no network or container that needs it can be"
            " made or removed",
            command=f"df -h {named}",
        )


def _mount_point(folder: Path, inside: Path) -> Path:
    while folder != inside and folder.stat().st_dev == folder.parent.stat().st_dev:
        folder = folder.parent
    return Path("/") / folder.relative_to(inside)


def versions_match(host: Host) -> Iterator[Finding]:
    """After an upgrade the daemon goes on with what it was started with."""
    if host.status and host.status.version != __version__:
        yield warning(
            "version",
            f"the daemon is pynet {host.status.version} and this command {__version__}: it was not started again since"
            " the upgrade",
            command=host.again(host.daemon_pid),
        )


def descriptors(host: Host) -> Iterator[Finding]:
    """The daemon holds two files a published port."""
    pid = host.daemon_pid
    try:
        count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return
    limits = (text(Path(f"/proc/{pid}/limits")) or "").splitlines()
    limit = next((one.split()[3] for one in limits if one.startswith("Max open files")), "unlimited")
    if limit.isdecimal() and count > given(int(limit)) - _FOR_SOME_PORTS:
        yield error(
            "descriptors",
            f"pynet has {count} files open and may have {limit}: containers that publish more ports do not start, and"
            " relayed connections wait",
            command=f"prlimit --pid {pid} --nofile=1048576:1048576",
        )


def pools(host: Host) -> Iterator[Finding]:
    """A pool whose addresses are all held has none for the next container."""
    for pool in host.status.pools if host.status else ():
        if pool.used < pool.size:
            continue
        network = next((one for one in host.networks if any(sub.pool == pool.subnet for sub in one.subnets)), None)
        yield warning(
            "pools",
            f"all {pool.size} addresses of the pool {pool.range or pool.subnet} are in use: no other container of"
            f" {'its network' if network is None else f'network {title(network)}'} starts. Stop one of these, or make"
            " the network again with a larger --subnet or --ip-range",
            command="docker ps" + ("" if network is None else f" --filter network={title(network)}"),
        )


def known_networks(host: Host) -> Iterator[Finding]:
    """Engine and daemon know the same networks."""
    for name in host.told.lost.values():
        yield error(
            "networks",
            f"the engine has a network {name} that pynet does not know, since its state was lost or is in another"
            " folder: no container of it starts. Remove it and make it again",
            command=f"docker network rm {name}",
        )


def soundness(host: Host) -> Iterator[Finding]:
    """What pynet could not put right by itself so far."""
    if host.status is None:
        return
    known = {one.id: title(one) for one in host.networks}
    names = [known.get(id, id[:12]) for id in host.status.unsound]
    if names:
        yield error(
            "networks",
            f"network {', '.join(names)} is not on this host as it should be",
            command="pynet reconcile",
        )
    if host.status.unfinished:
        yield warning(
            "networks",
            f"the removal of {', '.join(host.status.unfinished)} is not finished",
            command="pynet reconcile",
        )


CHECKS = (
    serving,
    found_by_engine,
    state_folder,
    versions_match,
    descriptors,
    pools,
    known_networks,
    soundness,
)
