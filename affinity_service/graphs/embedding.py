"""Features of nodes that have none: random projections of the graph's own powers (FastRP, arXiv 1908.11512).

A block of random numbers is propagated; what it becomes after j hops is a random projection of where walks of j steps
end, so that nodes with common neighbourhoods come to lie together. Nothing but hops: seeded, streaming, and as fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def random_rows(rows: int, dimension: int, seed: int, block: int) -> Tensor:
    """(rows, d) standard normal, the same for a block whoever asks."""
    generator = np.random.default_rng([seed, block])
    return torch.from_numpy(generator.standard_normal((rows, dimension), dtype=np.float32))


def combined(powers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(rows, d) of unit length: Σ w_j X_j, each X_j (rows, d) with its rows brought to unit length first, so that later
    powers, which shrink, count by their weight."""
    total = torch.zeros(powers[0].shape)
    for power, weight in zip(powers, weights, strict=True):
        if weight:
            total += weight * normalize(power.float(), dim=1)
    return normalize(total, dim=1)
