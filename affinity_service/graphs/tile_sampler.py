"""Neighbours drawn from the edge tiles, one row block in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from affinity_service.graphs.neighbours import drawn
from affinity_service.graphs.tiles import GraphFacts, Tiles


@dataclass(frozen=True)
class TileSampler:
    """A ``NeighbourSampler``. tiles : number of a row block → its tiles."""

    facts: GraphFacts
    tiles: Callable[[int], Tiles]

    def __call__(self, nodes: Tensor, fanout: int, rng: np.random.Generator) -> Tensor:
        found = []
        for block in range(self.facts.blocks):
            rows = self.facts.rows(block)
            own = nodes[(nodes >= rows.start) & (nodes < rows.stop)]
            if len(own):
                row, neighbour = self._edges(block, own - rows.start)
                found.append(drawn(row.numpy(), neighbour.numpy(), own, fanout, rng))
        return torch.cat(found) if found else nodes.new_empty(0, fanout)

    def _edges(self, block: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Places among `places` and neighbours of all edges of these nodes of the block."""
        rows, neighbours = [], []
        tiles = self.tiles(block)
        for number, (offsets, listed) in enumerate(zip(tiles.offsets, tiles.neighbours, strict=True)):
            first = offsets[places].long()
            lengths = offsets[places + 1].long() - first
            row = torch.arange(len(places)).repeat_interleave(lengths)
            within = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
            rows.append(row)
            neighbours.append(listed[first[row] + within].long() + self.facts.rows(number).start)
        return torch.cat(rows), torch.cat(neighbours)
