import numpy as np
import pytest
import torch

from affinity_service.graphs.propagate import next_hop, row_scale
from affinity_service.graphs.tiles import tile_edges
from tests.unit.graphs.propagate_reference import dense_operator


def test_an_isolated_node_keeps_what_it_has(small):
    _, tiles = tile_edges(small.edges, small.nodes, False, small.nodes)
    (only,) = tiles
    features = torch.randn(7, 3)
    for normalisation in ("symmetric", "mean"):
        scale = row_scale(only.degrees, normalisation)
        travelling = features * scale
        found = next_hop(only, 0, lambda _, own=travelling: own) / scale
        torch.testing.assert_close(found[6], features[6])
        expected = dense_operator(small.edges, small.nodes, False, normalisation) @ features.double()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hop_leaves_what_it_reads_as_it_was(small, dtype):
    _, tiles = tile_edges(small.edges, small.nodes, False, small.nodes)
    travelling = torch.randn(7, 3).to(dtype)
    before = travelling.clone()
    made = next_hop(next(tiles), 0, lambda _: travelling)
    assert torch.equal(before, travelling)
    assert made.dtype == dtype


def test_many_neighbours_do_not_drown_in_the_short_type():
    # A sum kept in bfloat16 would stop growing at 256.
    leaves = 5000
    edges = torch.stack([torch.zeros(leaves, dtype=torch.long), torch.arange(1, leaves + 1)], dim=1).numpy()
    _, tiles = tile_edges(edges, leaves + 1, False, leaves + 1)
    made = next_hop(next(tiles), 0, lambda _: torch.ones(leaves + 1, 8, dtype=torch.bfloat16))
    assert (made == 1).all()


def test_a_block_without_any_neighbour_is_left_as_it_was():
    # Directed: nothing leads to the first two nodes, which are a block.
    facts, tiles = tile_edges(np.array([[0, 2], [1, 3]]), 4, True, 2)
    travelling = [torch.ones(2, 3), torch.full((2, 3), 3.0)]
    made = [next_hop(own, block, travelling.__getitem__) for block, own in enumerate(tiles)]
    assert torch.equal(made[0], torch.ones(2, 3))
    assert made[0].data_ptr() != travelling[0].data_ptr(), "blocks are read-only maps of files"
    assert torch.equal(made[1], torch.full((2, 3), 2.0))
    assert facts.blocks == 2
