from dataclasses import replace

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.graphs.raw import check_graph, chosen_tasks, induced_graph


def test_a_whole_graph_passes(small):
    check_graph(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": np.empty((0, 2), np.int64)}, "made: the graph is empty: 7 nodes, 0 edges"),
        ({"ids": np.empty(0, np.int64)}, "made: the graph is empty: 0 nodes, 10 edges"),
        ({"members": {}}, "made: no node belongs to any task"),
        ({"members": {"left": np.empty(0, np.int64)}}, "made: no node belongs to any task"),
        ({"edges": np.array([[0, 7]])}, "made: an edge names node 7; expected 0 … 6"),
        ({"edges": np.array([[0, 1], [-1, 2]])}, "made: an edge names node -1; expected 0 … 6"),
        ({"members": {"left": np.array([0, 9])}}, "made: task `left` names node 9; expected 0 … 6"),
        ({"others": {"right": np.array([-4])}}, "made: task `right` names node -4; expected 0 … 6"),
    ],
)
def test_what_does_not_exist_is_named(small, change, message):
    with pytest.raises(UserError) as error:
        check_graph(replace(small, **change))
    assert message in str(error.value)


def test_named_tasks_and_the_largest(small):
    graph = replace(small, members={**small.members, "both": np.arange(6), "also": np.arange(1, 4)})
    assert list(chosen_tasks(graph, ["right", "both"], None).members) == ["right", "both"]
    assert list(chosen_tasks(graph, ["right"], None).others) == ["right"]
    assert list(chosen_tasks(graph, None, 2).members) == ["both", "left"], "ties by their order in the source"
    assert not chosen_tasks(graph, None, 2).others
    assert list(chosen_tasks(graph, None, None).members) == list(graph.members)


@pytest.mark.parametrize(
    ("names", "largest", "message"),
    [
        (["lef"], None, "made: no task `lef` among the 2 there are; did you mean `left`?"),
        (["left", "left"], None, "made: data.tasks names `left` more than once"),
        (None, 3, "made: the 3 largest communities are asked for, there are 2"),
    ],
)
def test_tasks_that_are_not_there(small, names, largest, message):
    with pytest.raises(UserError) as error:
        chosen_tasks(small, names, largest)
    assert message in str(error.value)


def test_an_induced_graph_has_the_tasks_nodes_and_the_edges_between_them(small):
    found = induced_graph(chosen_tasks(small, ["right"], None))
    assert found.ids.tolist() == [10, 13, 14, 15, 16], "known non-members count too"
    assert found.ids[found.edges].tolist() == [[13, 14], [14, 15], [15, 13], [14, 14]]
    assert found.ids[found.members["right"]].tolist() == [13, 14, 15]
    assert found.ids[found.others["right"]].tolist() == [10, 16]
    np.testing.assert_array_equal(found.features, small.features[[0, 3, 4, 5, 6]])
    assert found.split.tolist() == [0, 0, 1, 2, 0]
    check_graph(found)
