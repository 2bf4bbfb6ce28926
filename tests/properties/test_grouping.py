"""What must hold for every affinity matrix."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from affinity_service.grouping import METHODS, centre_rows, cluster, select_networks
from affinity_service.grouping.matrix import canonical, symmetrised
from affinity_service.grouping.partition import density, groups_of
from affinity_service.grouping.relaxation import solve_relaxation
from affinity_service.grouping.sdp import dual_bound

entries = st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def affinities(draw: st.DrawFn, most: int = 6) -> np.ndarray:
    tasks = draw(st.integers(1, most))
    matrix: np.ndarray = draw(arrays(np.float64, (tasks, tasks), elements=entries))
    return matrix * draw(st.sampled_from([0.0, 1e-12, 1.0, 1e6]))


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    affinity = draw(affinities())
    return affinity, draw(st.integers(1, len(affinity)))


def _partitions(tasks: int, k: int) -> Iterator[list[list[int]]]:
    def extend(labels: list[int], used: int) -> Iterator[list[list[int]]]:
        if len(labels) == tasks:
            if used == k:
                yield groups_of(np.array(labels))
            return
        for label in range(min(used + 1, k)):
            yield from extend([*labels, label], max(used, label + 1))

    yield from extend([], 0)


def _slack(affinity: np.ndarray) -> float:
    return 1e-12 * len(affinity) * float(np.abs(affinity).max())


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(METHODS))
def test_k_groups_and_a_bound_on_every_partition(problem: tuple[np.ndarray, int], method: str) -> None:
    affinity, k = problem
    result = cluster(affinity, k, method)
    assert len(result.groups) == result.k == k
    assert sorted(task for group in result.groups for task in group) == list(range(len(affinity)))
    optimum = max(density(symmetrised(affinity), groups) for groups in _partitions(len(affinity), k))
    assert result.objective <= optimum <= result.bound


@settings(max_examples=40, deadline=None)
@given(affinities(most=8), st.data())
def test_the_certified_bound_holds_before_anything_is_clipped(affinity: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(affinity)))
    problem = canonical(symmetrised(affinity))
    multipliers = [np.zeros_like(problem.matrix)]
    if 1 < k < len(affinity) and problem.scale:
        multipliers.append(solve_relaxation(problem.matrix, k).multipliers)
    optimum = max(density(symmetrised(affinity), groups) for groups in _partitions(len(affinity), k))
    for chosen in multipliers:
        upper = problem.original_units(dual_bound(problem.matrix, k, chosen), k)
        assert upper + problem.rounding >= optimum


@settings(max_examples=40, deadline=None)
@given(problems())
def test_sdp_finds_the_optimum_of_few_tasks(problem: tuple[np.ndarray, int]) -> None:
    affinity, k = problem
    optimum = max(density(symmetrised(affinity), groups) for groups in _partitions(len(affinity), k))
    scale = float(np.ptp(affinity)) * len(affinity)
    assert cluster(affinity, k).objective >= optimum - 1e-8 * scale - _slack(affinity)


@settings(max_examples=100, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_renaming_tasks_keeps_the_objective(problem: tuple[np.ndarray, int], random: object) -> None:
    affinity, k = problem
    order = list(range(len(affinity)))
    random.shuffle(order)  # type: ignore[attr-defined]
    renamed = affinity[np.ix_(order, order)]
    groups = cluster(affinity, k, "agglomerative").groups
    moved = [[order.index(task) for task in group] for group in groups]
    # Exact: sums are rounded once; groups may come in another order.
    assert density(symmetrised(renamed), moved) == pytest.approx(
        density(symmetrised(affinity), groups), rel=1e-15, abs=0
    )


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_shifts_change_the_objective_by_constants(
    problem: tuple[np.ndarray, int], everywhere: float, diagonal: float
) -> None:
    affinity, k = problem
    tasks = len(affinity)
    shifted = affinity + everywhere + diagonal * np.eye(tasks)
    groups = cluster(affinity, k, "random").groups
    expected = density(symmetrised(affinity), groups) + tasks * everywhere + k * diagonal
    assert density(symmetrised(shifted), groups) == pytest.approx(expected, abs=_slack(shifted) + _slack(affinity))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_centring_rows_shifts_every_partition_alike(problem: tuple[np.ndarray, int]) -> None:
    affinity, k = problem
    gains = centre_rows(affinity, "alone")
    assert (np.diag(gains) == 0).all()
    for groups in _partitions(len(affinity), k):
        difference = density(symmetrised(affinity), groups) - density(symmetrised(gains), groups)
        assert difference == pytest.approx(np.trace(affinity), abs=4 * _slack(affinity) + 4 * _slack(gains))


@settings(max_examples=40, deadline=None)
@given(affinities(), st.integers(0, 5))
def test_auto_is_deterministic_and_in_range(affinity: np.ndarray, seed: int) -> None:
    first, second = (cluster(affinity, "auto", "random", seed=seed) for _ in range(2))
    assert first == second
    assert 1 <= first.k <= max(2, len(affinity) // 2)


@settings(max_examples=60, deadline=None)
@given(affinities(most=8), st.integers(1, 9))
def test_selection_serves_everybody_within_its_bound(affinity: np.ndarray, budget: int) -> None:
    exact, searched = (select_networks(affinity, budget, exact_up_to=limit) for limit in (14, 0))
    assert exact.optimal
    for selection in (exact, searched):
        assert 1 <= len(selection.groups) <= budget
        assert all(
            task in selection.groups[row] for task, row in zip(range(len(affinity)), selection.served_by, strict=True)
        )
    assert searched.score <= exact.score + _slack(affinity)
    assert exact.score <= searched.bound + _slack(affinity)
    more = select_networks(affinity, budget + 1)
    assert more.score >= exact.score - _slack(affinity)
