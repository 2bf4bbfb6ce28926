"""Descent on predicted losses of whole groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from affinity_service.grouping.direct import descend


def higher_order(tasks: int, seed: int):
    """Losses that are no sum over pairs: every subset draws its own, better for members that are close by number."""

    def predict(subsets):
        return [
            np.array([np.ptp(s) * 0.1 + np.random.default_rng([seed, t, *s]).normal(scale=0.2) for t in s])
            for s in subsets
        ]

    return predict


def partitions(tasks: int, k: int):
    for labels in itertools.product(range(k), repeat=tasks):
        if len(set(labels)) == k:
            yield [tuple(t for t in range(tasks) if labels[t] == g) for g in range(k)]


@pytest.mark.parametrize("seed", range(6))
def test_no_move_or_swap_improves_the_result(seed):
    predict = higher_order(6, seed)
    found = descend(predict, [[0, 3], [1, 4], [2, 5]])
    assert sorted(t for g in found.groups for t in g) == list(range(6))
    assert len(found.groups) == 3

    def loss(groups):
        return sum(float(x.sum()) for x in predict([tuple(sorted(g)) for g in groups])) / 6

    assert found.loss == pytest.approx(loss(found.groups))
    assert found.loss <= found.start_loss
    best = min(loss(groups) for groups in partitions(6, 3))
    assert found.loss >= best - 1e-12
    for a, b in itertools.permutations(range(3), 2):
        for task in found.groups[a]:
            if len(found.groups[a]) > 1:
                moved = [list(g) for g in found.groups]
                moved[a].remove(task)
                moved[b].append(task)
                assert loss(moved) >= found.loss - 1e-9


def test_an_optimum_is_left_alone_and_one_group_has_no_moves():
    predict = higher_order(4, 0)
    best = min(partitions(4, 2), key=lambda groups: sum(float(x.sum()) for x in predict(groups)))
    assert sorted(map(sorted, descend(predict, best).groups)) == sorted(map(list, map(sorted, best)))
    assert descend(predict, [[0, 1, 2, 3]]).evaluated == 1
    assert descend(predict, [[0], [1], [2], [3]]).groups == [[0], [1], [2], [3]]


def test_no_more_groups_are_asked_for_than_allowed():
    predict = higher_order(6, 1)
    start = [[0, 3], [1, 4], [2, 5]]
    stopped = descend(predict, start, most=10)
    assert stopped.groups == start
    assert stopped.evaluated == 3
    assert descend(predict, start, most=60).evaluated <= 60
