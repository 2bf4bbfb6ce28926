"""Paths over many weights, with memory that stays and without: `python -m tests.benchmarks.path_memory`.

A million weights, as many as adapters of a small language model have; 20 tasks of 50 training and 50 validation
examples, d = 50, 40 subsets of 5 tasks. Both ways alternate in one process; printed are the medians of the seconds, of
the processor's seconds outside and inside the kernel, the ratio of the first and the largest resident set so far.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from contextlib import nullcontext

import torch

from affinity_service.affinity import linearized
from affinity_service.fitting import balanced_subsets
from affinity_service.fitting.kept_memory import kept_memory
from tests.benchmarks.predict import estimator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=int, default=1_000_000)
    options = parser.parse_args()
    own = estimator("path", "auto", 20, 50, 50, options.weights)
    subsets = balanced_subsets(20, 40, (5, 5), 1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    print("| memory | seconds | user s | system s | largest resident set |")
    print("|---|---|---|---|---|")
    ways = {"given back at once": nullcontext, "stays": kept_memory}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            linearized.kept_memory = way  # type: ignore[assignment]
            begin, before = time.perf_counter(), os.times()
            own.estimate(subsets)
            after = os.times()
            spent = after.user - before.user, after.system - before.system
            found[name].append((time.perf_counter() - begin, *spent))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, values in medians.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {largest:.1f} GiB |")
    seconds = [values[0] for values in medians.values()]
    print(f"memory that stays takes {seconds[1] / seconds[0]:.2f} times as long")


if __name__ == "__main__":
    main()
