from itertools import permutations

import numpy as np
import pytest

from affinity_service.grouping import cluster
from affinity_service.grouping.auto_k import surprise
from affinity_service.grouping.matrix import canonical, symmetrised


@pytest.mark.parametrize("tasks", [3, 4, 6])
def test_surprise_counts_standard_deviations_over_all_renamings(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    matrix = canonical(symmetrised(rng.normal(size=(tasks, tasks)))).matrix
    labels = np.array([0, 0, 1, 1, 1, 2])[:tasks]
    same = labels[:, None] == labels
    comembership = same / same.sum(axis=1)
    values = [(matrix[np.ix_(p, p)] * comembership).sum() for p in permutations(range(tasks))]
    assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert surprise(matrix, labels) == pytest.approx(values[0] / np.std(values))


@pytest.mark.parametrize("planted", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_auto_finds_the_planted_number_of_groups(planted: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = np.arange(20) % planted
    affinity = (of[:, None] == of) + 0.4 * rng.normal(size=(20, 20))
    # Levels of the rows and of the diagonal say nothing about who belongs together.
    affinity += 10 * rng.normal(size=(20, 1)) + 5 * np.eye(20)
    result = cluster(affinity, "auto", "agglomerative", seed=seed)
    assert result.k == len(result.groups) == planted


def test_auto_finds_groups_of_unequal_sizes() -> None:
    of = np.array([0] * 9 + [1] * 4 + [2] * 3)
    affinity = (of[:, None] == of) + 0.2 * np.random.default_rng(0).normal(size=(16, 16))
    assert [len(group) for group in cluster(affinity, "auto").groups] == [9, 4, 3]


def test_auto_without_a_pattern_follows_the_objective() -> None:
    assert cluster(np.ones((6, 6)), "auto").k == 1
    assert cluster(np.eye(6), "auto", max_k=6).k == 6
    assert cluster(np.eye(6), "auto").k == 1
    assert cluster([[3.0]], "auto").k == 1
    assert cluster([[0.0, 1.0], [1.0, 0.0]], "auto").k == 1
    assert cluster([[0.0, -1.0], [-1.0, 0.0]], "auto").k == 2


def test_auto_respects_max_k() -> None:
    of = np.arange(12) % 4
    assert cluster(of[:, None] == of, "auto", "spectral").k == 4
    assert cluster(of[:, None] == of, "auto", "spectral", max_k=3).k <= 3
