"""One hop over a graph: every node's features become a mean of its own and its neighbours'.

With Â = A + I and degrees of Â in D, `symmetric` is D^−½ Â D^−½ X (Kipf and Welling 2017, eq. 2) and `mean` D⁻¹ Â X.
While features travel they are kept as Z = D^−½ X (symmetric) or Z = X (mean), so that a hop is a plain sum over
neighbours and a scale per row: Z' = D⁻¹ Â Z either way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from affinity_service.graphs.tiles import Tiles

# Numbers of what is made at a time: larger arrays would be fresh memory each time, whose first touch costs more than
# the sums.
_ENTRIES = 1 << 20
Normalisation = Literal["symmetric", "mean"]


def row_scale(degrees: Tensor, normalisation: Normalisation) -> Tensor:
    """(rows, 1) float32, what features are multiplied by to travel."""
    own = (degrees.float() + 1)[:, None]
    return own.rsqrt() if normalisation == "symmetric" else torch.ones_like(own)


def next_hop(tiles: Tiles, block: int, travelling: Callable[[int], Tensor]) -> Tensor:
    """(rows, d) the block's travelling features one hop on, in the type that they are given in.

    Parameters
    ----------
    travelling : number of a block → its features (rows, d), float32 or bfloat16.
    """
    own = travelling(block)
    # A copy: the block itself is a read-only map of its file.
    total = own.to(torch.float32, copy=True)
    rows = max(1, _ENTRIES // own.shape[1])
    for number, (offsets, neighbours) in enumerate(zip(tiles.offsets, tiles.neighbours, strict=True)):
        if not len(neighbours):
            continue
        features = own if number == block else travelling(number)
        for first in range(0, len(own), rows):
            ends = offsets[first : first + rows + 1]
            start, stop = int(ends[0]), int(ends[-1])
            if start < stop:
                # A sum over rows that are listed: many times faster than torch's product of a sparse matrix.
                total[first : first + rows] += embedding_bag(
                    neighbours[start:stop], features, ends - start, mode="sum", include_last_offset=True
                )
    return total.div_(tiles.degrees.float().add_(1)[:, None]).to(own.dtype)
