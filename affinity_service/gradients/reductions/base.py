"""What a reduction is, and how the config names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from affinity_service.config import GradientConfig
from affinity_service.gradients.per_example import GradientBlock


class Reduction(Protocol):
    """A linear map from gradients of p parameters to ``dimension`` coordinates."""

    dimension: int

    def __call__(self, blocks: Sequence[GradientBlock], batch: int) -> Tensor:
        """The blocks of one batch → (batch, dimension) float32 features on their device."""
        ...


def build_reduction(config: GradientConfig, shapes: Mapping[str, Sequence[int]]) -> Reduction:
    """The reduction named in the config for parameters of these shapes, in the model's order."""
    from affinity_service.gradients.reductions.exact import Exact
    from affinity_service.gradients.reductions.rademacher import Rademacher

    if config.reduction == "exact":
        return Exact(shapes)
    return Rademacher(shapes, config.dimension, config.seed)
