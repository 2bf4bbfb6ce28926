"""The clustering relaxation by the solver of this project against CVXPY with SCS: `python -m tests.benchmarks.sdp`.

Planted groups: affinity .6 inside, noise everywhere. Gaps are relative to the bound above a random partition. First
the time at T=500 (`--quick`: 100) to a certified bound, then accuracy at T=200, then matrices whose relaxation is not
tight, where the groups are compared with those of the baselines. `--study FOLDER` adds the matrix of a study.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from affinity_service import Study
from affinity_service.grouping import centre_rows, cluster
from affinity_service.grouping.baselines import random_partition
from affinity_service.grouping.local_moves import improve
from affinity_service.grouping.matrix import canonical, symmetrised
from affinity_service.grouping.partition import density, density_of_labels, groups_of
from affinity_service.grouping.relaxation import solve_relaxation
from affinity_service.grouping.sdp import certified_bound
from affinity_service.grouping.sdp_reference import solve_relaxation_reference

REPETITIONS = 5
STARTS = 10


def planted(tasks: int, k: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.arange(tasks) % k
    return 0.6 * (labels[:, None] == labels) + noise * rng.normal(size=(tasks, tasks))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def random_value(matrix: np.ndarray, k: int) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([density_of_labels(matrix, random_partition(len(matrix), k, rng), k) for _ in range(50)]))


def speed(tasks: int, k: int) -> None:
    affinity = planted(tasks, k, 0.5)
    matrix = canonical(symmetrised(affinity)).matrix
    whole = statistics.median(seconds(partial(cluster, affinity, k)) for _ in range(REPETITIONS))
    # To the tolerance that ours is solved to.
    reference = seconds(partial(solve_relaxation_reference, matrix, k, tolerance=1e-4))
    found = cluster(affinity, k)
    symmetric = symmetrised(affinity)
    chance = random_value(symmetric, k)
    gap = (found.bound - found.objective) / (found.bound - chance)
    print(
        f"T={tasks} k={k}: groups with bound {whole:.1f} s (median of {REPETITIONS}), the relaxation by CVXPY+SCS "
        f"{reference:.1f} s (once): {reference / whole:.1f} times faster; certified gap {gap:.2e}, "
        f"{len(found.groups)} groups"
    )


def accuracy(tasks: int, k: int) -> None:
    print("\n| T | k | noise | objective of SCS at 1e-6 | ours | relative difference | our bound |")
    print("|---|---|---|---|---|---|---|")
    for noise in (0.5, 1.0):
        matrix = canonical(symmetrised(planted(tasks, k, noise))).matrix
        reference = solve_relaxation_reference(matrix, k, tolerance=1e-6).solution
        relaxed = solve_relaxation(matrix, k, tolerance=1e-6)
        assert reference is not None
        assert relaxed.solution is not None
        theirs, ours = float((matrix * reference).sum()), float((matrix * relaxed.solution).sum())
        bound = certified_bound(matrix, k, relaxed.multipliers)
        print(
            f"| {tasks} | {k} | {noise} | {theirs:.5f} | {ours:.5f} | {abs(ours - theirs) / theirs:.1e} | {bound:.5f} |"
        )


def quality(name: str, affinity: np.ndarray, k: int) -> None:
    symmetric = symmetrised(affinity)
    matrix = canonical(symmetric).matrix
    begin = time.perf_counter()
    found = cluster(affinity, k)
    taken = time.perf_counter() - begin
    rng = np.random.default_rng(1)
    starts = [improve(matrix, random_partition(len(matrix), k, rng), k) for _ in range(STARTS)]
    others = [cluster(affinity, k, "spectral").objective, cluster(affinity, k, "agglomerative").objective]
    others.append(max(density(symmetric, groups_of(labels)) for labels in starts))
    gap = (found.bound - found.objective) / max(found.bound - random_value(symmetric, k), 1e-300)
    cells = " | ".join(f"{value:.4f}" for value in (found.objective, *others))
    print(f"| {name} | {len(matrix)} | {k} | {cells} | {gap:.1%} | {taken:.1f} |", flush=True)
    assert found.objective >= max(others) - 1e-9 * abs(found.objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--study", type=Path)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    speed(*((100, 10) if options.quick else (500, 20)))
    accuracy(*((60, 6) if options.quick else (200, 10)))
    print(
        f"\n| affinities | T | k | ours | spectral | agglomerative | {STARTS} starts of local moves | gap | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for tasks, k in ((60, 6), (120, 10)) if options.quick else ((60, 6), (200, 10), (500, 20)):
        for noise in (1.0, 2.0):
            quality(f"planted, noise {noise}", planted(tasks, k, noise), k)
    if options.study:
        matrix = Study.open(options.study).affinity
        for k in (2, 4):
            quality(options.study.name, centre_rows(matrix.affinity), k)


if __name__ == "__main__":
    main()
