"""Features of a run of (example, task) pairs: margin, target and reduced gradient of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from affinity_service.gradients.batches import diverged, pair_batches
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Reduction
from affinity_service.tasks.suite import Suite


@dataclass(frozen=True)
class Features:
    """margins (n,) float64, targets (n,) and features (n, d) float32; products (n, T) float16 with the means outside
    the basis, where there are any."""

    margins: NDArray[np.float64]
    targets: NDArray[np.float32]
    features: NDArray[np.float32]
    products: NDArray[np.float16] | None = None


def compute_features(
    gradients: PerExampleGradients,
    reduction: Reduction,
    suite: Suite,
    example: NDArray[np.int64],
    task: NDArray[np.int32],
    batch_rows: int,
    products: int = 0,
) -> Features:
    """Features of the pairs (example[i], task[i]), in float32 on the model's device; of what the reduction makes, the
    last so many numbers are `products`.

    Raises
    ------
    UserError
        A margin or gradient is not finite: the base model diverged.
    """
    margins, features, goals, outside = [], [], [], []
    for batch in pair_batches(gradients, suite, example, task, batch_rows):
        every = reduction(batch.blocks, len(batch.task))
        reduced, more = every[:, : every.shape[1] - products], every[:, every.shape[1] - products :].half()
        finite = batch.margins.isfinite() & reduced.isfinite().all(dim=1) & more.isfinite().all(dim=1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise diverged(suite, int(batch.task[bad]), f"at example {int(example[batch.start + bad])}")
        margins.append(batch.margins.cpu())
        features.append(reduced.cpu())
        goals.append(batch.target.cpu())
        outside.append(more.cpu())
    found = Features(*(torch.cat(parts).numpy() for parts in (margins, goals, features)))
    return replace(found, products=torch.cat(outside).numpy()) if products else found
