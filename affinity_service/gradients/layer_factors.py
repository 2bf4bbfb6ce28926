"""A basis in two steps for models whose gradients are too long for a dense one: first every parameter's gradient is
seen from both sides through a few directions (LoGra, arXiv 2405.13954, §3.1, with directions of the gradients' own
instead of random ones), then a dense basis of those coordinates is taken.

Its bytes are m·a + n·b per parameter (m, n) and D·d, not p·d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from affinity_service.gradients.landmarks import LandmarkGradients, Pairs
from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions.base import Reduction
from affinity_service.gradients.weight_space import WeightSpace

# More random columns than directions are wanted (Halko, Martinsson and Tropp 2011, §4.2).
OVERSAMPLING = 8
LEFT, RIGHT = "left:", "right:"


@dataclass(frozen=True)
class LayerFactors:
    """P (p, D), orthonormal: of each parameter (m, n) the products of its left (m, a) and right (n, b) directions; a
    vector is read as (m, 1).

    Attributes
    ----------
    left, right : by parameter name, with orthonormal columns.
    """

    space: WeightSpace
    left: Mapping[str, Tensor]
    right: Mapping[str, Tensor]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Parameter name → its coordinates."""
        found, start = {}, 0
        for name in self.space.shapes:
            size = self.left[name].shape[1] * self.right[name].shape[1]
            found[name] = slice(start, start + size)
            start += size
        return found

    @property
    def size(self) -> int:
        """D."""
        return max(part.stop for part in self.slices.values())

    def project(self, x: Tensor) -> Tensor:
        """(M, p) → (M, D), Pᵀx."""
        parts = []
        for name, (m, n) in self._shapes():
            own = x[:, self.space.slices[name]].view(-1, m, n)
            parts.append((self.left[name].T @ own @ self.right[name]).flatten(1))
        return torch.cat(parts, dim=1)

    def lift(self, u: Tensor) -> Tensor:
        """(M, D) → (M, p), Pu."""
        parts = []
        for name, columns in self.slices.items():
            left, right = self.left[name], self.right[name]
            own = u[:, columns].reshape(-1, left.shape[1], right.shape[1])
            parts.append((left @ own @ right.T).flatten(1))
        return torch.cat(parts, dim=1)

    def to_tensors(self) -> dict[str, Tensor]:
        """By side, place in the weight space and name."""
        return {
            f"{side}{place:06d}:{name}": found[name]
            for place, name in enumerate(self.space.shapes)
            for side, found in ((LEFT, self.left), (RIGHT, self.right))
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: str | torch.device) -> LayerFactors | None:
        """As ``to_tensors`` made them, every parameter as a matrix; None where there are none."""
        left, right = (
            {name.split(":", 2)[2]: tensors[name].to(device) for name in sorted(tensors) if name.startswith(side)}
            for side in (LEFT, RIGHT)
        )
        space = WeightSpace({name: (len(left[name]), len(right[name])) for name in left})
        return cls(space, left, right) if left else None

    def _shapes(self) -> Sequence[tuple[str, tuple[int, int]]]:
        return [(name, as_matrix(shape)) for name, shape in self.space.shapes.items()]


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that a parameter is read as."""
    return shape[0] if shape else 1, math.prod(shape[1:])


class LayerCoordinates(Reduction):
    """The first step as a reduction: scaled gradients → (batch, D).

    Parameters
    ----------
    scale : (p,) a metric of rank one per parameter, see ``weight_space.rank_one``.
    """

    def __init__(self, factors: LayerFactors, scale: Tensor) -> None:
        self.dimension, self._slices = factors.size, factors.slices
        self._left, self._right = scaled_factors(factors, scale)

    def coordinates(self, block: GradientBlock) -> Tensor:
        """(b, a·b) of one block."""
        left, right = self._left[block.name], self._right[block.name]
        if block.right is not None:
            return block.projected(left, right)
        m, n = len(left), len(right)
        return (left.T @ block.left.view(-1, m, n) @ right).flatten(1)

    def add(self, block: GradientBlock, total: Tensor) -> None:
        if block.name in self._slices:
            total[block.places, self._slices[block.name]] += self.coordinates(block)


class LayeredSubspace(Reduction):
    """g ↦ Bᵀ Pᵀ(s∘g), both steps.

    Parameters
    ----------
    basis : (D, d) with orthonormal columns.
    """

    def __init__(self, factors: LayerFactors, basis: Tensor, scale: Tensor) -> None:
        self.dimension = basis.shape[1]
        self._first, self._slices, self._basis = LayerCoordinates(factors, scale), factors.slices, basis

    def add(self, block: GradientBlock, total: Tensor) -> None:
        if block.name in self._slices:
            # Where layers lie on several devices, only coordinates travel.
            part = self._first.coordinates(block).to(total.device)
            total[block.places] += part @ self._basis[self._slices[block.name]]


class StoredLandmarks:
    """Landmarks by their coordinates X (m, D) in memory; with what ``LandmarkGradients`` is asked for.

    Parameters
    ----------
    pairs : example and task (m,) of each.
    """

    has_kernel = True

    def __init__(self, x: Tensor, pairs: Pairs) -> None:
        self.x = x
        self.example, self.task = pairs
        self.scale = x.new_ones(x.shape[1])

    def __len__(self) -> int:
        return len(self.x)

    @property
    def size(self) -> int:
        return self.x.shape[1]

    def times(self, y: Tensor) -> Tensor:
        return self.x @ y

    def transposed_times(self, z: Tensor) -> Tensor:
        return self.x.T @ z

    def energy(self) -> float:
        return float(self.x.square().sum(dtype=torch.float64))

    def kernel(self) -> Tensor:
        return (self.x @ self.x.T).double()


Landmarks = LandmarkGradients | StoredLandmarks


def scaled_factors(factors: LayerFactors, scale: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Left and right directions with the two factors of the metric in them."""
    left, right = {}, {}
    for name, shape in factors.space.shapes.items():
        own = scale[factors.space.slices[name]].view(as_matrix(shape))
        # Of rank one: any row and any column tell all of it.
        rows, columns = own[:, 0], own[0] / own[0, 0]
        left[name], right[name] = factors.left[name] * rows[:, None], factors.right[name] * columns[:, None]
    return left, right


