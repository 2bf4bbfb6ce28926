"""First-order affinity: one step along the mean gradients of a subset, judged along a task's own (TAG's small-step
limit, arXiv 2109.04617, §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.config import Config
from affinity_service.tasks.sampling import steps_per_epoch
from affinity_service.tasks.suite import TRAIN, Suite


def first_order_losses(
    anchor: Mapping[str, Tensor],
    base: NDArray[np.float64],
    subsets: Sequence[Sequence[int]],
    suite: Suite,
    config: Config,
    epochs: int,
) -> NDArray[np.float64]:
    """(M, T) base loss − (ηK / mean √v̂)·⟨ḡ_S, ḡ_i⟩ over the shared weights for K optimizer steps, NaN outside the
    subset; the subset's gradient is of training rows, the task's of validation rows.

    The length of the step is that of Adam with its mean denominator, a minibatch's noise: the gradient is the mean over
    |S| tasks, so the noise falls with their number. SGD divides by 1 − momentum instead.

    Parameters
    ----------
    anchor : tensors mean, validation_mean, square (T, p). base : (T,) losses of the base model.
    """
    training, validation = (anchor[name].double().numpy() for name in ("mean", "validation_mean"))
    square = anchor["square"].double().numpy()
    # Heads stay: only what several tasks reach moves, as in TAG.
    shared = (square > 0).sum(axis=0) > 1
    if not shared.any():
        shared[:] = True
    products = training[:, shared] @ validation[:, shared].T
    losses = np.full((len(subsets), len(base)), np.nan)
    for row, subset in zip(losses, subsets, strict=True):
        own = list(subset)
        steps = epochs * steps_per_epoch(suite.count(TRAIN, own), config.tuning.batch_size)
        length = config.tuning.learning_rate * steps
        if config.tuning.optimizer == "sgd":
            length /= 1 - config.tuning.momentum
        else:
            root = np.sqrt(square[own].mean(axis=0) / len(own) / config.tuning.batch_size)
            length /= root[root > 0].mean()
        row[own] = base[own] - length * products[np.ix_(own, own)].mean(axis=0)
    return losses
