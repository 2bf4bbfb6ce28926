"""Coordinates in the span that gradients really occupy; the basis is made by ``gradients/subspace_basis.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.projection import project
from affinity_service.gradients.weight_space import WeightSpace


class Subspace:
    """g ↦ Bᵀ(s∘g).

    Parameters
    ----------
    basis : (p, d) with orthonormal columns, on the model's device.
    scale : (p,) the metric s.
    """

    def __init__(self, space: WeightSpace, basis: Tensor, scale: Tensor) -> None:
        self.dimension = basis.shape[1]
        self._slices = space.slices
        self._scaled = scale[:, None] * basis

    def __call__(self, blocks: Sequence[GradientBlock], batch: int) -> Tensor:
        features = torch.zeros(batch, self.dimension, device=self._scaled.device)
        for block in blocks:
            if block.name not in self._slices:
                continue
            part = project(block, self._scaled[self._slices[block.name]])
            if block.rows is None:
                features += part
            else:
                features.index_add_(0, block.rows, part)
        return features
