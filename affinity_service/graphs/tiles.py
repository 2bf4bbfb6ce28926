"""Adjacency in tiles: row blocks by column blocks, so that a hop needs one block of features in memory at a time.

A tile lists, per row of its row block, its neighbours in its column block. Tiles of one row block lie in one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from affinity_service.artifacts import StudyFolder

# Names of files: the graph's own edges, and those of a directed graph taken both ways.
TILES, BOTH_WAYS = "tiles", "both-ways"


@dataclass(frozen=True)
class GraphFacts:
    """What a graph came to.

    Attributes
    ----------
    nodes, edges : distinct edges without self-loops; an undirected one counts once.
    duplicates, self_loops : edges that were given again, in either order where undirected, or from a node to itself.
    isolated : nodes without an edge; their hops repeat their own features.
    block_rows : nodes per block.
    without_features : nodes whose structural features are zeros, as they lie in small components.
    """

    nodes: int
    edges: int
    duplicates: int
    self_loops: int
    isolated: int
    directed: bool
    block_rows: int
    without_features: int = 0

    @property
    def blocks(self) -> int:
        return -(-self.nodes // self.block_rows)

    @property
    def entries(self) -> int:
        """Neighbours in all lists together."""
        return self.edges * (1 if self.directed else 2)

    def rows(self, block: int) -> slice:
        return slice(block * self.block_rows, min(self.nodes, (block + 1) * self.block_rows))

    def counts(self) -> dict[str, int]:
        """What a reader of the study wants to know."""
        names = ("nodes", "edges", "duplicates", "self_loops", "isolated", "without_features")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, int | bool]:
        return asdict(self)


@dataclass(frozen=True)
class Tiles:
    """One row block.

    offsets : (column blocks, rows + 1) where each row's neighbours begin. neighbours : their places in the column
        block. degrees : (rows,) neighbours in all column blocks.
    """

    offsets: list[Tensor]
    neighbours: list[Tensor]
    degrees: Tensor


def tile_edges(
    edges: NDArray[np.int64], nodes: int, directed: bool, block_rows: int
) -> tuple[GraphFacts, Iterator[Tiles]]:
    """Facts of the graph, and its row blocks in order.

    Parameters
    ----------
    edges : (E, 2) from source to target; features go that way. Undirected edges go both ways.
    """
    block_rows = min(block_rows, nodes)
    loops = edges[:, 0] == edges[:, 1]
    source, target = edges[~loops].T if loops.any() else edges.T
    if not directed:
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    blocks = -(-nodes // block_rows)
    # One number per entry, in the order of tiles, then rows, then neighbours.
    row_block, row = np.divmod(target, block_rows)
    keys = row_block * blocks
    column_block, column = np.divmod(source, block_rows)
    keys += column_block
    keys = (keys * block_rows + row) * block_rows + column
    del source, target, row_block, row, column_block, column
    keys.sort()
    fresh = np.empty(len(keys), bool)
    fresh[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    given, keys = len(keys), keys[fresh]
    ways = 1 if directed else 2
    bounds = np.searchsorted(keys, np.arange(blocks**2 + 1) * block_rows**2)
    isolated = nodes - _touched(keys, blocks, block_rows, nodes, directed)
    facts = GraphFacts(
        nodes=nodes,
        edges=len(keys) // ways,
        duplicates=(given - len(keys)) // ways,
        self_loops=int(loops.sum()),
        isolated=isolated,
        directed=directed,
        block_rows=block_rows,
    )
    return facts, (_row_block(keys, bounds, facts, block) for block in range(blocks))


def count_edges(edges: NDArray[np.int64], nodes: int, directed: bool) -> GraphFacts:
    """The facts alone."""
    return tile_edges(edges, nodes, directed, nodes)[0]


def _touched(keys: NDArray[np.int64], blocks: int, block_rows: int, nodes: int, directed: bool) -> int:
    """Nodes that have an edge."""
    seen = np.zeros(blocks * block_rows, bool)
    tile, place = np.divmod(keys, block_rows**2)
    seen[tile // blocks * block_rows + place // block_rows] = True
    if directed:
        seen[tile % blocks * block_rows + place % block_rows] = True
    return int(seen[:nodes].sum())


def _row_block(keys: NDArray[np.int64], bounds: NDArray[np.int64], facts: GraphFacts, block: int) -> Tiles:
    rows = facts.rows(block)
    offsets, neighbours = [], []
    for tile in range(block * facts.blocks, (block + 1) * facts.blocks):
        row, column = np.divmod(keys[bounds[tile] : bounds[tile + 1]] % facts.block_rows**2, facts.block_rows)
        counts = np.bincount(row, minlength=rows.stop - rows.start)
        offsets.append(torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)))
        neighbours.append(torch.from_numpy(column.astype(np.int32)))
    degrees = sum((each.diff() for each in offsets), torch.zeros(rows.stop - rows.start, dtype=torch.int32))
    return Tiles(offsets, neighbours, torch.as_tensor(degrees))


def tiles_name(block: int, kind: str = TILES) -> str:
    return f"graph/{kind}-{block:05d}.safetensors"


def write_tiles(folder: StudyFolder, block: int, tiles: Tiles, kind: str = TILES) -> None:
    tensors = {"degrees": tiles.degrees}
    for number, (offsets, neighbours) in enumerate(zip(tiles.offsets, tiles.neighbours, strict=True)):
        tensors |= {f"offsets_{number}": offsets, f"neighbours_{number}": neighbours}
    folder.write_bytes(tiles_name(block, kind), save(tensors))


def read_tiles(folder: StudyFolder, block: int, kind: str = TILES) -> Tiles:
    """Memory-mapped."""
    tensors = load_file(str(folder.local_path(tiles_name(block, kind))))
    count = sum(1 for name in tensors if name.startswith("offsets_"))
    return Tiles(
        [tensors[f"offsets_{number}"] for number in range(count)],
        [tensors[f"neighbours_{number}"] for number in range(count)],
        tensors["degrees"],
    )
