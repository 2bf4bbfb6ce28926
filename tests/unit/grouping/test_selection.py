import json
import time
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import Selection, select_networks
from affinity_service.grouping.selection_search import flipped_scores, serving_scores
from tests import standley

DATA = standley.FOLDER
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published matrices not found at {DATA}")


def _table(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def _brute_force(affinity: np.ndarray, budget: int, alone: np.ndarray | None = None) -> float:
    """Every set of at most `budget` groups of every size."""
    tasks = len(affinity)
    groups = list(chain.from_iterable(combinations(range(tasks), size) for size in range(1, tasks + 1)))
    scores = np.full((len(groups), tasks), -np.inf)
    for row, group in enumerate(groups):
        for task in group:
            mates = [affinity[task, mate] for mate in group if mate != task]
            if mates:
                scores[row, task] = np.mean(mates)
            elif alone is not None:
                scores[row, task] = alone[task]
    return max(
        float(scores[list(rows)].max(axis=0).mean())
        for count in range(1, budget + 1)
        for rows in combinations(range(len(groups)), count)
    )


def _consistent(selection: Selection, affinity: np.ndarray, budget: int) -> None:
    assert 1 <= len(selection.groups) <= budget
    assert set(selection.served_by) == set(range(len(selection.groups)))
    for task, row in enumerate(selection.served_by):
        group = selection.groups[row]
        assert task in group
        mates = [affinity[task, mate] for mate in group if mate != task]
        if mates:
            assert selection.task_scores[task] == pytest.approx(np.mean(mates))
    assert selection.score == pytest.approx(np.mean(selection.task_scores))
    assert selection.bound >= selection.score
    assert selection.gap == selection.bound - selection.score


def test_by_hand() -> None:
    affinity = np.array([[9.0, 2.0, 1.0], [3.0, 9.0, -1.0], [0.0, 5.0, 9.0]])
    one, two = select_networks(affinity, 1), select_networks(affinity, 2)
    assert one.groups == [[0, 1, 2]]
    assert one.score == pytest.approx((1.5 + 1 + 2.5) / 3)
    # Task 2 gains from task 1, who is better served by task 0: the groups overlap.
    assert two.groups == [[0, 1], [1, 2]]
    assert two.task_scores == [2.0, 3.0, 5.0]
    assert two.served_by == [0, 0, 1]
    assert two.score == pytest.approx(10 / 3)
    assert two.optimal
    assert select_networks(affinity, 50) == two


@pytest.mark.parametrize("tasks", [2, 3, 4])
@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize("singletons", [False, True])
def test_exact_equals_enumeration(tasks: int, budget: int, singletons: bool) -> None:
    rng = np.random.default_rng(10 * tasks + budget)
    for _ in range(5):
        affinity = rng.normal(size=(tasks, tasks))
        alone = rng.normal(size=tasks) if singletons else None
        selection = select_networks(affinity, budget, singleton_score=alone)
        _consistent(selection, affinity, budget)
        assert selection.optimal
        assert selection.score == pytest.approx(_brute_force(affinity, budget, alone))
        searched = select_networks(affinity, budget, singleton_score=alone, exact_up_to=0)
        _consistent(searched, affinity, budget)
        assert searched.score <= selection.score + 1e-12 <= searched.bound + 2e-12


@pytest.mark.parametrize("tasks", [6, 9, 12])
def test_search_bound_holds_and_search_comes_close(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    for budget in (1, 2, 4, tasks):
        affinity = rng.normal(size=(tasks, tasks)) + 2 * rng.normal(size=(tasks, 1))
        exact, searched = (select_networks(affinity, budget, exact_up_to=limit) for limit in (12, 0))
        _consistent(searched, affinity, budget)
        assert searched.score <= exact.score + 1e-12
        assert exact.score <= searched.bound
        worst = select_networks(affinity, 1).score
        assert exact.score - searched.score <= 0.1 * (exact.score - worst) + 1e-12


def test_many_tasks_with_planted_groups_are_solved_up_to_the_bound() -> None:
    rng = np.random.default_rng(0)
    of = np.arange(40) % 5
    affinity = (of[:, None] == of) * 1.0
    shuffle = rng.permutation(40)
    selection = select_networks(affinity[np.ix_(shuffle, shuffle)], 5)
    _consistent(selection, affinity[np.ix_(shuffle, shuffle)], 5)
    assert selection.score == 1.0
    assert selection.optimal


def test_many_tasks_without_structure_state_a_gap() -> None:
    affinity = np.random.default_rng(1).normal(size=(40, 40))
    selection = select_networks(affinity, 5)
    _consistent(selection, affinity, 5)
    assert not selection.optimal
    assert 0 < selection.gap < np.inf
    assert selection == select_networks(affinity, 5)


def test_flipping_one_task_scores_like_scoring_anew() -> None:
    rng = np.random.default_rng(2)
    affinity, alone = rng.normal(size=(6, 6)), rng.normal(size=6)
    for member in ([1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6):
        row = np.array(member, dtype=bool)
        anew = serving_scores(affinity, alone, row ^ np.eye(6, dtype=bool))
        np.testing.assert_allclose(flipped_scores(affinity, alone, row), anew)


def test_singletons_only_where_scored() -> None:
    affinity = np.array([[0.0, 1.0, -9.0], [1.0, 0.0, -9.0], [-9.0, -9.0, 0.0]])
    assert select_networks(affinity, 3).groups == [[0, 1], [0, 2]]
    alone = select_networks(affinity, 3, singleton_score=0.0)
    assert alone.groups == [[0, 1], [2]]
    assert alone.score == pytest.approx(2 / 3)
    assert select_networks(affinity, 3, singleton_score=[5.0, 0.0, 0.0]).groups == [[0], [0, 1], [2]]


def test_one_task() -> None:
    single = select_networks([[3.0]], 2)
    assert (single.groups, single.score, single.optimal) == ([[0]], 0.0, True)
    assert select_networks([[3.0]], 1, singleton_score=2.5).score == 2.5
    assert select_networks([[3.0]], 1, exact_up_to=0).groups == [[0]]


def test_groups_that_serve_nobody_are_dropped() -> None:
    selection = select_networks(np.ones((6, 6)), 4)
    assert len(selection.groups) == 1
    assert selection.score == 1.0
    assert len(select_networks(np.ones((20, 20)), 4).groups) == 1


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_scale(scale: float) -> None:
    affinity = np.random.default_rng(3).normal(size=(16, 16))
    plain, scaled = select_networks(affinity, 3), select_networks(scale * affinity, 3)
    assert scaled.score == pytest.approx(scale * plain.score)
    assert scaled.bound == pytest.approx(scale * plain.bound, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0}, "budget: found 0; expected an integer ≥ 1"),
        ({"budget": 1.5}, r"budget: found 1\.5"),
        ({"budget": True}, "budget: found True"),
        ({"budget": 2, "singleton_score": np.nan}, "singleton_score: found NaN"),
        ({"budget": 2, "singleton_score": [1.0, 2.0]}, r"singleton_score: found shape \(2,\)"),
        ({"budget": 2, "singleton_score": "none"}, "singleton_score: found 'none'"),
        ({"budget": 2, "exact_up_to": 30}, "exact_up_to: found 30; expected an integer from 0 to 16"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        select_networks(np.eye(3), **arguments)


def test_bad_affinity_is_refused() -> None:
    with pytest.raises(UserError, match="found nan at row 0"):
        select_networks([[np.nan, 0.0], [0.0, 0.0]], 1)


@needs_data
def test_golden_taskonomy() -> None:
    table = _table("tag_taskonomy.json")
    ss, depth, norm, key, edge2d = range(5)
    two, three = (select_networks(table["affinity"], budget) for budget in (2, 3))
    assert two.groups == [[ss, depth, norm], [key, edge2d]]
    assert three.groups == [[ss, depth], [depth, norm], [key, edge2d]]
    assert (round(two.score, 4), round(three.score, 4)) == (0.3217, 0.3487)
    assert two.optimal
    assert three.optimal


@needs_data
def test_nine_tasks_take_no_time() -> None:
    affinity = np.array(_table("tag_celeba.json")["affinity"])
    start = time.perf_counter()
    selection = select_networks(affinity, 4)
    assert time.perf_counter() - start < 2
    _consistent(selection, affinity, 4)
    for group_count in (1, 2, 3):
        assert select_networks(affinity, group_count).score <= selection.score


@needs_data
def test_golden_standley_setting_one() -> None:
    """Selected on validation, scored on test; total loss, as in Standley et al. 2020."""
    optimal, approximate = zip(*(standley.totals("results", budget) for budget in (1, 2, 3, 4)), strict=True)
    np.testing.assert_allclose(optimal, [0.50278, 0.45224, 0.44235, 0.43555], atol=1e-5)
    np.testing.assert_allclose(approximate, [0.50278, 0.45474, 0.44875, 0.44112], atol=1e-5)
