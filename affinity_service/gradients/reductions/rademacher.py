"""Random signs (Grad-TAG, arXiv 2409.06091, §3): inner products of gradients survive in expectation."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions.base import Reduction
from affinity_service.gradients.weight_space import WeightSpace

# Entries of the sign matrix that are alive at a time, and that may be kept between batches (float32).
CHUNK_ENTRIES = 1 << 22
CACHE_ENTRIES = 1 << 26


class Rademacher(Reduction):
    """g ↦ Rg with R (d, p) of independent ±1/√d, made again from the seed wherever it is needed.

    The signs of a parameter depend on the seed, its name and its shape alone, so every worker, batch size and
    device sees the same matrix, and adding a task leaves the features of the others as they were.
    """

    def __init__(self, space: WeightSpace, dimension: int, seed: int, scale: Tensor | None = None) -> None:
        self.dimension = dimension
        self.seed = seed
        self._slices, self._scale = space.slices, scale
        self._shapes = {name: (shape[0], math.prod(shape[1:])) for name, shape in space.shapes.items()}
        entries = sum(m * n for m, n in self._shapes.values()) * dimension
        self._cache: dict[tuple[str, int], Tensor] | None = {} if entries <= CACHE_ENTRIES else None

    def add(self, block: GradientBlock, total: Tensor) -> None:
        if block.name not in self._shapes:
            return
        m, n = self._shapes[block.name]
        # An unfactored gradient is cut by single entries, a factored one by rows of the parameter.
        per_row = n if block.right is not None else 1
        step = self._rows_per_chunk(n) if block.right is not None else self._rows_per_chunk(n) * n
        for chunk, start in enumerate(range(0, m * n // per_row, step)):
            values = block.dense(start, start + step)
            if self._scale is not None:
                first = self._slices[block.name].start + start * per_row
                values = values * self._scale[first : first + values.shape[1]]
            signs = self._signs(block.name, chunk, total.device)
            total[block.places] += (values @ signs) / math.sqrt(self.dimension)

    def _rows_per_chunk(self, row_length: int) -> int:
        return max(1, CHUNK_ENTRIES // (row_length * self.dimension))

    def _signs(self, name: str, chunk: int, device: torch.device) -> Tensor:
        """(entries of the chunk, d) of ±1; kept on the device where all of them are few."""
        if self._cache is not None and (name, chunk) in self._cache:
            return self._cache[name, chunk]
        m, n = self._shapes[name]
        rows = self._rows_per_chunk(n)
        entries = (min(m, (chunk + 1) * rows) - chunk * rows) * n
        key = np.random.SeedSequence([self.seed, zlib.crc32(name.encode()), chunk])
        random = np.random.Generator(np.random.Philox(key)).bytes(math.ceil(entries * self.dimension / 8))
        bits = np.unpackbits(np.frombuffer(random, np.uint8), count=entries * self.dimension)
        signs = torch.from_numpy(bits).to(torch.float32).mul_(2).sub_(1).view(entries, self.dimension)
        signs = signs.to(device)
        if self._cache is not None:
            self._cache[name, chunk] = signs
        return signs
