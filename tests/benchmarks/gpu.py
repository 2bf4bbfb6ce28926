"""Features and fits per second on CUDA against the CPU of the same machine, each after one round to warm up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from affinity_service.config import GradientConfig, MLPConfig
from affinity_service.fitting import solve_subsets, subset_design
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import pair_rows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.tasks import Suite

INPUTS, TASKS, DIMENSION = 100, 14, 400
# Enough to fill the device, few enough that two cores end within a minute.
EXAMPLES = {"cpu": 100, "cuda": 4000}
SUBSETS = {"cpu": 100, "cuda": 2000}


def main() -> None:
    if not torch.cuda.is_available():
        print(f"skipped: torch {torch.__version__} sees no CUDA device (built for CUDA: {torch.version.cuda})")
        return
    print(f"{torch.cuda.get_device_name()} against {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"{'':<16}{'CPU':>12}{'CUDA':>12}{'ratio':>8}")
    for name, rate in (("features per s", features), ("fits per s", fits)):
        cpu, cuda = rate("cpu"), rate("cuda")
        print(f"{name:<16}{cpu:>12.0f}{cuda:>12.0f}{cuda / cpu:>8.1f}")


def features(device: str) -> float:
    """(example, task) rows per second through an MLP of 94k parameters, reduced to 400 numbers each."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(EXAMPLES[device], INPUTS)).astype(np.float32)
    suite = Suite.from_arrays(inputs, (rng.random((EXAMPLES[device], TASKS)) < 0.5).astype(np.float32))
    model = build_model(MLPConfig(hidden=[256, 256]), suite.inputs.shape[1:], suite.tasks, 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    reduction = build_reduction(GradientConfig(reduction="rademacher", dimension=DIMENSION), WeightSpace(shapes))
    gradients = PerExampleGradients(model.to(device), suite.tasks)
    _, task, example = pair_rows(suite)
    return len(task) / seconds(lambda: compute_features(gradients, reduction, suite, example, task, 512))


def fits(device: str) -> float:
    """Subsets per second on 14 tasks with 1,000 rows each."""
    rng = np.random.default_rng(0)
    rows = 1000 * TASKS
    arrays = (
        rng.normal(size=(rows, DIMENSION)).astype(np.float32),
        rng.normal(size=rows).astype(np.float32),
        (rng.random(rows) < 0.5).astype(np.float32),
        np.repeat(np.arange(TASKS), 1000),
    )
    tensors = [torch.as_tensor(array, device=device) for array in arrays]
    subsets = subset_design(TASKS, SUBSETS[device], (3, 6), 0)
    return len(subsets) / seconds(lambda: solve_subsets(*tensors, subsets, 1e-2))


def seconds(work: Callable[[], object]) -> float:
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
