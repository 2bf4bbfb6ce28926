"""Landmarks: training pairs whose gradients stand for all, known by their products with a few vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.gradients.batches import Gradients, pair_batches
from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.projection import chunks, project
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.tasks.suite import TRAIN, Suite

Pairs = tuple[NDArray[np.int64], NDArray[np.int32]]


def landmark_pairs(suite: Suite, count: int, seed: int) -> Pairs:
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

    gradients: Gradients
    space: WeightSpace
    scale: Tensor
    suite: Suite
    example: NDArray[np.int64]
    task: NDArray[np.int32]
    batch_rows: int

    def __len__(self) -> int:
        return len(self.example)

    @property
    def size(self) -> int:
        """p."""
        return self.space.size

    def times(self, y: Tensor) -> Tensor:
        """X y for y (p, k): (m, k)."""
        scaled = self.scale[:, None] * y
        out = y.new_zeros(len(self), y.shape[1])

        def add(rows: Tensor, block: GradientBlock) -> None:
            out[rows] += project(block, scaled[self.space.slices[block.name]])

        self.each(add)
        return out

    def transposed_times(self, z: Tensor) -> Tensor:
        """Xᵀ z for z (m, k): (p, k)."""
        out = z.new_zeros(self.space.size, z.shape[1])

        def add(rows: Tensor, block: GradientBlock) -> None:
            for start, stop, values in chunks(block, z.shape[1]):
                first = self.space.slices[block.name].start
                out[first + start : first + stop] += values.T @ z[rows]

        self.each(add)
        return out.mul_(self.scale[:, None])

    def energy(self) -> float:
        """‖X‖², the landmarks' squared lengths summed."""
        total = torch.zeros((), dtype=torch.float64, device=self.scale.device)

        def add(_: Tensor, block: GradientBlock) -> None:
            scale = self.scale[self.space.slices[block.name]]
            for start, stop, values in chunks(block, 1):
                total.add_((values * scale[start:stop]).square().sum(dtype=torch.float64))

        self.each(add)
        return float(total)

    @property
    def has_kernel(self) -> bool:
        """Whether inner products of gradients fall apart into those of the layers' inputs and output gradients: every
        layer is linear, and the metric weighs all entries of the gradient alike."""
        return self.gradients.factored and bool((self.scale == self.scale[0]).all())

    def kernel(self) -> Tensor:
        """X Xᵀ (m, m), exact, without a gradient ever formed: per layer the products of the output gradients times
        those of the inputs. Only where ``has_kernel``."""
        factors: dict[str, list[tuple[Tensor, Tensor, Tensor | None]]] = {}
        self.each(lambda rows, block: factors.setdefault(block.name, []).append((rows, block.left, block.right)))
        kernel = torch.zeros(len(self), len(self), dtype=torch.float64, device=self.scale.device)
        for parts in factors.values():
            rows = torch.cat([own for own, _, _ in parts])
            left = torch.cat([own for _, own, _ in parts])
            product = left @ left.T
            if parts[0][2] is not None:
                right = torch.cat([own for *_, own in parts if own is not None])
                product *= right @ right.T
            kernel[rows[:, None], rows] += product
        return kernel * self.scale[0].double() ** 2

    def each(self, visit: Callable[[Tensor, GradientBlock], None]) -> None:
        """Every block of the space's parameters, and which landmarks it is of."""
        for batch in pair_batches(self.gradients, self.suite, self.example, self.task, self.batch_rows):

            def of_batch(block: GradientBlock, every: Tensor = batch.places) -> None:
                if block.name in self.space.slices:
                    visit(every if block.rows is None else every[block.rows], block)

            batch.each(of_batch)
