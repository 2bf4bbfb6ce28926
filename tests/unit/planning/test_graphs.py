"""What preparing a graph is planned to cost."""

from dataclasses import replace

import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.planning import graphs
from affinity_service.planning.workload import Workload
from affinity_service.tasks.source import planned_suite

NODES, EDGES, WIDTH = 80, 200, 6


@pytest.fixture
def graph():
    rng = np.random.default_rng(0)
    members = {"a": np.arange(40), "b": np.arange(25, 70)}
    features = rng.normal(size=(NODES, WIDTH)).astype(np.float32)
    return RawGraph("g", np.arange(NODES), rng.integers(NODES, size=(EDGES, 2)), members, features=features)


def flops(path, kind="auto", **settings):
    features = {"kind": kind, "dimension": WIDTH, "iterations": 3}
    data = {"source": "graph", "path": str(path), "hops": 2, "features": features, **settings}
    config = Config.parse({"name": "g", "data": data, "model": {"kind": "sign"}})
    return graphs.suite_flops(config, Workload.of(config, planned_suite(config.data)))


@pytest.mark.parametrize("width", [WIDTH, WIDTH - 2])
def test_an_embedding_is_planned_only_where_it_is_made(graph, tmp_path, width):
    write_graph_tables(replace(graph, features=graph.features[:, :width]), str(tmp_path / "with"))
    write_graph_tables(replace(graph, features=None), str(tmp_path / "without"))
    hop = 2.0 * 2 * EDGES
    assert flops(tmp_path / "with") == flops(tmp_path / "with", "given") == 2 * hop * width
    made = (2 * 3 + 2) * hop * WIDTH
    assert flops(tmp_path / "without") == flops(tmp_path / "with", "structural") == made


def test_the_embedding_of_a_directed_graph_goes_both_ways(graph, tmp_path):
    write_graph_tables(graph, str(tmp_path))
    directed = {"directed": True, "normalisation": "mean"}
    assert flops(tmp_path, **directed) == 2 * 2.0 * EDGES * WIDTH
    assert flops(tmp_path, "structural", **directed) == (2 * 3 * 2 + 2) * 2.0 * EDGES * WIDTH
