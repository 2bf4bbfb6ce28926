"""Features of a run of (example, task) pairs: margin, target and reduced gradient of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.gradients.margins import targets
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Reduction
from affinity_service.tasks.suite import Suite


@dataclass(frozen=True)
class Features:
    """margins (n,) float64, targets (n,) and features (n, d) float32."""

    margins: NDArray[np.float64]
    targets: NDArray[np.float32]
    features: NDArray[np.float32]


def compute_features(
    gradients: PerExampleGradients,
    reduction: Reduction,
    suite: Suite,
    example: NDArray[np.int64],
    task: NDArray[np.int32],
    batch_rows: int,
) -> Features:
    """Features of the pairs (example[i], task[i]), in float32 on the model's device.

    Raises
    ------
    UserError
        A margin or gradient is not finite: the base model diverged.
    """
    device = next(gradients.model.parameters()).device
    margins, features, goals = [], [], []
    for start in range(0, len(example), batch_rows):
        rows = example[start : start + batch_rows]
        inputs = torch.as_tensor(suite.inputs[rows], device=device)
        tasks = torch.as_tensor(task[start : start + batch_rows], device=device).long()
        labels = torch.as_tensor(suite.labels[rows, task[start : start + batch_rows]], device=device)
        margin, blocks = gradients(inputs, tasks, labels)
        reduced = reduction(blocks, len(rows))
        finite = margin.isfinite() & reduced.isfinite().all(dim=1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise UserError(
                f"gradient of task `{suite.tasks[int(tasks[bad])].name}` at example {int(rows[bad])} is not finite: "
                "the base model diverged; lower base.learning_rate or set base.gradient_clipping"
            )
        margins.append(margin.cpu())
        features.append(reduced.cpu())
        goals.append(targets(tasks, labels, suite.tasks).cpu())
    return Features(*(torch.cat(parts).numpy() for parts in (margins, goals, features)))
