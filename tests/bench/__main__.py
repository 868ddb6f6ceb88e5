"""The order of things; needs root. Ends with 0 when all was measured, whether goals are met or not."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from tests.bench import daemon_side, engine_side, lan_side, parent_side, report, virtual
from tests.bench.measure import Row
from tests.engine.lab import Lab
from tests.lab.command import LabError
from tests.lab.roots import ensure_root
from tests.lab.sweep import sweep
from tests.vm.kernel import INSIDE, lacks

NAMES = (
    *("run", "ports", "footprint", "connect", "throughput", "crowd", "macvlan", "ipvlan", "host-access"),
    *("calls", "thousand", "parent", "lease"),
)


def main() -> None:
    """Measure, print the table, write page and picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="built-in drivers and pynet, compared")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works; writes nothing")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="measure just these; writes nothing")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmark.md and .svg as they are")
    parser.add_argument("--json", action="store_true", help="the rows as JSON in the last line; writes nothing")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the benchmark needs root, for network namespaces: try 'sudo make bench'")
    signal.signal(signal.SIGTERM, _interrupted)
    start = time.monotonic()
    writes = set(options.only) == set(NAMES) and not (options.quick or options.no_write or options.json)
    told = report.facts() if writes else []
    try:
        sweep()
        if not INSIDE:
            ensure_root(engine_side.ENGINE)
        with tempfile.TemporaryDirectory(prefix="pnbench-") as folder:
            bench = Bench(Path(folder), options.quick)
            bench.go([name for name in NAMES if name in options.only])
    except (LabError, RuntimeError, TimeoutError) as failure:
        sys.exit(f"The benchmark failed: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    _say(report.table(bench.rows))
    if bench.split:
        _say(f"milliseconds by call: {', '.join(bench.split)}")
    if writes:
        told = [f"Docker Engine {bench.engine}", *told]
        report.PAGE.write_text(report.page(bench.rows, bench.split, told, daemon_side.NETWORKS))
        report.PICTURE.write_text(report.picture(bench.picture.seconds, bench.engine))
        _say(f"written: {report.PAGE.name} and {report.PICTURE.name} in {report.PAGE.parent.name}/")
    _say(f"done in {time.monotonic() - start:.0f} s")
    if options.json:
        _say(virtual.written(bench.rows))


class Bench:
    """All measurements, and what they found."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.rows: list[Row] = []
        self.split: list[str] = []
        self.picture = engine_side.Picture()
        self.engine = ""
        self._folder = folder
        self._quick = quick

    def go(self, names: list[str]) -> None:
        """Measure; those that need an engine first, the others after it is gone."""
        on_bridges: dict[str, Callable[[Lab, bool], list[Row]]] = {
            "run": engine_side.run,
            "ports": partial(engine_side.ports, picture=self.picture),
            "footprint": engine_side.footprint,
            "connect": engine_side.connect,
            "throughput": engine_side.throughput,
            "crowd": engine_side.crowd,
        }
        with_engine: dict[str, Callable[[Lab, bool], list[Row]]] = {
            **on_bridges,
            "macvlan": partial(lan_side.starts, kind="macvlan"),
            "host-access": lan_side.throughput,
        }
        elsewhere = "ipvlan" in names and lacks("ipvlan")
        if not elsewhere:
            with_engine["ipvlan"] = partial(lan_side.starts, kind="ipvlan")
        if not with_engine.keys().isdisjoint(names):
            bridges = not on_bridges.keys().isdisjoint(names)
            with engine_side.laboratory(self._folder, bridges) as lab:
                self.engine = lab.engine.version
                for name in [one for one in with_engine if one in names]:
                    self._note(name, partial(with_engine[name], lab, self._quick))
        if "calls" in names:
            self._note("calls", self._calls)
        if "thousand" in names:
            self._note("thousand", partial(daemon_side.thousand, self._folder, self._quick))
        if "parent" in names:
            self._note("parent", partial(parent_side.crowded, self._folder, self._quick))
        if "lease" in names:
            self._note("lease", partial(parent_side.lease, self._folder, self._quick))
        if elsewhere:
            self._note("ipvlan", partial(virtual.measured, "ipvlan", self._quick))

    def _calls(self) -> list[Row]:
        rows, self.split = daemon_side.calls(self._folder, self._quick)
        return rows

    def _note(self, name: str, measurement: Callable[[], list[Row]]) -> None:
        start = time.monotonic()
        rows = measurement()
        _say(f"{name} ({time.monotonic() - start:.0f} s)")
        for row in rows:
            verdict = {None: "", True: ", met", False: ", NOT MET"}[row.met]
            _say(f"  {row.what}: {row.builtin} | {row.pynet} | {row.ratio} | {row.goal}{verdict}")
        self.rows += rows


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _interrupted(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
