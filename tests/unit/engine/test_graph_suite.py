"""Layers of a graph, made without a cluster."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.graph_suite import FACTS, HOP, Layer, build_graph, layers_of, warn_of
from affinity_service.graphs.blocks import layer_reader
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.graphs.tiles import GraphFacts

NODES = 60


@pytest.fixture
def written(tmp_path):
    """Forty nodes that no edge leads to behind a ring, and a pair and a node apart."""
    ring = np.stack([np.arange(17), np.roll(np.arange(17), 1)], axis=1)
    leaves = np.stack([np.arange(17, 57), np.random.default_rng(0).integers(17, size=40)], axis=1)
    edges = np.concatenate([ring, leaves, [[57, 58]]])
    members = {"a": np.arange(0, 30), "b": np.arange(25, 59)}
    write_graph_tables(RawGraph("g", np.arange(NODES), edges, members), str(tmp_path / "g"))
    return tmp_path


def made(written, name, **settings):
    """Facts, and the features that the hops begin with and have after the first."""
    data = {"source": "graph", "path": str(written / "g"), "normalisation": "mean", "hops": 1, "block_rows": 25}
    data |= {"features": {"dimension": 4, "iterations": 3}, **settings}
    source, folder = Config.parse({"name": "g", "data": data}).data, StudyFolder.at(written / name)
    build_graph._function(source, folder)
    found = folder.read_json(FACTS)
    given, entries = found.pop("given"), found.pop("embedding_entries")
    facts = GraphFacts(**found)
    for layer in layers_of(source, given):
        for block in range(facts.blocks):
            layer.make(block, facts, source, folder)
        layer.finish(facts, folder)
    hops = [[layer_reader(folder, Layer(HOP, n).name)(block) for block in range(facts.blocks)] for n in (0, 1)]
    return facts, entries, *map(torch.cat, hops)


def test_structural_features_of_a_directed_graph_are_those_of_its_edges_both_ways(written):
    facts, entries, start, after = made(written, "directed", directed=True)
    plain, plain_entries, expected, both = made(written, "plain")
    assert (entries, facts.entries) == (plain_entries, facts.edges) == (2 * plain.edges, plain.edges)
    torch.testing.assert_close(start, expected)
    assert not torch.allclose(after, both), "hops go along edges"
    torch.testing.assert_close(after[17:57], start[17:57])


def test_nodes_without_structural_features_are_counted_and_warned_of(written):
    facts, _, start, _ = made(written, "plain")
    assert facts.without_features == 3 == int((start == 0).all(dim=1).sum())
    assert facts.counts()["without_features"] == 3
    warnings = []
    warn_of(facts, 4, warnings.append)
    assert warnings[0].startswith("1 of 60 nodes have no edge")
    assert warnings[1].startswith("3 of 60 nodes lie in components of at most 4 nodes (data.features.dimension)")
    warn_of(replace(facts, isolated=0, without_features=0), 4, pytest.fail)
