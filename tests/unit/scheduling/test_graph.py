"""Threshold, conflicts, colours, order and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service.scheduling.graph import (
    colour_classes,
    conflicts,
    most_stale_first,
    quantile_threshold,
    raise_coverage,
    threshold,
)


def test_the_threshold_stays_at_one_then_falls_with_the_logarithm():
    assert [threshold(step, 0.25, 10, 0) for step in (0, 9, 10)] == [1.0, 1.0, 0.25]
    falling = [threshold(step, 0.25, 10, 99) for step in (10, 19, 109, 500)]
    assert falling == pytest.approx([1.0, 1 - 0.75 / 2, 0.25, 0.25])


def test_conflicts_are_strictly_above_the_threshold():
    rho = np.array([[0, 0.25, 0.3], [0.25, 0, -1], [0.3, -1, 0]])
    assert conflicts(rho, 0.25) == [(0, 2)]
    assert conflicts(np.ones((3, 3)), 1.0) == []


def test_a_quantile_takes_its_share_of_the_pairs_but_no_friends():
    rho = np.zeros((5, 5))
    rho[np.triu_indices(5, 1)] = np.arange(10) / 10 - 0.2
    assert len(conflicts(rho, quantile_threshold(rho, 0.3))) == 3
    assert len(conflicts(rho, quantile_threshold(rho, 1.0))) == 7
    assert quantile_threshold(np.zeros((1, 1)), 0.5) == 1.0


def test_welsh_powell_by_hand():
    # A star and a free task: the centre has most conflicts, so it is coloured first.
    assert colour_classes(5, [(1, 0), (1, 2), (1, 3)]) == [[1, 4], [0, 2, 3]]
    assert colour_classes(3, []) == [[0, 1, 2]]
    # A crown, on which an order by index would need three colours and Welsh-Powell with ties by index does as well.
    crown = [(0, 3), (0, 5), (2, 1), (2, 5), (4, 1), (4, 3)]
    assert colour_classes(6, crown) == [[0, 1], [2, 3], [4, 5]]


def test_the_class_that_waited_longest_comes_first():
    assert most_stale_first([[0, 1], [2], [3]], [1, 2, 5, 2]) == [[2], [0, 1], [3]]


def test_coverage_goes_where_nobody_conflicts_and_the_rest_is_reported():
    edges = [(0, 1), (0, 2), (1, 2)]
    classes = colour_classes(4, edges)
    assert classes == [[0, 3], [1], [2]]
    filled, short = raise_coverage(classes, edges, 0.6, 4)
    assert filled == [[0, 3], [1, 3], [2]] or filled == [[0, 3], [1], [2, 3]]
    assert short == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}
    assert raise_coverage(classes, edges, 1 / 3, 4) == (classes, {})
