"""The gradients of a run of (example, task) pairs, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.gradients.margins import targets
from affinity_service.gradients.per_example import GradientBlock, PerExampleGradients
from affinity_service.tasks.suite import Suite


@dataclass(frozen=True)
class PairBatch:
    """B pairs from position `start` on: task and target (B,), margins (B,) float64, gradient blocks; all on the
    model's device."""

    start: int
    task: Tensor
    target: Tensor
    margins: Tensor
    blocks: list[GradientBlock]


def pair_batches(
    gradients: PerExampleGradients,
    suite: Suite,
    example: NDArray[np.int64],
    task: NDArray[np.int32],
    batch_rows: int,
) -> Iterator[PairBatch]:
    """Of the pairs (example[i], task[i]), in their order."""
    device = next(gradients.model.parameters()).device
    for start in range(0, len(example), batch_rows):
        rows, own = example[start : start + batch_rows], task[start : start + batch_rows]
        tasks = torch.as_tensor(own, device=device).long()
        labels = torch.as_tensor(suite.labels[rows, own], device=device)
        margins, blocks = gradients(torch.as_tensor(suite.inputs[rows], device=device), tasks, labels)
        yield PairBatch(start, tasks, targets(tasks, labels, suite.tasks), margins, blocks)


def diverged(suite: Suite, task: int, where: str) -> UserError:
    """The error to raise where a margin or gradient is not finite."""
    return UserError(
        f"gradient of task `{suite.tasks[task].name}` {where} is not finite: the base model diverged; lower "
        "base.learning_rate or set base.gradient_clipping"
    )
