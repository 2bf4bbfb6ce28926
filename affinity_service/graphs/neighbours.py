"""Sampled neighbourhoods: for every node as many neighbours as a fanout says, and of these, and so on.

Of each step one sample serves every place that a node stands in, as in algorithm 2 of GraphSAGE (Hamilton, Ying and
Leskovec 2017, arXiv 1706.02216); other steps have samples of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class NeighbourSampler(Protocol):
    """Where neighbours are drawn from: the edge tiles, or PyTorch Geometric."""

    def __call__(self, nodes: Tensor, fanout: int, rng: np.random.Generator) -> Tensor:
        """(m,) distinct nodes, ascending → (m, fanout) of their neighbours, as `drawn` spreads them."""
        ...


def sample_neighbourhoods(
    nodes: Tensor, fanouts: Sequence[int], sample: NeighbourSampler, seed: Sequence[int]
) -> Tensor:
    """(n,) nodes → (n, 1 + fanout 1, 1 + fanout 2, …) nodes.

    Along every axis the node that the axes before it chose comes first, then neighbours of it: [i, 0, 0] is node i,
    [i, a, 0] its a-th neighbour, [i, a, b] the b-th neighbour of that one.
    """
    for step, fanout in enumerate(fanouts):
        distinct, place = nodes.unique(return_inverse=True)
        found = sample(distinct, fanout, np.random.default_rng([*seed, step]))
        nodes = torch.cat([nodes[..., None], found[place]], dim=-1)
    return nodes


def drawn(
    row: NDArray[np.int64], neighbour: NDArray[np.int64], nodes: Tensor, fanout: int, rng: np.random.Generator
) -> Tensor:
    """(m, fanout) neighbours out of a list of edges: without replacement where a node has enough; else each as often as
    any other, but for one time that chance gives to some; itself where it has none.

    row, neighbour : (e,) place of a node among the `nodes` (m,), and a neighbour of it.
    """
    order = shuffled_within(row, rng)
    degree = np.bincount(row, minlength=len(nodes))
    start = np.cumsum(degree) - degree
    turn = start[:, None] + np.arange(fanout) % np.maximum(degree, 1)[:, None]
    found = np.repeat(nodes.numpy()[:, None], fanout, axis=1)
    some = degree > 0
    found[some] = neighbour[order[turn[some]]]
    return torch.from_numpy(found)


def shuffled_within(row: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(e,) an order by row, and by chance within a row."""
    # Rows in the high bits, chance in the low ones: one sort does both.
    return np.argsort((row << 32) + rng.integers(1 << 32, size=len(row)))
