"""No reduction: the whole gradient, for small models and as the oracle that others are tested against."""

from __future__ import annotations

from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions.base import Reduction
from affinity_service.gradients.weight_space import WeightSpace


class Exact(Reduction):
    """Coordinates are the scaled entries of all parameters of the weight space, in its order."""

    def __init__(self, space: WeightSpace, scale: Tensor | None = None) -> None:
        self.dimension = space.size
        self._slices, self._scale = space.slices, scale

    def add(self, block: GradientBlock, total: Tensor) -> None:
        if block.name in self._slices:
            columns = self._slices[block.name]
            values = block.dense()
            total[block.places, columns] += values if self._scale is None else values * self._scale[columns]
