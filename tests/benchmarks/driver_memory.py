"""Memory of the driver against the length of the feature store: `python -m tests.benchmarks.driver_memory`.

500 tasks and up to a million rows of 64 numbers (`--tasks`, `--rows`, `--dimension`). The feature store is made
directly, of random numbers in its own format, and the stages before the fits are marked as done: a driver that only
starts fits and gathers the matrix cannot tell the difference, and a training that fills a million rows would take
hours. Each size is one run up to the affinity stage in a process of its own with a local Ray; what is measured is that
process, the driver, not Ray's, which hold the rows in the object store and in the workers.

Printed are the driver's largest resident set, that of its own pages alone at the end of the affinity stage, and the
bytes of the features. What still grows with the rows is the suite itself, 5 bytes per label, which the driver reads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.reporter import LogReporter
from tests.random_study import random_study

MIB = 1 << 20


class Watched(LogReporter):
    """Keeps the largest resident set after every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, int] = {"start": peak_bytes()}

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        super().finished(stage, seconds, reused)
        self.peaks[stage] = peak_bytes()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_bytes() -> int:
    """Without the pages of files, which the kernel can drop."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def drive(config: str, study: str) -> None:
    """The driver: run in a fresh process, print what it took."""
    from affinity_service.engine.driver import run_study

    reporter = Watched()
    run_study(Config.load(Path(config)), StudyFolder.at(study), reporter, until="affinity")
    print(json.dumps({"peaks": reporter.peaks, "own": own_bytes()}))


def one(tasks: int, rows: int, dimension: int, subsets: int) -> str:
    # Every pair of tasks lies in many of the subsets, so that no pairs are fitted beside them.
    half = max(3, tasks // 2)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config, folder = random_study(place, tasks, rows, dimension, subsets=subsets, sizes=[half, half], tile=64)
        (place / "config.yaml").write_text(config.to_yaml())
        stored = sum(folder.sizes(folder.list("gradients/shard-", ".arrow")).values())
        count = folder.read_json("gradients/layout.json")["rows"]
        command = [sys.executable, "-m", "tests.benchmarks.driver_memory", "--drive"]
        begin = time.perf_counter()
        done = subprocess.run([*command, str(place / "config.yaml"), folder.root], capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        peaks = [found["peaks"][name] / MIB for name in ("start", "fits", "affinity")]
        figures = (count, stored / MIB, *peaks, found["own"] / MIB, seconds)
        return "{:9d} {:14.0f} {:8.0f} {:8.0f} {:8.0f} {:8.0f} {:8.0f}".format(*figures)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--subsets", type=int, default=60)
    parser.add_argument("--drive", nargs=2, metavar=("CONFIG", "STUDY"))
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    print(f"{options.tasks} tasks, {options.dimension} numbers a row; MiB of the driver process")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("     rows feature store    start     fits affinity      own  seconds")
    for rows in options.rows:
        print(one(options.tasks, rows, options.dimension, options.subsets), flush=True)


if __name__ == "__main__":
    main()
