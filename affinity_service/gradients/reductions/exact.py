"""No reduction: the whole gradient, for small models and as the oracle that others are tested against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock


class Exact:
    """Coordinates are the entries of all parameters, flattened and concatenated in the model's order."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.offsets: dict[str, int] = {}
        self.dimension = 0
        for name, shape in shapes.items():
            self.offsets[name] = self.dimension
            self.dimension += math.prod(shape)

    def __call__(self, blocks: Sequence[GradientBlock], batch: int) -> Tensor:
        features = torch.zeros(batch, self.dimension, device=blocks[0].left.device)
        for block in blocks:
            values = block.dense()
            columns = slice(self.offsets[block.name], self.offsets[block.name] + values.shape[1])
            rows = slice(None) if block.rows is None else block.rows
            features[rows, columns] += values
        return features
