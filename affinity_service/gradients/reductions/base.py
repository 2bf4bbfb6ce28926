"""What a reduction is, and how the config names one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.config import GradientConfig
from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.weight_space import WeightSpace


class Reduction(ABC):
    """A linear map from scaled gradients of p parameters to coordinates. Parameters outside the weight space are passed
    over.

    Attributes
    ----------
    dimension : coordinates. products : further numbers behind them, with the tasks' means outside a basis.
    """

    dimension: int
    products: int = 0

    @abstractmethod
    def add(self, block: GradientBlock, total: Tensor) -> None:
        """Add what one block comes to, to (batch, dimension + products) float32 features on its device."""

    def __call__(self, blocks: Sequence[GradientBlock], batch: int) -> Tensor:
        """The blocks of one batch → (batch, dimension + products)."""
        total = torch.zeros(batch, self.dimension + self.products, device=blocks[0].left.device)
        for block in blocks:
            self.add(block, total)
        return total


def build_reduction(
    config: GradientConfig, space: WeightSpace, scale: Tensor | None = None, basis: Tensor | None = None
) -> Reduction:
    """The reduction named in the config.

    Parameters
    ----------
    scale : (p,) metric of the gradients, on the model's device; none for the plain one.
    basis : (p, d) of the `subspace` reduction, which needs both.
    """
    from affinity_service.gradients.reductions.exact import Exact
    from affinity_service.gradients.reductions.factorised import Factorised
    from affinity_service.gradients.reductions.rademacher import Rademacher
    from affinity_service.gradients.reductions.subspace import Subspace

    if config.reduction == "subspace":
        assert basis is not None, "the basis comes first"
        assert scale is not None, "and its metric"
        return Subspace(space, basis, scale)
    if config.reduction == "exact":
        return Exact(space, scale)
    if config.reduction == "factorised":
        return Factorised(space, config.most_dimensions, config.seed, scale)
    return Rademacher(space, config.most_dimensions, config.seed, scale)
