"""Sampled neighbourhoods, from tiles and through PyTorch Geometric: who is drawn how often; the features of nodes."""

from __future__ import annotations

import builtins
import sys
import types
from collections import Counter

import numpy as np
import pytest
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_graphs import NeighbourConfig
from affinity_service.errors import UserError
from affinity_service.graphs.blocks import read_block, write_block
from affinity_service.graphs.pyg_sampler import check_installed
from affinity_service.graphs.tiles import tile_edges
from affinity_service.graphs.trees import example_nodes, gather
from affinity_service.tasks.source import planned_suite
from affinity_service.tasks.suite import TRAIN, standardise_inputs
from tests.suites import neighbourhood_suite

# Node 7 has no edge; node 0 has many.
NODES = 8
EDGES = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [0, 6], [1, 2], [5, 6], [2, 2], [6, 5]])


def graph(block_rows: int = 3, directed: bool = False):
    facts, tiles = tile_edges(EDGES, NODES, directed, block_rows)
    return facts, list(tiles).__getitem__


def neighbours_of(directed: bool = False) -> dict[int, set[int]]:
    """Slow and obvious."""
    found: dict[int, set[int]] = {node: set() for node in range(NODES)}
    for source, target in EDGES.tolist():
        if source != target:
            found[target].add(source)
            if not directed:
                found[source].add(target)
    return found


def backend() -> bool:
    try:
        check_installed()
    except UserError:
        return False
    return True


needs_backend = pytest.mark.skipif(not backend(), reason="PyTorch Geometric is not installed or has nothing to draw by")
each_sampler = pytest.mark.parametrize("sampler", ["tiles", pytest.param("pyg", marks=needs_backend)])


@each_sampler
@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("block_rows", [3, 100])
def test_every_node_stands_before_neighbours_of_its_own(sampler, directed, block_rows):
    facts, tiles = graph(block_rows, directed)
    known = neighbours_of(directed)
    nodes = torch.tensor([0, 2, 5, 7])
    settings = NeighbourConfig(fanouts=[4, 3], sampler=sampler)
    found = example_nodes(nodes, settings, facts, tiles, 0).tolist()
    for node, tree in zip(nodes.tolist(), found, strict=True):
        assert tree[0][0] == node
        for parent, rows in ((node, [line[0] for line in tree]), *((line[0], line) for line in tree)):
            own, drawn = known[parent], Counter(rows[1:])
            assert rows[0] == parent
            assert set(drawn) <= (own or {parent})
            if own:
                # Without replacement where there are enough; else all, equally often up to one time.
                times = [drawn[each] for each in own]
                assert max(times) - min(times) <= 1


@each_sampler
def test_all_neighbours_are_drawn_alike_and_by_the_seed(sampler):
    facts, tiles = graph()

    def draw(seed: int) -> torch.Tensor:
        settings = NeighbourConfig(fanouts=[2, 1], sampler=sampler, seed=seed)
        return example_nodes(torch.tensor([0]), settings, facts, tiles, 0)

    state = torch.random.get_rng_state()
    every = [draw(seed) for seed in range(300)]
    assert torch.equal(every[5], draw(5))
    assert torch.equal(state, torch.random.get_rng_state())
    drawn = Counter(node for tree in every for node in tree[0, 1:, 0].tolist())
    # 100 each, with a standard deviation of 8.
    assert set(drawn) == {1, 2, 3, 4, 5, 6}
    assert all(65 < times < 135 for times in drawn.values())


def test_a_block_without_examples_is_kept_and_read(tmp_path):
    facts, tiles = graph()
    nodes = example_nodes(torch.empty(0, dtype=torch.long), NeighbourConfig(fanouts=[4, 2]), facts, tiles, 1)
    assert nodes.shape == (0, 5, 3)
    features = gather(nodes, facts, lambda block: (torch.ones(3, 6), torch.ones(3, 1)))
    folder = StudyFolder.at(tmp_path)
    write_block(folder, "empty.arrow", features)
    assert read_block(folder, "empty.arrow").shape == (0, 5, 3, 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_every_place_are_its_nodes(dtype, monkeypatch):
    monkeypatch.setattr("affinity_service.graphs.trees.TOGETHER", 5)
    facts, tiles = graph()
    nodes = example_nodes(torch.tensor([3, 4, 5]), NeighbourConfig(fanouts=[3, 2]), facts, tiles, 1)
    features, scale = torch.randn(NODES, 4).to(dtype), torch.rand(NODES, 1) + 0.5
    parts = [facts.rows(block) for block in range(facts.blocks)]
    found = gather(nodes, facts, lambda block: (features[parts[block]], scale[parts[block]]))
    torch.testing.assert_close(found, (features.float() / scale)[nodes])


def test_a_node_is_standardised_alike_wherever_it_stands():
    suite = neighbourhood_suite()
    found = standardise_inputs(suite, places_alike=True)
    training = suite.inputs[suite.split == TRAIN].reshape(-1, suite.inputs.shape[-1])
    np.testing.assert_allclose(found.inputs, (suite.inputs - training.mean(0)) / training.std(0), atol=1e-5)


def config(data: dict, model: dict) -> Config:
    small = {"source": "generated_graph", "nodes": 500, "edges": 2000, "communities": 5, "largest": 3}
    data = {**small, "community_sizes": [40, 80], "minimum_positives": 1, **data}
    return Config.parse({"name": "x", "data": data, "model": model})


def test_the_config_pairs_neighbours_with_sage_and_can_be_run_again_as_it_stands():
    found = config({"neighbours": {"fanouts": [4, 2]}}, {"kind": "sage", "hidden": [8, 8]})
    assert found.data.hops == 0
    assert Config.from_yaml(found.to_yaml()) == found
    assert planned_suite(found.data).inputs.shape[1:] == (5, 3, 128)
    assert config({}, {"kind": "sign"}).data.hops == 3


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"hops": 2, "neighbours": {}}, {}, "hops 2 and neighbours are two kinds of inputs"),
        ({"neighbours": {}}, {"kind": "sign"}, "sign reads hops, which data.neighbours replaces"),
        ({}, {"kind": "sage"}, r"2 hidden widths needs as many .*fanouts, but there are 0; such as .* \[10, 5\]"),
        ({"neighbours": {"fanouts": [5]}}, {"kind": "sage"}, "needs as many data.neighbours.fanouts, but there are 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(data, model, message):
    with pytest.raises(UserError, match=message):
        config(data, model)


def test_a_missing_loader_is_named_before_anything_starts(monkeypatch):
    asked = config({"neighbours": {"sampler": "pyg"}}, {"kind": "sage"})
    imported = builtins.__import__

    def without(name, *more, **others):
        if name.startswith("torch_geometric"):
            raise ImportError(name)
        return imported(name, *more, **others)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pip install 'affinity-service\[graphs\]', and pyg-lib"):
            planned_suite(asked.data)
    typing = types.SimpleNamespace(WITH_PYG_LIB=False, WITH_TORCH_SPARSE=False)
    monkeypatch.setitem(sys.modules, "torch_geometric", types.SimpleNamespace(typing=typing))
    with pytest.raises(UserError, match=r"neither pyg-lib nor torch-sparse.*install pyg-lib as .*or use sampler tiles"):
        planned_suite(asked.data)
