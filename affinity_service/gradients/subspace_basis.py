"""The basis of the `subspace` reduction: per-task mean gradients, then leading directions of landmark gradients.

Leaving the means out costs a reduction what it should know of partners: every first step of a training moves along the
mean training gradients of its tasks and is judged along their mean validation gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.gradients.batches import pair_batches
from affinity_service.gradients.per_example import GradientBlock, PerExampleGradients
from affinity_service.gradients.projection import chunks, project
from affinity_service.gradients.statistics import GradientStatistics
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.tasks.suite import TRAIN, Suite

# The means take at most so much of the dimension; above it their leading directions do.
MEANS_SHARE = 0.75
# Of the randomised range finder (Halko, Martinsson and Tropp 2011, algorithms 4.3 and 4.4).
OVERSAMPLING = 20
POWER_ITERATIONS = 2
# Directions shorter than this part of the longest are rounding.
RANK_TOLERANCE = 1e-4


def landmark_pairs(suite: Suite, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Example and task of about `count` training pairs: equally many of every task, all of a task that has fewer."""
    example, task = suite.pairs(TRAIN)
    rng = np.random.default_rng([seed, 7])
    sizes = np.bincount(task, minlength=len(suite.tasks))
    share, left, remaining = np.zeros_like(sizes), count, len(sizes)
    for index in np.argsort(sizes, kind="stable"):
        share[index] = min(sizes[index], left // remaining)
        left, remaining = left - share[index], remaining - 1
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = np.concatenate(
        [start + np.sort(rng.permutation(size)[:own]) for start, size, own in zip(starts, sizes, share, strict=True)]
    )
    return example[chosen], task[chosen]


@dataclass(frozen=True)
class LandmarkGradients:
    """Scaled margin gradients X (m, p) of the landmarks, known by their products only: X never lies in memory whole."""

    gradients: PerExampleGradients
    space: WeightSpace
    scale: Tensor
    suite: Suite
    example: NDArray[np.int64]
    task: NDArray[np.int32]
    batch_rows: int

    def __len__(self) -> int:
        return len(self.example)

    def times(self, y: Tensor) -> Tensor:
        """X y for y (p, k): (m, k)."""
        scaled = self.scale[:, None] * y
        out = y.new_zeros(len(self), y.shape[1])
        for rows, block in self._blocks():
            out[rows] += project(block, scaled[self.space.slices[block.name]])
        return out

    def transposed_times(self, z: Tensor) -> Tensor:
        """Xᵀ z for z (m, k): (p, k)."""
        out = z.new_zeros(self.space.size, z.shape[1])
        for rows, block in self._blocks():
            for start, stop, values in chunks(block, z.shape[1]):
                first = self.space.slices[block.name].start
                out[first + start : first + stop] += values.T @ z[rows]
        return out.mul_(self.scale[:, None])

    def _blocks(self) -> Iterator[tuple[Tensor, GradientBlock]]:
        for batch in pair_batches(self.gradients, self.suite, self.example, self.task, self.batch_rows):
            every = torch.arange(batch.start, batch.start + len(batch.task), device=self.scale.device)
            for block in batch.blocks:
                if block.name in self.space.slices:
                    yield (every if block.rows is None else every[block.rows]), block


def subspace_basis(statistics: GradientStatistics, landmarks: LandmarkGradients, dimension: int, seed: int) -> Tensor:
    """(p, d') orthonormal columns in the scaled space, d' ≤ `dimension`: the span of the 2T mean gradients, training
    and validation, and the leading left directions of the landmarks outside it."""
    scale = landmarks.scale
    means = torch.cat([statistics.mean, statistics.validation_mean]).to(scale.device) * scale
    lengths = means.norm(dim=1, keepdim=True)
    kept = (lengths > 0)[:, 0]
    basis = _orthonormal((means[kept] / lengths[kept]).T, max(1, int(MEANS_SHARE * dimension)))
    wanted = min(dimension, landmarks.space.size) - basis.shape[1]
    if wanted <= 0 or len(landmarks) == 0:
        return basis
    width = min(wanted + OVERSAMPLING, len(landmarks))
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(landmarks), width, generator=generator).to(scale.device)
    y = _without(landmarks.transposed_times(z), basis)
    for _ in range(POWER_ITERATIONS):
        y = _without(landmarks.transposed_times(torch.linalg.qr(landmarks.times(torch.linalg.qr(y)[0]))[0]), basis)
    q = _without(torch.linalg.qr(y)[0], basis)
    # The leading directions within the range that was found.
    projected = landmarks.times(q)
    values, vectors = torch.linalg.eigh((projected.T @ projected).double())
    order = values.argsort(descending=True)[:wanted]
    order = order[values[order] > RANK_TOLERANCE**2 * values.max()]
    return _orthonormal(torch.cat([basis, q @ vectors[:, order].float()], dim=1), dimension)


def _without(y: Tensor, basis: Tensor) -> Tensor:
    """y less its part in the span of the basis; twice, for rounding."""
    for _ in range(2):
        y = y - basis @ (basis.T @ y)
    return y


def _orthonormal(columns: Tensor, most: int) -> Tensor:
    """An orthonormal basis of the span; of its `most` leading directions where it has more."""
    if not columns.shape[1]:
        return columns
    wide = columns.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    order = values.argsort(descending=True)[:most]
    order = order[values[order] > RANK_TOLERANCE**2 * values.max()]
    # Directions of the Gram matrix are orthogonal to rounding; QR makes them so to the last digit.
    return torch.linalg.qr(wide @ vectors[:, order])[0].float()
