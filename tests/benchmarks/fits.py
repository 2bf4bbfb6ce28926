"""Time of the batched subset fits against scikit-learn, one subset at a time: `python -m tests.benchmarks.fits`.

Tasks have independent planted signals on Gaussian features. scikit-learn knows no offsets, so all margins are zero. Its
time is measured on ten of the subsets and scaled to all of them; figures are medians over nine repetitions, ratios
those of neighbours in time. `--quick` is a tenth of everything.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression

from affinity_service.fitting import balanced_subsets, fit_subset_reference, solve_subsets

REPETITIONS = 9
# Seconds in which the threads of the library that ran before stop spinning in hope of more work.
PAUSE = 0.2
SAMPLE = 10


def examples(n_tasks: int, rows: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_tasks, rows, d), dtype=np.float32)
    signal = 2 * rng.standard_normal((n_tasks, d)) / np.sqrt(d)
    z = np.einsum("tnd,td->tn", features, signal)
    targets = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
    return (
        features.reshape(-1, d),
        np.zeros(z.size, np.float32),
        targets.ravel(),
        np.repeat(np.arange(n_tasks), rows),
    )


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def scikit_learn(arrays: tuple[np.ndarray, ...], subsets: list[tuple[int, ...]], l2: float, solver: str) -> list[float]:
    """Seconds per subset of scikit-learn's fit on rows gathered beforehand."""
    features, _, targets, task = arrays
    times = []
    time.sleep(PAUSE)
    for subset in subsets[:SAMPLE]:
        own = np.isin(task, subset)
        x, y = features[own], targets[own]
        # All tasks have equally many rows, so the mean over tasks is the mean over rows and C its inverse weight.
        model = LogisticRegression(C=1 / (l2 * len(y)), fit_intercept=False, solver=solver, tol=1e-6, max_iter=1000)
        times.append(seconds(partial(model.fit, x, y)))
    return times


def peak_bytes(arguments: list[str]) -> int:
    """Peak resident memory of a fresh process that fits once."""
    command = [sys.executable, __file__, "--peak", *arguments]
    return int(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["peak"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak", nargs=4, type=int, metavar=("TASKS", "ROWS", "D", "SUBSETS"))
    options = parser.parse_args()
    if options.peak:
        n_tasks, rows, d, count = options.peak
        arrays = examples(n_tasks, rows, d)
        solve_subsets(*arrays, balanced_subsets(n_tasks, count, (10, 10), 0), 1e-2)
        print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    n_tasks, rows, d, count = (30, 200, 50, 200) if options.quick else (100, 500, 200, 2000)
    arrays = examples(n_tasks, rows, d)
    subsets = balanced_subsets(n_tasks, 10 * count, (10, 10), 0)
    print(f"{n_tasks} tasks, {rows} examples each, d={d}, subsets of 10; seconds for all subsets")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("     l2  subsets     ours  passes     lbfgs    newton  x lbfgs x newton    error")
    # The last penalty is scikit-learn's own default, C = 1.
    ratios: list[tuple[float, float]] = []
    for l2 in (1e-1, 1e-2, 1e-3, 1 / (10 * rows)):
        few = subsets[:count]
        solve_subsets(*arrays, few, l2)
        times: list[float] = []
        theirs: dict[str, list[float]] = {"lbfgs": [], "newton-cholesky": []}
        for _ in range(REPETITIONS):
            # Alternating, so that a busy machine slows all of them.
            time.sleep(PAUSE)
            times.append(seconds(partial(solve_subsets, *arrays, few, l2)))
            for solver, measured in theirs.items():
                measured.append(count * statistics.median(scikit_learn(arrays, few, l2, solver)))
        ours = statistics.median(times)
        lbfgs, newton = (statistics.median(measured) for measured in theirs.values())
        # The machine's speed changes within seconds: neighbours in time are compared.
        x_lbfgs, x_newton = (
            statistics.median(b / a for a, b in zip(times, measured, strict=True)) for measured in theirs.values()
        )
        ratios.append((x_lbfgs, x_newton))
        result = solve_subsets(*arrays, few, l2)
        errors = [
            np.abs(result.weights[i] - w).max() / np.abs(w).max()
            for i, w in ((i, fit_subset_reference(*arrays, few[i], l2)) for i in range(SAMPLE // 2))
        ]
        print(
            f"{l2:7.0e} {count:8d} {ours:8.3f} {result.iterations.mean():7.2f} {lbfgs:9.1f} {newton:9.1f} "
            f"{x_lbfgs:8.0f} {x_newton:8.0f} {max(errors):8.1e}",
            flush=True,
        )
    print("median of the penalties: x lbfgs {:.0f}, x newton {:.0f}".format(*np.median(ratios, axis=0)))
    growth = [
        seconds(partial(solve_subsets, *arrays, subsets, 1e-2)) / seconds(partial(solve_subsets, *arrays, few, 1e-2))
        for _ in range(5)
    ]
    size = [str(n_tasks), str(rows), str(d)]
    peaks = [peak_bytes([*size, str(number)]) / 2**20 for number in (count, 10 * count)]
    times_ten = statistics.median(growth)
    print(f"ten times the subsets: time x{times_ten:.1f}, peak memory {peaks[0]:.0f} -> {peaks[1]:.0f} MiB")


if __name__ == "__main__":
    main()
