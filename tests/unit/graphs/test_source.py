from dataclasses import replace

import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.source import planned_graph, read_graph, source_identity
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.stages import stages_of
from affinity_service.tasks.source import planned_suite


def data(path, **settings):
    return Config.parse({"name": "g", "data": {"source": "graph", "path": str(path), **settings}}).data


@pytest.fixture
def written(small, tmp_path):
    write_graph_tables(small, str(tmp_path / "g"))
    return tmp_path / "g"


def test_the_source_is_read_by_its_kind(written, tmp_path):
    assert read_graph(data(written)).nodes == 7
    (tmp_path / "e.txt").write_text("1 2\n2 3\n")
    (tmp_path / "c.txt").write_text("1 2\n")
    snap = {"source": "snap", "edges": str(tmp_path / "e.txt"), "communities": str(tmp_path / "c.txt")}
    assert read_graph(Config.parse({"name": "g", "data": snap}).data).nodes == 3


def test_what_is_planned_is_what_is_read(written):
    graph, edges = planned_graph(data(written, tasks=["right"], subgraph="induced"))
    assert (graph.nodes, edges) == (5, 4)
    generated = {"source": "generated_graph", "nodes": 300, "edges": 900, "communities": 6, "community_sizes": [10, 40]}
    own = Config.parse({"name": "g", "data": generated}).data
    planned, edges = planned_graph(own)
    assert edges == 900
    assert not len(planned.edges), "the edges take longest"
    whole = read_graph(own)
    assert all(np.array_equal(planned.members[name], whole.members[name]) for name in whole.members)


def test_features_that_are_asked_for_and_not_there(small, tmp_path):
    write_graph_tables(replace(small, features=None), str(tmp_path))
    with pytest.raises(UserError, match=r"data\.features\.kind is given, but the nodes have none: use structural"):
        read_graph(data(tmp_path, features={"kind": "given"}))


def test_chosen_tasks_without_an_edge_between_their_nodes(tmp_path):
    graph = RawGraph("g", np.arange(4), np.array([[0, 1], [2, 3]]), {"a": np.array([0, 2]), "b": np.array([1])})
    write_graph_tables(graph, str(tmp_path))
    with pytest.raises(UserError, match="the chosen tasks' 2 nodes have no edge between them"):
        read_graph(data(tmp_path, tasks=["a"], subgraph="induced"))


def test_blocks_must_not_be_too_many():
    content = {"source": "generated_graph", "nodes": 5000, "edges": 900, "communities": 6, "community_sizes": [10, 40]}
    own = Config.parse({"name": "g", "data": {**content, "block_rows": 3}}).data
    for read in (planned_graph, read_graph):
        with pytest.raises(
            UserError, match=r"block_rows 3 makes 1667 blocks of 5000 nodes; expected 1000 at most: use 5"
        ):
            read(own)


def test_the_identity_is_of_what_the_files_hold_not_of_where_they_lie(small, written, tmp_path):
    moved = tmp_path / "moved"
    written.rename(moved)
    before = data(moved)
    identity = source_identity(before)
    moved.rename(written)
    assert source_identity(data(written)) == identity
    stage = stages_of(Config.parse({"name": "g", "data": before}))[0]
    assert stage.name == "suite"
    prints = {
        stage.fingerprint(Config.parse({"name": "g", "data": own}), {"source": identity})
        for own in (before, data(written), data(written, workers=7))
    }
    assert len(prints) == 1
    write_graph_tables(replace(small, features=None), str(written))
    assert source_identity(data(written)) != identity


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"source": "graph", "path": "nowhere"}, "nowhere: no such file or folder"),
        ({"source": "graph", "path": "here"}, "here: is a file, expected a folder of nodes.parquet"),
        ({"source": "snap", "edges": "nowhere", "communities": "here"}, "nowhere: no such file"),
        ({"source": "snap", "edges": "here", "communities": "."}, ".: cannot be read: Is a directory"),
    ],
)
def test_files_that_are_not_there(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("1 2\n")
    own = Config.parse({"name": "g", "data": source}).data
    with pytest.raises(UserError) as error:
        source_identity(own)
    assert message in str(error.value)
    with pytest.raises(UserError):
        read_graph(own)


def test_a_planned_suite_has_the_counts_of_the_real_one_and_takes_no_memory(tmp_path):
    content = {"source": "generated_graph", "nodes": 400, "edges": 2000, "communities": 6, "community_sizes": [30, 90]}
    content |= {"hops": 2, "features": {"dimension": 5}}
    suite = planned_suite(Config.parse({"name": "g", "data": content}).data)
    assert suite.inputs.shape[1:] == (3, 5)
    assert suite.inputs.strides == (0, 0, 0)
    assert suite.facts == {"nodes": 400, "edges": 2000}
    assert len(suite.tasks) == 6
    assert suite.content_hash
