import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import METHODS, cluster, clustering, relaxation
from affinity_service.grouping.baselines import agglomerative, random_partition, spectral
from affinity_service.grouping.local_moves import improve
from affinity_service.grouping.matrix import canonical, symmetrised
from affinity_service.grouping.partition import density, groups_of

BLOCKS = np.kron(np.eye(3), np.ones((4, 4)))


def _is_partition(groups: list[list[int]], tasks: int, k: int) -> bool:
    flat = [task for group in groups for task in group]
    return (
        len(groups) == k
        and all(groups)
        and sorted(flat) == list(range(tasks))
        and all(type(task) is int for task in flat)
    )


@pytest.mark.parametrize("method", ["sdp", "spectral", "agglomerative"])
def test_finds_planted_groups(method: str) -> None:
    rng = np.random.default_rng(0)
    shuffle = rng.permutation(12)
    affinity = (BLOCKS + 0.1 * rng.normal(size=(12, 12)))[np.ix_(shuffle, shuffle)]
    result = cluster(affinity, 3, method)
    assert sorted(sorted(int(shuffle[task]) for task in group) for group in result.groups) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert result.method == method
    assert result.k == 3


def test_objective_by_hand() -> None:
    affinity = [[1.0, 4.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0]]
    result = cluster(affinity, 2)
    assert result.groups == [[0, 1], [2]]
    assert result.objective == (1 + 1 + 3 + 3) / 2 + 5
    assert result.objective <= result.bound <= result.objective + 1e-3


