import numpy as np
import pytest

from affinity_service.grouping.baselines import merge_path, random_partition
from affinity_service.grouping.constraints import UNCONSTRAINED, Constraints, Rules
from affinity_service.grouping.local_moves import Search, improve
from affinity_service.grouping.partition import density, density_of_labels, groups_of


def _problem(seed: int, tasks: int = 9, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(tasks, tasks))
    return noise + noise.T, random_partition(tasks, k, rng)


def test_gains_are_differences_of_the_objective() -> None:
    matrix, labels = _problem(0)
    labels[labels == 2] = 1
    labels[4] = 2
    now = density(matrix, groups_of(labels))
    search = Search(matrix, labels, 3, Rules(UNCONSTRAINED, 9))
    moves, swaps = search.move_gains(), search.swap_gains()
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


@pytest.mark.parametrize("seed", range(4))
def test_gains_of_tasks_that_move_together(seed: int) -> None:
    """Every move and swap of atoms either breaks a rule or changes the objective by its gain."""
    matrix, _ = _problem(seed)
    constraints = Constraints(2, 5, must_link=((0, 5), (1, 2)), cannot_link=((3, 4), (0, 7)))
    rules = Rules(constraints, 9)
    labels = rules.repaired(np.random.default_rng(seed).permutation(9) % 3, 3)
    search = Search(rules.contracted(matrix), labels, 3, rules)
    now = density(matrix, groups_of(labels[rules.atom_of]))

    def gain(changed: np.ndarray) -> float:
        groups = groups_of(changed[rules.atom_of])
        kept = len(groups) == 3 and constraints.keeps(groups)
        return density(matrix, groups) - now if kept else -np.inf

    moves, swaps = search.move_gains(), search.swap_gains()
    for i in range(len(labels)):
        for group in set(range(3)) - {labels[i]}:
            moved = labels.copy()
            moved[i] = group
            assert moves[i, group] == pytest.approx(gain(moved))
        for j in np.flatnonzero(labels != labels[i]):
            swapped = labels.copy()
            swapped[[i, j]] = labels[[j, i]]
            assert swaps[i, j] == pytest.approx(gain(swapped))


@pytest.mark.parametrize("seed", range(10))
def test_improve_ends_where_no_move_and_no_swap_helps(seed: int) -> None:
    matrix, labels = _problem(seed, tasks=14, k=4)
    start = labels.copy()
    better = improve(matrix, labels, 4)
    np.testing.assert_array_equal(labels, start)
    assert set(better.tolist()) == {0, 1, 2, 3}
    assert density_of_labels(matrix, better, 4) >= density_of_labels(matrix, labels, 4)
    search = Search(matrix, better, 4, Rules(UNCONSTRAINED, 14))
    assert search.move_gains().max() < 1e-9
    assert search.swap_gains().max() < 1e-9


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
