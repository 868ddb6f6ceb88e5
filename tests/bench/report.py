"""The page docs/benchmark.md and the picture docs/benchmark.svg; leaves measuring to the others."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pynetdriver import __version__
from tests.bench.measure import BUILTIN, PYNET, Row

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmark.md"
PICTURE = ROOT / "docs" / "benchmark.svg"

_HOW = """\
## How it was measured
`make bench` wrote this page. All of it ran on one machine, in network namespaces that the run made and removed.

* Both drivers have a user-defined network in the same engine. Measurements of the two take turns, every other
  round in the opposite order. A round gives one ratio; the table has the median of the ratios, and in
  brackets the quartiles. Times are medians too. What decides about *met* is the median ratio as it is shown.
  Where the goal is a time more than the built-in's, each round gives a difference instead.
* `docker run` is timed from the start of the client to its return. Ports are published as one range,
  `-p 20000-20999:20000-20999`. The built-in driver starts a thousand so slowly that it gets few rounds.
* Memory for ports: of the built-in's proxies what they share is counted once; of pynet it is the growth of
  its whole process, freshly started. Memory of the daemon is its resident set.
* Time inside pynet is what its own log says of each call. A program sends the calls that an engine
  sends; the links stay on the host. For the full host, pynet has {networks} networks of 100 endpoints with 10
  ports each, published on 0.0.0.0; the empty host is a second namespace, measured in turn.
* New connections: `connect()` in a second namespace on a wire to the engine's, 1,000 of them a round.
  The 10,000 ports belong to endpoints that pynet was given over its socket, and come and go between rounds.
* Throughput: one TCP connection between two Python programs, two seconds a round.
* macvlan and ipvlan: all networks, of either driver, are on one parent, a veth to a second namespace. Nobody there
  has the containers' addresses, so the conflict check waits in vain for as long as it does. Where this machine's
  kernel has no ipvlan, it is measured on Debian's kernel in QEMU, which translates every instruction (TCG): all work
  takes many times longer there, the fixed wait of the check does not.
* Throughput between host and container: as above, by the host's own link on the parent (`host_access=true`), to
  the host's own LAN address; against a connection between two containers of the same network, measured in turn.
* Endpoints on a parent: time inside pynet of CreateEndpoint and Join. The links of the thousand are in another
  namespace, as after the start of a container.
* DHCP lease: time inside pynet of CreateEndpoint, less the time from each question to its answer on the wire at the
  server, dnsmasq with `--no-ping`, as the kernel stamped the frames. Each endpoint is new to the server.
* Restart: from the start of the process to the first answer on its socket, after `kill -9`, while one
  container pings another 20 times a second.
"""


def facts() -> list[str]:
    """Say on what is about to be measured, and what."""
    cpus = _lines("/proc/cpuinfo", "model name")
    memory = int(_lines("/proc/meminfo", "MemTotal")[0].split()[0]) / 1024 / 1024
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "pynetdriver")
    at = f" at {commit}{', with changes not committed' if changed else ''}" if commit else ""
    return [
        f"{len(cpus) or 'unknown'} x {cpus[0] if cpus else platform.machine()}, {memory:.0f} GB RAM, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}",
        f"pynet {__version__}{at}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; load average before the run: {os.getloadavg()[0]:.2f}",
    ]


def table(rows: Iterable[Row]) -> str:
    """Write the rows as Markdown."""
    lines = ["| what | built-in | pynet | ratio or difference (quartiles) | goal | |", "|---|---|---|---|---|---|"]
    verdicts = {None: "", True: "met", False: "**not met**"}
    lines += [f"| {r.what} | {r.builtin} | {r.pynet} | {r.ratio} | {r.goal} | {verdicts[r.met]} |" for r in rows]
    return "\n".join(lines) + "\n"


def page(rows: list[Row], split: list[str], told: list[str], networks: int) -> str:
    """Write the whole page."""
    judged = [row for row in rows if row.met is not None]
    met = sum(row.met is True for row in judged)
    return "\n".join(
        [
            "# Benchmark\n",
            "The engine's built-in drivers and pynet, in the same engine and the same run; bridge networks, unless",
            "another kind is named.",
            f"{met} of {len(judged)} goals are met.\n",
            "![Time of docker run by the number of published ports, built-in and pynet](benchmark.svg)\n",
            *(f"* {fact}" for fact in told),
            "",
            table(rows),
            *([f"Inside pynet, median milliseconds by call: {', '.join(split)}.\n"] if split else []),
            _HOW.format(networks=networks),
        ]
    )


def picture(seconds: Mapping[int, Mapping[str, float]], engine: str) -> str:
    """Draw times of `docker run` as bars on a logarithmic scale."""
    left, top, width, bar = 120, 78, 540, 18
    colours = {BUILTIN: "#8b95a1", PYNET: "#1668b8"}
    everything = [value for sides in seconds.values() for value in sides.values()]
    low = math.floor(math.log10(min(everything)))
    high = max(math.ceil(math.log10(max(everything))), low + 1)

    def x(value: float) -> float:
        return left + width * (math.log10(value) - low) / (high - low)

    height = top + len(seconds) * (2 * bar + 22) + 44
    bottom = height - 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="760" height="{height}" rx="8" fill="#ffffff" stroke="#d0d7de"/>',
        '<text x="24" y="30" font-size="16" font-weight="bold" fill="#1f2328">'
        "docker run -d, by the number of published ports</text>",
    ]
    for number, (side, colour) in enumerate(colours.items()):
        parts.append(f'<rect x="{24 + 110 * number}" y="44" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{42 + 110 * number}" y="55" fill="#1f2328">{side}</text>')
    parts.append(f'<text x="736" y="55" text-anchor="end" fill="#59636e">seconds, logarithmic; engine {engine}</text>')
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.1f}" y1="{top - 8}" x2="{at:.1f}" y2="{bottom}" stroke="#d0d7de"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#59636e">{10.0**power:g} s</text>'
        )
    y = top
    for count, sides in seconds.items():
        label = f"{count:,} ports" if count else "no ports"
        parts.append(f'<text x="{left - 10}" y="{y + bar + 5}" text-anchor="end" fill="#1f2328">{label}</text>')
        for side, value in sides.items():
            length = max(x(value) - left, 1)
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{colours[side]}"/>')
            # White behind the number, so that no line of the scale runs through it.
            parts.append(
                f'<text x="{left + length + 6:.1f}" y="{y + 13}" fill="#1f2328" stroke="#ffffff" stroke-width="4" '
                f'paint-order="stroke">{value:.3g} s</text>'
            )
            y += bar
        y += 22
    return "\n".join([*parts, "</svg>"]) + "\n"


def _git(*words: str) -> str:
    return subprocess.run(("git", "-C", str(ROOT), *words), capture_output=True, text=True, check=False).stdout.strip()


def _lines(path: str, key: str) -> list[str]:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return [value.strip() for name, _, value in lines if name.strip() == key]