def test_exactly_k_groups_and_no_worse_than_baselines_on_a_hundred_noisy_matrices() -> None:
    """The baselines run here with seeds of their own, so that nothing holds by construction."""
    rng = np.random.default_rng(7)
    for trial in range(100):
        tasks = int(rng.integers(12, 21))
        k = 2 + trial % (tasks - 2)
        planted = np.arange(tasks) % k
        noise = rng.choice([0.3, 0.6, 1.0])
        affinity = (planted[:, None] == planted) + noise * rng.normal(size=(tasks, tasks))
        result = cluster(affinity, k, seed=trial, tolerance=1e-4)
        assert _is_partition(result.groups, tasks, k)
        assert result.bound >= result.objective
        matrix = symmetrised(affinity)
        rivals = [spectral(matrix, k, trial + 1), agglomerative(matrix, k)]
        starts = np.random.default_rng(1000 + trial)
        small = canonical(matrix).matrix
        rivals += [improve(small, random_partition(tasks, k, starts), k) for _ in range(10)]
        best = max(density(matrix, groups_of(labels)) for labels in rivals)
        assert result.objective >= best - 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_exactly_k_groups_for_every_k_with_negative_affinities(method: str) -> None:
    affinity = np.random.default_rng(3).normal(size=(9, 9)) - 5
    for k in range(1, 10):
        result = cluster(affinity, k, method)
        assert _is_partition(result.groups, 9, k)
        assert result.bound >= result.objective


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "affinity",
    [
        np.zeros((6, 6)),
        np.full((6, 6), -3.7),
        np.full((6, 6), 1e12),
        np.eye(6) * 2.5 - 0.1,
        np.arange(6.0)[:, None] * np.ones((6, 6)),
        np.kron([[1.0, 0.3], [0.2, 2.0]], np.ones((3, 3))),
        np.full((6, 6), 5e-324),
    ],
    ids=["zero", "equal", "large", "diagonal", "rows", "duplicates", "subnormal"],
)
def test_degenerate_matrices(affinity: np.ndarray, method: str) -> None:
    for k in range(1, 7):
        result = cluster(affinity, k, method)
        assert _is_partition(result.groups, 6, k)
        assert result.objective <= result.bound


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_bound_is_exact_where_all_partitions_are_alike(k: int) -> None:
    result = cluster(0.3 + 2.5 * np.eye(6), k, "random")
    assert result.objective == pytest.approx(0.3 * 6 + 2.5 * k)
    assert result.bound == pytest.approx(result.objective, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_one_group_single_tasks_and_one_task(method: str) -> None:
    affinity = np.random.default_rng(4).normal(size=(5, 5))
    together, apart = cluster(affinity, 1, method), cluster(affinity, 5, method)
    assert together.groups == [[0, 1, 2, 3, 4]]
    assert together.objective == pytest.approx(affinity.sum() / 5)
    assert apart.groups == [[0], [1], [2], [3], [4]]
    assert apart.objective == pytest.approx(np.trace(affinity))
    for result in (together, apart):
        assert result.bound == pytest.approx(result.objective, abs=1e-12)
    alone = cluster([[-7.0]], 1, method)
    assert (alone.groups, alone.objective, alone.bound) == ([[0]], -7.0, -7.0)


def test_duplicate_tasks_stay_together_where_k_allows() -> None:
    distinct = np.array([[1.0, 0.2, 0.0], [0.2, 1.0, 0.1], [0.0, 0.1, 1.0]])
    affinity = np.kron(distinct, np.ones((3, 3)))
    assert cluster(affinity, 3).groups == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("scale", [1e-12, 1e6, 1e12])
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_scale_and_shift_leave_the_groups(scale: float, shift: float) -> None:
    rng = np.random.default_rng(5)
    affinity = BLOCKS + 0.4 * rng.normal(size=(12, 12))
    plain, scaled = cluster(affinity, 3), cluster(scale * (affinity + shift + 2 * np.eye(12)), 3)
    assert scaled.groups == plain.groups
    assert scaled.objective == pytest.approx(scale * (plain.objective + 12 * shift + 3 * 2))
    assert scaled.bound == pytest.approx(scale * (plain.bound + 12 * shift + 3 * 2), rel=1e-4)


def test_small_signal_on_a_large_level() -> None:
    affinity = BLOCKS + 1e9
    assert cluster(affinity, 3).groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("method", ["spectral", "agglomerative", "random"])
def test_asked_for_bound_comes_from_the_relaxation(method: str) -> None:
    affinity = BLOCKS + 0.5 * np.random.default_rng(6).normal(size=(12, 12))
    cheap, tight = cluster(affinity, 3, method), cluster(affinity, 3, method, bound=True)
    assert cheap.groups == tight.groups
    assert tight.bound < cheap.bound
    assert tight.bound == cluster(affinity, 3).bound


def test_a_failing_solver_costs_the_tight_bound_only(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = BLOCKS + 0.3 * np.random.default_rng(10).normal(size=(12, 12))
    solved = cluster(affinity, 3)

    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("no")

    monkeypatch.setattr(relaxation._SpectralSet, "__call__", fail)
    failed = cluster(affinity, 3)
    assert failed.groups == solved.groups
    assert failed.bound > solved.bound
    assert failed.bound == cluster(affinity, 3, "random").bound


def test_same_seed_same_groups() -> None:
    affinity = np.random.default_rng(8).normal(size=(10, 10))
    for method in METHODS:
        assert cluster(affinity, 3, method, seed=4) == cluster(affinity, 3, method, seed=4)
    assert cluster(affinity, 3, "random", seed=4) != cluster(affinity, 3, "random", seed=5)


def test_input_is_left_alone_and_result_is_frozen() -> None:
    affinity = np.random.default_rng(9).normal(size=(6, 6))
    before = affinity.copy()
    result = cluster(affinity, 2)
    np.testing.assert_array_equal(affinity, before)
    assert type(result.objective) is float
    assert type(result.bound) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"k: found 0; expected an integer from 1 to 4.*\"auto\""),
        ({"k": 5}, "k: found 5"),
        ({"k": 2.0}, r"k: found 2\.0"),
        ({"k": True}, "k: found True"),
        ({"k": "many"}, "k: found 'many'"),
        ({"k": 2, "method": "kmeans"}, "method: found 'kmeans'; expected one of sdp, spectral"),
        ({"k": 2, "seed": -1}, "seed: found -1"),
        ({"k": 2, "tolerance": 0.0}, r"tolerance: found 0\.0"),
        ({"k": "auto", "max_k": 9}, "max_k: found 9; expected an integer from 1 to 4"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster(np.eye(4), **arguments)  # type: ignore[arg-type]


def test_numpy_integers_are_integers() -> None:
    two: Any = np.int64(2)
    assert cluster(np.eye(4), two).k == 2


def test_grouping_imports_no_cluster_and_no_torch() -> None:
    code = (
        "import sys, affinity_service.grouping as g\n"
        "g.cluster([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 1.0]], 2)\n"
        "print(sorted({'ray', 'deepspeed', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_bound_below_what_was_reached_is_a_fault_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = BLOCKS + 0.3 * np.random.default_rng(11).normal(size=(12, 12))
    problem = canonical(symmetrised(affinity))
    reached = cluster(affinity, 3, "agglomerative").objective
    wrong = (reached - problem.original_units(0.0, 3)) / problem.scale - 1e-6
    monkeypatch.setattr(clustering, "certified_bound", lambda *_: wrong)
    with pytest.raises(AssertionError, match="not valid"):
        cluster(affinity, 3, "agglomerative")
