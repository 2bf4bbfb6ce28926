"""Every task's mean training gradient outside a basis, for the subsets that hold the task.

A subset's training sets out along the means of its own tasks. Those of hundreds of tasks are nearly orthogonal: a basis
that all subsets share holds either all of them, and is as wide, or next to nothing of each. So each subset adds its own
tasks' few to the shared basis, and the rows' products with all of them are kept beside their coordinates: a row meets
any mates.

The mean validation gradients are left out. On 100 communities of com-DBLP with d = 200, centred r at the best stop is
.90 without and .87 with them, and the same within .01 after 2 and 5 epochs: what a step first gives is known along
them, but not what further steps take back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from affinity_service.gradients.basis import Basis

# Of means one long: a direction of which less than 1% lies outside the basis is rounding, as products are kept in half
# precision.
LEAST_SQUARE = 1e-4


def outside_means(mean: Tensor, scale: Tensor, basis: Basis) -> Tensor:
    """(T, p) parts outside an orthonormal basis of the scaled means, each first made one long; zeros of a task
    whose mean (T, p) is zero."""
    scaled = mean * scale
    unit = scaled / scaled.norm(dim=1, keepdim=True).clamp(min=1e-30)
    # Twice, for rounding.
    for _ in range(2):
        unit = unit - basis.lift(basis.project(unit))
    return unit


def spanned_by(means: Tensor, rows: Tensor) -> Tensor:
    """(W, k) how means (W, p) combine to the nearest of their span to rows (k, p)."""
    means = means.double()
    values, vectors = torch.linalg.eigh(means @ means.T)
    inverse = torch.where(values > LEAST_SQUARE, 1 / values.clamp(min=LEAST_SQUARE), 0)
    return ((vectors * inverse) @ (vectors.T @ (means @ rows.double().T))).float()
