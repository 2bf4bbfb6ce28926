"""Which ridge penalty stands for so many steps of the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from affinity_service.config import TrainConfig
from affinity_service.fitting.path import Training, batch_variance
from affinity_service.fitting.subset_weights import Anchor


def ridge_penalties(
    anchor: Anchor,
    subsets: Sequence[Sequence[int]],
    training: Training,
    sizes: Tensor,
    epochs: int,
    base: TrainConfig,
) -> Tensor:
    """(M,) float64: λ = mean √v̂ over the subset's weights / (η·K) for K steps at rate η.

    Adam moves a weight by about η/√v̂ times its gradient a step; a ridge fit of penalty λ goes as far as gradient flow
    does in time 1/λ. v̂ is the subset's own: its squared mean gradient and the variance that a minibatch adds. The
    features' metric s is normed to s² = mean √v̂ / √v̂ of the base model, which leaves that mean as the unit. SGD moves
    every weight by η/(1 − momentum) times its gradient.

    Parameters
    ----------
    sizes : (T,) training rows of each task.
    """
    # Of one subset only its own tasks are read.
    used = sorted({task for subset in subsets for task in subset})
    anchor, sizes = replace(anchor, mean=anchor.mean[used], square=anchor.square[used]), sizes[used]
    share = torch.zeros(len(subsets), len(used), device=anchor.mean.device)
    for index, subset in enumerate(subsets):
        share[index, [used.index(task) for task in subset]] = 1 / len(subset)
    noise = batch_variance(share, sizes, training, lambda factors, name: factors @ anchor.table(name))
    root = ((share @ anchor.mean) ** 2 + noise).sqrt()
    reached = (share @ anchor.square) > 0
    steps = epochs * training.steps.to(share.device)
    if base.optimizer == "sgd":
        # Every weight moves at the same rate; momentum lets each gradient act so much longer.
        return ((1 - base.momentum) / (base.learning_rate * steps)).double().clamp(min=1e-8)
    typical = (root * reached).sum(dim=1) / reached.sum(dim=1).clamp(min=1)
    return (typical / (base.learning_rate * steps)).double().clamp(min=1e-8)
