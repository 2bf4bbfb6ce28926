"""Neighbours drawn by PyTorch Geometric's ``NeighborLoader``, which holds the whole graph in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.graphs.neighbours import drawn, shuffled_within
from affinity_service.graphs.tiles import GraphFacts, Tiles

# Nodes whose neighbours are drawn at a time.
TOGETHER = 1 << 16


def check_installed() -> None:
    """Raise ``UserError`` where the loader cannot run: it comes with torch_geometric, but draws through one of two
    compiled packages."""
    try:
        from torch_geometric import typing
    except ImportError as error:
        raise UserError(
            "data.neighbours.sampler pyg needs PyTorch Geometric: pip install 'affinity-service[graphs]', and pyg-lib "
            "as its installation guide has it for your version of torch; or use sampler tiles, which needs neither"
        ) from error
    if not (typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE):
        raise UserError(
            "data.neighbours.sampler pyg: torch_geometric is installed, but neither pyg-lib nor torch-sparse, through "
            "which its NeighborLoader draws: install pyg-lib as its installation guide has it for torch "
            f"{torch.__version__}, or use sampler tiles, which needs neither"
        )


class PyGSampler:
    """A ``NeighbourSampler``. rng : shuffles each node's neighbours, as torch-sparse (0.6.18) does not draw all of them
    alike: the last in a list about half as often.

    What is drawn by a seed depends on whether pyg-lib or torch-sparse is installed; the first is used where both are.
    """

    def __init__(self, facts: GraphFacts, tiles: Callable[[int], Tiles], rng: np.random.Generator) -> None:
        check_installed()
        from torch_geometric.data import Data

        edges = torch.cat([_edges(tiles(block), facts, block, rng) for block in range(facts.blocks)], dim=1)
        self.data = Data(edge_index=edges, num_nodes=facts.nodes)

    def __call__(self, nodes: Tensor, fanout: int, rng: np.random.Generator) -> Tensor:
        from torch_geometric.loader import NeighborLoader

        found = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 63)))
            loader = NeighborLoader(
                self.data, [fanout], input_nodes=nodes, batch_size=TOGETHER, shuffle=False, is_sorted=True
            )
            for batch in loader:
                own = batch.n_id[: batch.batch_size]
                source, target = batch.edge_index
                found.append(drawn(target.numpy(), batch.n_id[source].numpy(), own, fanout, rng))
        return torch.cat(found) if found else nodes.new_empty(0, fanout)


def _edges(tiles: Tiles, facts: GraphFacts, block: int, rng: np.random.Generator) -> Tensor:
    """(2, e) neighbours and nodes of a row block: nodes in order, their neighbours in none."""
    row, neighbour = [], []
    for number, (offsets, listed) in enumerate(zip(tiles.offsets, tiles.neighbours, strict=True)):
        row.append(torch.arange(len(tiles.degrees)).repeat_interleave(offsets.diff().long()))
        neighbour.append(listed.long() + facts.rows(number).start)
    rows = torch.cat(row)
    order = shuffled_within(rows.numpy(), rng)
    return torch.stack([torch.cat(neighbour)[order], rows[order] + facts.rows(block).start])
