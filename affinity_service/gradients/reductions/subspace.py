"""Coordinates in the span that gradients really occupy; the basis is made by ``gradients/subspace_basis.py``."""

from __future__ import annotations

from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.projection import project
from affinity_service.gradients.reductions.base import Reduction
from affinity_service.gradients.weight_space import WeightSpace


class Subspace(Reduction):
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

    def reduced(self, block: GradientBlock) -> Tensor | None:
        """(b, d) of one block; None where it is of no parameter of the space."""
        if block.name not in self._slices:
            return None
        return project(block, self._scaled[self._slices[block.name]])

    def add(self, block: GradientBlock, total: Tensor) -> None:
        part = self.reduced(block)
        if part is not None:
            total[block.places] += part
