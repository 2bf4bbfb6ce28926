import numpy as np
import pytest

from affinity_service.grouping.baselines import merge_path, random_partition
from affinity_service.grouping.local_moves import improve, move_gains, swap_gains
from affinity_service.grouping.partition import density, density_of_labels, groups_of


def _problem(seed: int, tasks: int = 9, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(tasks, tasks))
    return noise + noise.T, random_partition(tasks, k, rng)


def _sums(matrix: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    members = np.eye(k)[labels]
    return members.sum(axis=0), matrix @ members


def test_gains_are_differences_of_the_objective() -> None:
    matrix, labels = _problem(0)
    labels[labels == 2] = 1
    labels[4] = 2
    now = density(matrix, groups_of(labels))
    moves = move_gains(matrix, labels, *_sums(matrix, labels, 3))
    swaps = swap_gains(matrix, labels, *_sums(matrix, labels, 3))
    for i in range(9):
        for group in range(3):
            if group == labels[i] or i == 4:
                assert moves[i, group] == -np.inf
                continue
            moved = labels.copy()
            moved[i] = group
            assert moves[i, group] == pytest.approx(density(matrix, groups_of(moved)) - now)
        for j in range(9):
            if labels[i] == labels[j]:
                assert swaps[i, j] == -np.inf
                continue
            swapped = labels.copy()
            swapped[[i, j]] = labels[[j, i]]
            assert swaps[i, j] == pytest.approx(density(matrix, groups_of(swapped)) - now)


@pytest.mark.parametrize("seed", range(10))
def test_improve_ends_where_no_move_and_no_swap_helps(seed: int) -> None:
    matrix, labels = _problem(seed, tasks=14, k=4)
    start = labels.copy()
    better = improve(matrix, labels, 4)
    np.testing.assert_array_equal(labels, start)
    assert set(better.tolist()) == {0, 1, 2, 3}
    assert density_of_labels(matrix, better, 4) >= density_of_labels(matrix, labels, 4)
    sums = _sums(matrix, better, 4)
    assert move_gains(matrix, better, *sums).max() < 1e-9
    assert swap_gains(matrix, better, *sums).max() < 1e-9


def test_merge_path_merges_the_cheapest_pair_each_time() -> None:
    matrix, _ = _problem(3, tasks=7)
    path = merge_path(matrix, 1)
    assert sorted(path) == [1, 2, 3, 4, 5, 6, 7]
    for k in range(7, 1, -1):
        groups = groups_of(path[k])
        assert len(groups) == k
        merged = [
            density(matrix, [*groups[:a], *groups[a + 1 : b], *groups[b + 1 :], groups[a] + groups[b]])
            for a in range(k)
            for b in range(a + 1, k)
        ]
        assert density(matrix, groups_of(path[k - 1])) == pytest.approx(max(merged))
