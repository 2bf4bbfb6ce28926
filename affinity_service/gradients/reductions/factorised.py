"""Output gradients and activations projected apart, then multiplied (LoGra, Choe et al. 2024, arXiv 2405.13954, §3.1).

For large layers: a gradient of m·n entries costs m·a + n·b products instead of m·n·d, with a·b = d.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions.base import Reduction
from affinity_service.gradients.weight_space import WeightSpace


class Factorised(Reduction):
    """left ⊗ right ↦ (Lᵀ left) ⊗ (Rᵀ right) / √d with independent signs L (m, a) and R (n, b) per parameter.

    All parameters share the d coordinates: inner products of whole gradients survive in expectation. Signs depend on
    the seed and the parameter's name and shape alone. A metric takes part through its best factors: row and column
    means of √v̂, s² ≈ row ⊗ column.
    """

    def __init__(self, space: WeightSpace, dimension: int, seed: int, scale: Tensor | None = None) -> None:
        self.dimension = dimension
        self.left_width = max(a for a in range(1, math.isqrt(dimension) + 1) if dimension % a == 0)
        self._space, self._seed, self._scale = space, seed, scale
        self._cache: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}

    def add(self, block: GradientBlock, total: Tensor) -> None:
        if block.name not in self._space.slices:
            return
        left, right = self._factors(block)
        part = block.left @ left if block.right is None else block.projected(left, right)
        total[block.places] += part / math.sqrt(self.dimension)

    def _factors(self, block: GradientBlock) -> tuple[Tensor, Tensor]:
        """L and R with the metric in them; for a gradient without factors L (m, d) and nothing."""
        key = (block.name, block.right is None)
        if key not in self._cache:
            m = block.left.shape[-1]
            n = 1 if block.right is None else block.right.shape[-1]
            a = self.dimension if block.right is None else self.left_width
            rng = np.random.default_rng([self._seed, zlib.crc32(block.name.encode())])
            signs = [
                torch.from_numpy(rng.integers(0, 2, size=shape).astype(np.float32) * 2 - 1).to(block.left.device)
                for shape in ((m, a), (n, self.dimension // a))
            ]
            if self._scale is not None:
                # s = (mean √v̂ / √v̂)^½, so s^−2 is proportional to √v̂.
                root = self._scale[self._space.slices[block.name]].view(m, n).pow(-2)
                rows, columns = root.mean(dim=1), root.mean(dim=0) / root.mean()
                signs = [signs[0] * rows.rsqrt()[:, None], signs[1] * columns.rsqrt()[:, None]]
            self._cache[key] = (signs[0], signs[1])
        return self._cache[key]
