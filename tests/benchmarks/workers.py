"""Two workers against one on the gradient and on the fit stage: `python -m tests.benchmarks.workers [--rounds 3]`.

Ten tasks on Gaussian inputs, an MLP of 86k weights; about a minute of each stage with one worker. Counted is the rate
of finished pieces between the first and the last one of a round, so that starting processes and the anchor, which one
actor makes alone, are left out; `stage` has the whole stages' seconds beside it. Rounds with one and with two workers
alternate, ratios are of neighbours in time, and the figure is their median. What the machine itself gives is printed
first: two plain processes of one thread each against one, in products of matrices that fit into a core's cache and in
copies of memory that does not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.engine.session import connected
from affinity_service.reporter import LogReporter
from affinity_service.tasks import Suite
from tests.suites import write_suite

ROUNDS_OF = {"gradients": ("gradient sums", "gradient shards"), "fits": ("subset fits",)}
PLAIN = """
import sys, time, torch
torch.set_num_threads(1)
size = int(sys.argv[2])
a, b = torch.rand(size, size), torch.rand(size, size)
work = (lambda: torch.mm(a, b)) if sys.argv[1] == "products" else (lambda: a.copy_(b))
work()
end, count = time.perf_counter() + 4, 0
while time.perf_counter() < end:
    work()
    count += 1
print(count)
"""


class Timed(LogReporter):
    """When each piece was finished, by the name of the round."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = {}
        self.seconds: dict[str, float] = {}

    def progress(self, done: int, total: int, text: str) -> None:
        self.times.setdefault(text, []).append(time.perf_counter())

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        self.seconds[stage] = seconds

    def rate(self, text: str) -> float:
        """Pieces a second between the first and the last one."""
        times = self.times[text]
        return (len(times) - 1) / (times[-1] - times[0])


def plain(kind: str, size: int) -> float:
    """Work of two plain processes together against that of one."""

    def count(processes: int) -> int:
        command = [sys.executable, "-c", PLAIN, kind, str(size)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        return sum(int(process.communicate()[0]) for process in running)

    return statistics.median(count(2) / count(1) for _ in range(3))


def settings_of(place: Path, examples: int, subsets: int) -> dict:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(examples, 64)).astype(np.float32)
    scores = inputs @ rng.normal(size=(64, 10)) / 8 + 0.5 * rng.normal(size=(examples, 10))
    suite = Suite.from_arrays(inputs, (scores > 0).astype(np.float32))
    return {
        "name": "workers",
        "data": {
            "source": "parquet",
            "path": write_suite(suite, place / "suite.parquet"),
            "split_column": "part",
            "tasks": {task.name: task.kind for task in suite.tasks},
        },
        "model": {"hidden": [256, 256]},
        "base": {"epochs": 2, "batch_size": 64},
        "gradients": {"dimension": 100, "landmarks": 500, "shard_rows": 2048},
        "fits": {"subsets": subsets, "tile": 8, "probes": 0, "epochs": 8},
    }


def run(content: dict, source: Path, target: Path, stage: str, workers: int) -> Timed:
    """The stage on a copy of the study that has all before it."""
    config = Config.parse({**content, stage: {**content[stage], "workers": workers}})
    shutil.copytree(source, target)
    reporter = Timed()
    Study.run(config, target, reporter=reporter, until=stage)
    return reporter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=8000)
    parser.add_argument("--subsets", type=int, default=64)
    parser.add_argument("--stages", nargs="+", choices=list(ROUNDS_OF), default=list(ROUNDS_OF))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    kinds = {"products": 256, "copies": 4096}
    print("two plain processes:", *(f"{kind} x{plain(kind, size):.2f}" for kind, size in kinds.items()), flush=True)
    with tempfile.TemporaryDirectory() as directory, connected():
        place = Path(directory)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        content = settings_of(place, options.examples, options.subsets)
        before = place / "before"
        Study.run(Config.parse(content), before, reporter=LogReporter(), until="base_model")
        for stage in ROUNDS_OF:
            if stage in options.stages:
                compare(content, place, before, stage, options.rounds)
            if stage == "gradients":
                Study.run(Config.parse(content), before, reporter=LogReporter(), until=stage)


def compare(content: dict, place: Path, before: Path, stage: str, rounds: int) -> None:
    names = ROUNDS_OF[stage]
    ratios: dict[str, list[float]] = {name: [] for name in (*names, "stage")}
    for number in range(rounds):
        found = {}
        for workers in (1, 2):
            target = place / f"{stage}-{number}-{workers}"
            found[workers] = run(content, before, target, stage, workers)
            shutil.rmtree(target)
            rates = ", ".join(f"{name} {found[workers].rate(name):.3f}/s" for name in names)
            seconds = found[workers].seconds[stage]
            load = os.getloadavg()[0]
            print(f"{stage}, {workers} worker(s): {rates}, stage {seconds:.1f} s, load {load:.1f}", flush=True)
        for name in names:
            ratios[name].append(found[2].rate(name) / found[1].rate(name))
        ratios["stage"].append(found[1].seconds[stage] / found[2].seconds[stage])
    for name, values in ratios.items():
        each = " ".join(f"{value:.2f}" for value in values)
        print(f"two workers against one, {name}: x{statistics.median(values):.2f} ({each})", flush=True)


if __name__ == "__main__":
    main()
