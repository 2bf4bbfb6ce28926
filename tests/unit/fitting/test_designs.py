from itertools import combinations
from math import comb

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.fitting import balanced_subsets, pair_coverage, subset_design


def test_subsets_are_distinct_sorted_and_cycle_through_the_sizes() -> None:
    subsets = balanced_subsets(30, 80, (3, 6), seed=1)
    assert len(set(subsets)) == 80
    assert all(subset == tuple(sorted(set(subset))) for subset in subsets)
    assert [len(subset) for subset in subsets[:8]] == [3, 4, 5, 6, 3, 4, 5, 6]


def test_pairs_are_covered_more_evenly_than_at_random() -> None:
    off_diagonal = ~np.eye(40, dtype=bool)
    balanced = pair_coverage(balanced_subsets(40, 200, (5, 5), seed=0), 40)[off_diagonal]
    rng = np.random.default_rng(0)
    drawn = pair_coverage([rng.choice(40, 5, replace=False).tolist() for _ in range(200)], 40)[off_diagonal]
    assert balanced.sum() == drawn.sum()
    assert balanced.std() < 0.5 * drawn.std()
    assert balanced.min() >= 1


def test_every_task_is_covered_as_soon_as_it_can_be() -> None:
    coverage = pair_coverage(balanced_subsets(50, 10, (5, 5), seed=3), 50)
    assert (coverage.diagonal() == 1).all()


def test_same_seed_same_subsets() -> None:
    assert balanced_subsets(20, 30, (2, 8), seed=5) == balanced_subsets(20, 30, (2, 8), seed=5)
    assert balanced_subsets(20, 30, (2, 8), seed=5) != balanced_subsets(20, 30, (2, 8), seed=6)


def test_returns_all_there_are_when_asked_for_more() -> None:
    subsets = balanced_subsets(5, 1000, (2, 9), seed=0)
    assert sorted(subsets) == sorted(s for size in range(2, 6) for s in combinations(range(5), size))


def test_excluded_subsets_stay_out() -> None:
    exclude = list(combinations(range(6), 2))[:-1]
    assert balanced_subsets(6, 10, (2, 2), seed=0, exclude=exclude) == [(4, 5)]


def test_exhausting_a_size_too_large_to_list() -> None:
    subsets = balanced_subsets(12, comb(12, 3), (3, 3), seed=0)
    assert len(set(subsets)) == comb(12, 3)


def test_design_holds_singles_pairs_and_larger_ones() -> None:
    design = subset_design(7, 12, (2, 5), seed=0)
    assert design[:7] == [(task,) for task in range(7)]
    assert design[7:28] == list(combinations(range(7), 2))
    assert len(design) == len(set(design)) == 40
    assert min(len(subset) for subset in design[28:]) == 3


def test_design_without_pairs_and_of_one_task() -> None:
    assert [len(s) for s in subset_design(6, 2, (3, 3), seed=0, pairs="none")] == [1] * 6 + [3, 3]
    assert subset_design(1, 5, (2, 4), seed=0) == [(0,)]


def test_coverage_counts_pairs_in_large_subsets_only() -> None:
    counts = pair_coverage([(0,), (0, 1), (0, 1, 2), (1, 2, 3)], 5, smallest=3)
    assert counts.dtype.kind == "i"
    assert counts[1, 2] == 2
    assert counts[0, 1] == 1
    assert counts[1, 1] == 2
    assert counts[4].sum() == 0
    assert (counts == counts.T).all()


def test_coverage_of_nothing() -> None:
    assert pair_coverage([], 3).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, (2, 3), 0), "n_tasks is 0"),
        ((5, -1, (2, 3), 0), "count is -1"),
        ((5, 1, (3, 2), 0), "must not exceed"),
        ((5, 1, (0, 2), 0), "smallest size is 0"),
        ((5, 1, 3, 0), "pair"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        balanced_subsets(*arguments)


def test_coverage_of_an_unknown_task_is_an_error() -> None:
    with pytest.raises(UserError, match="task 9"):
        pair_coverage([(0, 9)], 3)
