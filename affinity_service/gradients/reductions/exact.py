"""No reduction: the whole gradient, for small models and as the oracle that others are tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.weight_space import WeightSpace


class Exact:
    """Coordinates are the scaled entries of all parameters of the weight space, in its order."""

    def __init__(self, space: WeightSpace, scale: Tensor | None = None) -> None:
        self.dimension = space.size
        self._slices, self._scale = space.slices, scale

    def __call__(self, blocks: Sequence[GradientBlock], batch: int) -> Tensor:
        features = torch.zeros(batch, self.dimension, device=blocks[0].left.device)
        for block in blocks:
            if block.name in self._slices:
                rows = slice(None) if block.rows is None else block.rows
                features[rows, self._slices[block.name]] += block.dense()
        return features if self._scale is None else features.mul_(self._scale)
