from dataclasses import replace

import numpy as np
import pytest

from affinity_service.config_graphs import GraphTablesSource
from affinity_service.errors import UserError
from affinity_service.graphs.examples import sample_examples
from affinity_service.graphs.raw import RawGraph
from affinity_service.tasks.source import checked_suite

NODES = 400


def source(**settings):
    return GraphTablesSource(path="g", **settings)


@pytest.fixture
def graph():
    rng = np.random.default_rng(0)
    members = {f"t{size}": np.sort(rng.choice(NODES, size, replace=False)) for size in (10, 30, 60, 90, 91)}
    return RawGraph("g", np.arange(NODES), np.array([[0, 1]]), members)


def test_members_are_positives_and_strangers_negatives(graph):
    found = sample_examples(graph, source(negatives=0.5))
    assert found.tasks == tuple(graph.members)
    assert (np.diff(found.nodes) > 0).all()
    for column, members in enumerate(graph.members.values()):
        assert found.nodes[found.labels[:, column] == 1].tolist() == members.tolist()
        negatives = found.nodes[found.labels[:, column] == 0]
        assert len(negatives) == round(0.5 * len(members))
        assert not np.isin(negatives, members).any()
        assert np.isin(negatives, np.concatenate(list(graph.members.values()))).all()


def test_positives_have_a_cap_and_negatives_follow_it(graph):
    found = sample_examples(graph, source(most_positives=40, negatives=2))
    assert (found.labels == 1).sum(axis=0).tolist() == [10, 30, 40, 40, 40]
    assert (found.labels == 0).sum(axis=0).tolist() == [20, 60, 80, 80, 80]


def test_negatives_may_come_from_all_nodes(graph):
    belongs = np.concatenate(list(graph.members.values()))
    for where, inside in (("members", True), ("nodes", False)):
        found = sample_examples(graph, source(negatives=1, negatives_from=where))
        negatives = found.nodes[(found.labels == 0).any(axis=1)]
        assert np.isin(negatives, belongs).all() == inside


def test_known_negatives_take_the_place_of_sampled_ones(graph):
    others = np.setdiff1d(np.arange(50), graph.members["t30"])
    found = sample_examples(replace(graph, others={"t30": others}), source())
    assert found.nodes[found.labels[:, 1] == 0].tolist() == others.tolist()
    assert (found.labels[:, 0] == 0).sum() == 10


def test_known_negatives_have_a_cap_where_positives_have_one(graph):
    others = np.setdiff1d(np.arange(NODES), graph.members["t30"])
    known = replace(graph, others={"t30": others})
    for settings, expected in (
        ({}, len(others)),
        ({"most_positives": 20, "negatives": 1.5}, 30),
        ({"most_positives": 500, "negatives": 2}, 60),
        ({"most_positives": 30, "negatives": 100}, len(others)),
    ):
        found = sample_examples(known, source(**settings))
        negatives = found.nodes[found.labels[:, 1] == 0]
        assert len(negatives) == expected
        assert np.isin(negatives, others).all()
    assert not np.array_equal(
        *(sample_examples(known, source(most_positives=20, sample_seed=seed)).nodes for seed in (0, 1))
    )


@pytest.mark.parametrize("known", [False, True])
def test_a_given_split_has_both_classes_wherever_it_can(graph, known):
    # Two of the members are held out, and hardly any other node.
    split = np.zeros(NODES, np.int8)
    for code in (1, 2):
        split[graph.members["t60"][code]] = code
        split[np.setdiff1d(np.arange(NODES), graph.members["t60"])[[code, -code]]] = code
    others = {"t60": np.setdiff1d(np.arange(NODES), graph.members["t60"])} if known else {}
    settings = {"negatives": 0.4, "negatives_from": "nodes", "most_positives": 60}
    found = sample_examples(replace(graph, split=split, others=others), source(**settings))
    column = found.labels[:, 2]
    assert [[int((column[found.split == code] == label).sum()) for label in (1, 0)] for code in range(3)] == [
        [58, 23], [1, 1], [1, 1],
    ]  # fmt: skip


def test_nodes_in_no_part_of_a_given_split_are_examples_of_nothing(graph):
    split = np.random.default_rng(0).integers(-1, 3, size=NODES).astype(np.int8)
    known = {"t30": np.setdiff1d(np.arange(50), graph.members["t30"])}
    for pool in ("members", "nodes"):
        own = source(negatives_from=pool)
        found = sample_examples(replace(graph, split=split, others=known), own)
        assert (split[found.nodes] >= 0).all()
        assert found.split.tolist() == split[found.nodes].tolist()
        assert (found.labels[:, 1] == 0).sum() == (split[known["t30"]] >= 0).sum()
        assert (found.labels[:, 3] == 1).sum() == (split[graph.members["t90"]] >= 0).sum()


def test_seeds_decide(graph):
    def same(a, b):
        return np.array_equal(a.labels, b.labels, equal_nan=True) and a.split.tolist() == b.split.tolist()

    assert same(sample_examples(graph, source()), sample_examples(graph, source()))
    assert not same(sample_examples(graph, source()), sample_examples(graph, source(sample_seed=1)))
    other_split = sample_examples(graph, source(split={"seed": 1}))
    first = sample_examples(graph, source())
    assert first.nodes.tolist() == other_split.nodes.tolist()
    assert first.split.tolist() != other_split.split.tolist()


def test_the_split_is_by_node_and_a_given_one_is_kept(graph):
    found = sample_examples(graph, source(split={"validation": 0.25, "test": 0.5}))
    assert np.bincount(found.split).tolist() == [
        len(found.nodes) - round(len(found.nodes) / 4) - round(len(found.nodes) / 2),
        round(len(found.nodes) / 4),
        round(len(found.nodes) / 2),
    ]
    split = np.random.default_rng(0).integers(3, size=NODES).astype(np.int8)
    found = sample_examples(replace(graph, split=split), source())
    assert found.split.tolist() == split[found.nodes].tolist()


def suite_of(graph, **settings):
    own = source(**settings)
    found = sample_examples(graph, own)
    return checked_suite(found.suite(np.ones((len(found.nodes), 1), np.float32)), own)


def test_small_communities_are_left_out_and_named(graph):
    suite = suite_of(graph)
    assert suite.names == ["t30", "t60", "t90", "t91"]
    assert suite.left_out == (("t10", "10 positives and 10 negatives; at least 20 and 20 are asked for"),)


def test_a_named_task_that_is_too_small_is_an_error(graph):
    with pytest.raises(UserError) as error:
        suite_of(graph, tasks=["t30", "t10"])
    assert "g: task `t10`, which data.tasks names, has 10 positives and 10 negatives" in str(error.value)
    assert suite_of(graph, tasks=["t30", "t10"], minimum_positives=5, minimum_negatives=5).names == list(graph.members)


def test_a_community_that_holds_every_node_has_no_negatives(graph):
    whole = replace(graph, members={**graph.members, "all": np.arange(NODES)})
    assert ("all", "400 positives and 0 negatives; at least 20 and 20 are asked for") in suite_of(whole).left_out
    with pytest.raises(UserError, match="task `all` has one class only"):
        suite_of(whole, minimum_positives=0, minimum_negatives=0)
    with pytest.raises(UserError, match="the suite has no task left: `all` has 400 positives and 0 negatives"):
        suite_of(replace(graph, members={"all": np.arange(NODES)}))
