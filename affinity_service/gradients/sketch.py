"""Seeded sketches of gradients too long to keep one per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from affinity_service.errors import UserError

# Averages of more numbers than this (a quarter of a GiB) are kept as sketches of so many each.
_LARGEST, _AUTOMATIC = 1 << 26, 4096


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
        self.dimension, self.seed = dimension, seed
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

    def rows(self, gradients: Tensor, sizes: Sequence[int]) -> Tensor:
        """(n, D) sketches of whole gradients (n, p) over parameters of these sizes."""
        out = gradients.new_zeros(len(gradients), self.dimension)
        for row, into in zip(gradients, out, strict=True):
            for index, part in enumerate(row.split(list(sizes))):
                self.add(index, part, into)
        return out


def sketch_of(wish: int | Literal["auto"] | None, sizes: Sequence[int], tasks: int, seed: int) -> CountSketch | None:
    """The sketch asked for; with auto, one where the gradients of all tasks would take too much memory.

    Raises
    ------
    UserError
        The wish is none of auto, None and a positive number.
    """
    if wish == "auto":
        wish = _AUTOMATIC if sum(sizes) * max(1, tasks) > _LARGEST else None
    if wish is None:
        return None
    if isinstance(wish, bool) or not isinstance(wish, int) or wish < 1:
        raise UserError(f"sketch is {wish!r}; expected auto, None, or how many numbers to keep of a gradient")
    return CountSketch(sizes, wish, seed)
