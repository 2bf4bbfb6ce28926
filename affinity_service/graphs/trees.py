"""The inputs of examples whose neighbours are sampled: the features of all nodes in their neighbourhoods."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from affinity_service.config_graphs import NeighbourConfig
from affinity_service.graphs.neighbours import NeighbourSampler, sample_neighbourhoods
from affinity_service.graphs.pyg_sampler import PyGSampler, check_installed
from affinity_service.graphs.tile_sampler import TileSampler
from affinity_service.graphs.tiles import GraphFacts, Tiles

# Nodes whose features are copied at a time.
TOGETHER = 1 << 16


def check_sampler(config: NeighbourConfig) -> None:
    """Raise ``UserError`` where the sampler that the config names is not installed."""
    if config.sampler == "pyg":
        check_installed()


def example_nodes(
    nodes: Tensor, config: NeighbourConfig, facts: GraphFacts, tiles: Callable[[int], Tiles], block: int
) -> Tensor:
    """(n, 1 + fanout 1, …) nodes of the neighbourhoods of the examples `nodes` (n,) of one block, by the config's seed.

    tiles : number of a row block → its tiles.
    """
    seed = [config.seed, block]
    sampler: NeighbourSampler = TileSampler(facts, tiles)
    if config.sampler == "pyg":
        # One number more than steps take.
        sampler = PyGSampler(facts, tiles, np.random.default_rng([*seed, len(config.fanouts)]))
    return sample_neighbourhoods(nodes, config.fanouts, sampler, seed)


def gather(nodes: Tensor, facts: GraphFacts, features: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
    """(...) nodes → (..., d) float32 features of theirs.

    features : number of a block → what its rows (rows, d) are kept as, and (rows, 1) what they were multiplied by.
    """
    flat, width = nodes.flatten(), features(0)[0].shape[1]
    found = torch.empty(len(flat), width)
    for block in range(facts.blocks):
        rows, (kept, scale) = facts.rows(block), features(block)
        for part, target in zip(flat.split(TOGETHER), found.split(TOGETHER), strict=True):
            here = ((part >= rows.start) & (part < rows.stop)).nonzero()[:, 0]
            places = part[here] - rows.start
            target[here] = kept[places].float() / scale[places]
    return found.view(*nodes.shape, width)
