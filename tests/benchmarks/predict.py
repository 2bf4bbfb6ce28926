"""Milliseconds of a prediction from stored features: `python -m tests.benchmarks.predict [--quick]`.

100 tasks with 500 training and 500 validation examples each, d = 200, 10,000 weights; subsets of 10 that were never
seen. Median and 99th percentile of the time and the median of the CPU's over the queries, which on a busy machine tells
more. Beside them, in the same run, the plain alternatives: the fit of all subsets at once asked for one
(`solve_subsets`); the path that goes from task to task and holds its gradient for up to five steps; the path that looks
at the examples before every step, from which the last column says how far losses are at most.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.config import Config
from affinity_service.fitting import balanced_subsets, path, solve_subsets
from affinity_service.gradients.basis import DenseBasis
from affinity_service.gradients.outside_means import outside_means
from affinity_service.gradients.store import FeatureRows
from affinity_service.tasks.suite import Task
from tests.benchmarks.fits import examples


def rows(tasks: int, count: int, d: int) -> FeatureRows:
    features, margins, targets, task = examples(tasks, count, d)
    # Features of gradients are small: their products with displacements are changes of margins.
    return FeatureRows(features / d**0.5, margins, targets, task.astype(np.int32), np.arange(len(task)))


def estimator(
    solution: str, l2: float | str, tasks: int, count: int, d: int, weights: int, apart: bool = False
) -> LinearizedEstimator:
    """`apart` : 64 weights more are of each task alone, and subsets bring their own means, as among many tasks."""
    fits = {"solution": solution, "l2": l2, "evaluate": "linearized", "probes": 0}
    config = Config.parse({"name": "predict", "data": {"source": "yeast"}, "fits": fits})
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(weights, d, generator=generator))
    head, own = 64 * apart, rows(tasks, count, d + 64 * apart)
    width = weights + tasks * head
    anchor = {
        "weights": torch.zeros(width),
        "scale": torch.ones(width),
        "basis": basis,
        "mean": 1e-2 * torch.randn(tasks, width, generator=generator),
        "square": torch.full((tasks, width), 1e-3),
    }
    if apart:
        anchor["own"] = weights + torch.arange(tasks * head).view(tasks, head)
        for task, columns in enumerate(anchor["own"]):
            others = torch.ones(width, dtype=torch.bool)
            others[columns], others[:weights] = False, False
            anchor["mean"][task, others] = anchor["square"][task, others] = 0
        anchor["outside"] = outside_means(anchor["mean"][:, :weights], anchor["scale"][:weights], DenseBasis(basis))
        products = 0.1 * torch.randn(len(own.margins), tasks, generator=generator)
        own = replace(own, products=products.half().numpy())
    suite = [Task(f"task_{i}", "binary") for i in range(tasks)]
    return LinearizedEstimator(own, own, suite, config, anchor)


@contextmanager
def settings(**values: object) -> Iterator[None]:
    """Constants of the path as they are given, for a while."""
    before = {name: getattr(path, name) for name in values}
    for name, value in values.items():
        setattr(path, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(path, name, value)


EVERY_STEP = {"LONGEST_STRIDE": 1}
HELD = {"LONGEST_STRIDE": 5, "TOLERANCE": math.inf, "GROWTH": 5, "CARRIED": 0.0, "_Alone": path._Together}


def path_rows(name: str, own: LinearizedEstimator, subsets: list[tuple[int, ...]], few: int) -> None:
    """Both forms of the path, how long they take and how far they are off."""
    with settings(**EVERY_STEP):
        exact = [own.estimate([subset]).losses[0] for subset in subsets[:few]]
    for form, values, queries in (("", {}, subsets), (", gradients held", HELD, subsets[:few])):
        with settings(**values):
            found = [own.estimate([subset]).losses[0] for subset in subsets[:few]]
            times = milliseconds(lambda subset: own.estimate([subset]), queries)
        print(f"| {name}{form} | {times} | {np.abs(np.array(found) - np.array(exact)).max():.1e} |", flush=True)


def milliseconds(work: Callable[[tuple[int, ...]], object], subsets: list[tuple[int, ...]]) -> str:
    # What depends on a task alone is kept from the first query that names it.
    for subset in subsets:
        work(subset)
    times, busy = [], []
    for subset in subsets:
        begin, start = time.perf_counter(), time.process_time()
        work(subset)
        times.append(1e3 * (time.perf_counter() - begin))
        busy.append(1e3 * (time.process_time() - start))
    return f"{np.median(times):.1f} | {np.percentile(times, 99):.1f} | {np.median(busy):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tasks, count, d, weights = (20, 100, 50, 1000) if options.quick else (100, 500, 200, 10_000)
    subsets = balanced_subsets(tasks, 10 if options.quick else 40, (10, 10), 1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    print("| prediction | median ms | 99th percentile | of CPU, median | largest error of a loss |")
    print("|---|---|---|---|---|")
    for name, solution, l2 in (
        ("ridge, one penalty", "ridge", 1e-2),
        ("ridge, best of 1 to 15 epochs", "ridge", "auto"),
    ):
        own = estimator(solution, l2, tasks, count, d, weights)
        print(f"| {name} | {milliseconds(lambda subset, own=own: own.estimate([subset]), subsets)} | |", flush=True)
    train = rows(tasks, count, d)
    arrays = train.features, train.margins, train.targets, train.task_of_row
    few = subsets[:5]
    plain = milliseconds(lambda subset: solve_subsets(*arrays, [subset], 1e-2), few)
    print(f"| `solve_subsets` for one subset, one penalty | {plain} | |")
    for name, apart in (("path of 15 epochs", False), ("the same with heads and means of the tasks' own", True)):
        own = estimator("path", "auto", tasks, count, d, weights, apart)
        path_rows(name, own, subsets, len(few))


if __name__ == "__main__":
    main()
