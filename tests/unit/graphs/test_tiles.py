import numpy as np
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.graphs.tiles import count_edges, read_tiles, tile_edges, write_tiles


def test_edges_are_counted_once_whatever_repeats(small):
    facts = count_edges(small.edges, small.nodes, directed=False)
    assert facts.counts() == {
        "nodes": 7,
        "edges": 7,
        "duplicates": 2,
        "self_loops": 1,
        "isolated": 1,
        "without_features": 0,
    }
    facts = count_edges(small.edges, small.nodes, directed=True)
    assert facts.counts() == {
        "nodes": 7,
        "edges": 8,
        "duplicates": 1,
        "self_loops": 1,
        "isolated": 1,
        "without_features": 0,
    }


def test_blocks_of_rows(small):
    facts, tiles = tile_edges(small.edges, small.nodes, False, 3)
    assert facts.blocks == 3
    assert [facts.rows(block) for block in range(3)] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    first, second, last = tiles
    assert first.degrees.tolist() == [2, 2, 3]
    assert first.offsets[0].tolist() == [0, 2, 4, 6]
    assert first.neighbours[0].tolist() == [1, 2, 0, 2, 0, 1]
    assert first.offsets[1].tolist() == [0, 0, 0, 1]
    assert first.neighbours[1].tolist() == [0]
    assert second.degrees.tolist() == [3, 2, 2]
    assert last.degrees.tolist() == [0]
    assert [len(each) for each in last.neighbours] == [0, 0, 0]


def test_direction_is_from_source_to_target():
    _, tiles = tile_edges(np.array([[0, 1], [2, 1]]), 3, True, 10)
    (only,) = tiles
    assert only.degrees.tolist() == [0, 2, 0]
    assert only.neighbours[0].tolist() == [0, 2]


@pytest.mark.parametrize("directed", [False, True])
def test_a_graph_of_self_loops_alone(directed):
    facts, tiles = tile_edges(np.array([[1, 1], [1, 1], [0, 0]]), 4, directed, 2)
    assert facts.counts() == {
        "nodes": 4,
        "edges": 0,
        "duplicates": 0,
        "self_loops": 3,
        "isolated": 4,
        "without_features": 0,
    }
    assert all(not own.degrees.any() for own in tiles)


def test_tiles_come_back_from_the_folder(small, tmp_path):
    folder = StudyFolder.at(tmp_path)
    _, tiles = tile_edges(small.edges, small.nodes, False, 3)
    for block, own in enumerate(tiles):
        write_tiles(folder, block, own)
        found = read_tiles(folder, block)
        assert found.degrees.tolist() == own.degrees.tolist()
        for kind in ("offsets", "neighbours"):
            assert [t.tolist() for t in getattr(found, kind)] == [t.tolist() for t in getattr(own, kind)]