def find_factors(landmarks: LandmarkGradients, means: Tensor, rank: int, seed: int) -> LayerFactors:
    """Up to `rank` directions on each side of every parameter: those that the landmarks' scaled gradients and the
    scaled means (k, p) lie in, which count alike.

    One pass over the landmarks. A side that is no longer than `rank` is kept whole.
    """
    space, scale = landmarks.space, landmarks.scale
    generator = torch.Generator().manual_seed(seed)
    width = rank + OVERSAMPLING
    ranges: dict[tuple[str, int], Tensor] = {}
    random: dict[tuple[str, int], Tensor] = {}
    metric: dict[str, tuple[Tensor, Tensor]] = {}
    for name, shape in space.shapes.items():
        sides = as_matrix(shape)
        own = scale[space.slices[name]].view(sides)
        metric[name] = own[:, 0], own[0] / own[0, 0]
        for side in (0, 1):
            if sides[side] > rank:
                ranges[name, side] = torch.zeros(sides[side], width, device=scale.device)
                random[name, side] = torch.randn(sides[1 - side], width, generator=generator).to(scale.device)

    def add(rows: Tensor, block: GradientBlock) -> None:
        # The same signs for an example wherever it is seen.
        signs = _signs(rows, width, seed)
        for side in (0, 1):
            if (block.name, side) in ranges:
                ranges[block.name, side] += _seen(block, side, random[block.name, side], metric[block.name], signs)

    landmarks.each(add)
    left: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    for name, shape in space.shapes.items():
        m, n = as_matrix(shape)
        own = (means * scale)[:, space.slices[name]].view(-1, m, n)
        for side, found in ((0, left), (1, right)):
            if (name, side) not in ranges:
                found[name] = torch.eye((m, n)[side], device=scale.device)
                continue
            turned = own if side == 0 else own.transpose(1, 2)
            signs = torch.randint(0, 2, (len(own), 1, width), generator=generator).to(scale.device) * 2.0 - 1
            of_means = ((turned @ random[name, side]) * signs).sum(dim=0)
            both = [_unit(ranges[name, side]), _unit(of_means)]
            found[name] = torch.linalg.svd(torch.cat(both, dim=1), full_matrices=False)[0][:, :rank].contiguous()
    return LayerFactors(space, left, right)


def _seen(block: GradientBlock, side: int, random: Tensor, metric: tuple[Tensor, Tensor], signs: Tensor) -> Tensor:
    """(m, width) Σ over examples and tokens of one side's vectors times what random directions make of the other
    side's, signed per example."""
    if block.right is None:
        # A vector or an unfactored gradient of any shape.
        m, n = len(metric[0]), len(metric[1])
        own = block.left.view(-1, m, n) * metric[0][:, None] * metric[1]
        turned = own if side == 0 else own.transpose(1, 2)
        return ((turned @ random) * signs[:, None, :]).sum(dim=0)
    sides = (block.left * metric[0], block.right * metric[1])
    kept, mixed = sides[side], sides[1 - side] @ random
    mixed = mixed * (signs[:, None, :] if mixed.dim() == 3 else signs)
    return kept.flatten(0, -2).T @ mixed.flatten(0, -2)


def _signs(rows: Tensor, width: int, seed: int) -> Tensor:
    """(b, width) of ±1 by the landmark's number."""
    every = torch.Generator().manual_seed(seed + 1)
    table = torch.randint(0, 2, (int(rows.max()) + 1, width), generator=every)
    return (table.to(rows.device)[rows] * 2 - 1).float()


def _unit(columns: Tensor) -> Tensor:
    return columns / columns.norm().clamp(min=1e-30)
