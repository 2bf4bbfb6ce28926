"""Milliseconds of a prediction from stored features: `python -m tests.benchmarks.predict [--quick]`.

100 tasks with 500 training and 500 validation examples each, d = 200, 10,000 weights; subsets of 10 that were never
seen. Medians and 90th percentiles over the queries; the plain alternative, the fit of all subsets at once asked for one
(`solve_subsets`), beside it in the same run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.config import Config
from affinity_service.fitting import balanced_subsets, solve_subsets
from affinity_service.gradients.store import FeatureRows
from affinity_service.tasks.suite import Task
from tests.benchmarks.fits import examples


def rows(tasks: int, count: int, d: int) -> FeatureRows:
    features, margins, targets, task = examples(tasks, count, d)
    # Features of gradients are small: their products with displacements are changes of margins.
    return FeatureRows(features / d**0.5, margins, targets, task.astype(np.int32), np.arange(len(task)))


def estimator(solution: str, l2: float | str, tasks: int, count: int, d: int, weights: int) -> LinearizedEstimator:
    fits = {"solution": solution, "l2": l2, "evaluate": "linearized", "probes": 0}
    config = Config.parse({"name": "predict", "data": {"source": "yeast"}, "fits": fits})
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(weights, d, generator=generator))
    anchor = {
        "weights": torch.zeros(weights),
        "scale": torch.ones(weights),
        "basis": basis,
        "mean": 1e-2 * torch.randn(tasks, weights, generator=generator),
        "square": torch.full((tasks, weights), 1e-3),
    }
    suite = [Task(f"task_{i}", "binary") for i in range(tasks)]
    own = rows(tasks, count, d)
    return LinearizedEstimator(own, own, suite, config, anchor)


def milliseconds(work: Callable[[tuple[int, ...]], object], subsets: list[tuple[int, ...]]) -> str:
    # What depends on a task alone is kept from the first query that names it.
    for subset in subsets:
        work(subset)
    times = []
    for subset in subsets:
        begin = time.perf_counter()
        work(subset)
        times.append(1e3 * (time.perf_counter() - begin))
    return f"{np.median(times):.1f} | {np.percentile(times, 90):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tasks, count, d, weights = (20, 100, 50, 1000) if options.quick else (100, 500, 200, 10_000)
    subsets = balanced_subsets(tasks, 10 if options.quick else 40, (10, 10), 1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    print("| prediction | median ms | 90th percentile |")
    print("|---|---|---|")
    for name, solution, l2 in (
        ("ridge, one penalty", "ridge", 1e-2),
        ("ridge, best of 1 to 15 epochs", "ridge", "auto"),
    ):
        own = estimator(solution, l2, tasks, count, d, weights)
        print(f"| {name} | {milliseconds(lambda subset, own=own: own.estimate([subset]), subsets)} |", flush=True)
    train = rows(tasks, count, d)
    arrays = train.features, train.margins, train.targets, train.task_of_row
    few = subsets[:5]
    plain = milliseconds(lambda subset: solve_subsets(*arrays, [subset], 1e-2), few)
    print(f"| `solve_subsets` for one subset, one penalty | {plain} |")
    own = estimator("path", "auto", tasks, count, d, weights)
    print(f"| path of 15 epochs | {milliseconds(lambda subset: own.estimate([subset]), few)} |")


if __name__ == "__main__":
    main()
