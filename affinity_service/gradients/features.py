"""Features of a run of (example, task) pairs: margin, target and reduced gradient of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affinity_service.gradients.batches import Gradients, diverged, pair_batches
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
    gradients: Gradients,
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
    margins, goals = np.zeros(len(example)), np.zeros(len(example), np.float32)
    width, products = reduction.dimension, reduction.products
    features, more = np.zeros((len(example), width), np.float32), np.zeros((len(example), products), np.float16)
    for batch in pair_batches(gradients, suite, example, task, batch_rows):
        every = batch.reduced(reduction)
        reduced, outside = every[:, :width], every[:, width:].half()
        finite = batch.margins.isfinite() & reduced.isfinite().all(dim=1) & outside.isfinite().all(dim=1)
        places = batch.places.cpu().numpy()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise diverged(suite, int(batch.task[bad]), f"at example {int(example[places[bad]])}")
        margins[places], goals[places] = batch.margins.cpu().numpy(), batch.target.cpu().numpy()
        features[places], more[places] = reduced.cpu().numpy(), outside.cpu().numpy()
    return Features(margins, goals, features, more if products else None)
