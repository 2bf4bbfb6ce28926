"""The order in which examples are seen; one rule for every trainer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def epoch_batches(rows: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Global batches of one epoch in a seeded order; a remainder smaller than a batch waits for the next epoch.

    Fewer rows than a batch are drawn with repetition up to one full batch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(rows)
    if len(order) < batch_size:
        order = np.concatenate([order, generator.choice(rows, batch_size - len(order))])
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return max(1, rows // batch_size)
