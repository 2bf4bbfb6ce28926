"""Seeded sketches of gradients too long to keep one per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class CountSketch:
    """A seeded linear map from gradients of p weights to D numbers that keeps inner products on average.

    Every weight is added, with a random sign, to one random number of the D (Charikar, Chen & Farach-Colton 2002,
    §3): one pass and five bytes a weight, where a dense projection would need p·D random numbers. The error of a cosine
    is about 1/√D. The draws are made on the CPU, so that every device and rank has the same ones.

    Parameters
    ----------
    sizes : numbers of weights of the parameters, in their order.
    """

    def __init__(self, sizes: Sequence[int], dimension: int, seed: int = 0) -> None:
        self.dimension = dimension
        self._places: list[tuple[Tensor, Tensor]] = []
        generator = torch.Generator().manual_seed(seed)
        for size in sizes:
            place = torch.randint(dimension, (size,), generator=generator, dtype=torch.int32)
            sign = torch.randint(2, (size,), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
            self._places.append((place, sign))

    def add(self, index: int, gradient: Tensor, into: Tensor) -> None:
        """Adds the sketch of the gradient of parameter `index`, of any shape, to `into` (D,)."""
        place, sign = self._places[index]
        if place.device != gradient.device:
            place, sign = place.to(gradient.device), sign.to(gradient.device)
            self._places[index] = place, sign
        into.index_add_(0, place, gradient.reshape(-1).to(into.dtype) * sign)
