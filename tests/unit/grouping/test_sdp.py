from collections.abc import Iterator

import numpy as np
import pytest

from affinity_service.grouping.matrix import canonical, symmetrised
from affinity_service.grouping.partition import density, groups_of
from affinity_service.grouping.relaxation import solve_relaxation
from affinity_service.grouping.sdp import certified_bound, dual_bound
from affinity_service.grouping.sdp_reference import solve_relaxation_reference


def _planted(tasks: int, k: int, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    same = np.arange(tasks)[:, None] % k == np.arange(tasks) % k
    return symmetrised(same + noise * rng.normal(size=(tasks, tasks)))


def _partitions(tasks: int, k: int) -> Iterator[np.ndarray]:
    def extend(labels: list[int], used: int) -> Iterator[np.ndarray]:
        if len(labels) == tasks:
            if used == k:
                yield np.array(labels)
            return
        for label in range(min(used + 1, k)):
            yield from extend([*labels, label], max(used, label + 1))

    yield from extend([], 0)


def test_solution_is_feasible_and_multipliers_certify_its_value() -> None:
    matrix = canonical(_planted(16, 4, 0.6, 0)).matrix
    relaxation = solve_relaxation(matrix, 4)
    x = relaxation.solution
    assert x is not None
    np.testing.assert_allclose(x.sum(axis=1), 1, atol=1e-3)
    assert np.trace(x) == pytest.approx(4, abs=1e-3)
    assert x.min() > -1e-3
    assert np.linalg.eigvalsh(x).min() > -1e-3
    assert relaxation.multipliers.min() >= 0
    bound = dual_bound(matrix, 4, relaxation.multipliers)
    assert bound == pytest.approx((matrix * x).sum(), rel=1e-3)
    assert bound < dual_bound(matrix, 4, np.zeros_like(matrix))


@pytest.mark.parametrize(
    ("tasks", "k", "noise"), [(16, 4, 0.3), (30, 5, 2.0), (12, 11, 1.0), (12, 2, 1.0), (3, 2, 1.0)]
)
def test_solver_and_reference_agree(tasks: int, k: int, noise: float) -> None:
    matrix = canonical(_planted(tasks, k, noise, 3)).matrix
    ours, reference = solve_relaxation(matrix, k), solve_relaxation_reference(matrix, k, tolerance=1e-7)
    assert ours.solution is not None
    assert reference.solution is not None
    value = (matrix * reference.solution).sum()
    assert (matrix * ours.solution).sum() == pytest.approx(value, rel=1e-4)
    bound = dual_bound(matrix, k, ours.multipliers)
    assert bound == pytest.approx(value, rel=1e-4)
    assert bound == pytest.approx(dual_bound(matrix, k, reference.multipliers), rel=1e-4)
    assert ours.solution.min() > -1e-4
    np.testing.assert_allclose(ours.solution.sum(axis=1), 1, atol=1e-9)


def test_what_is_reached_already_only_has_to_be_proved() -> None:
    matrix = canonical(_planted(40, 4, 0.3, 1)).matrix
    planted = density(matrix, groups_of(np.arange(40) % 4))
    quick, full = (solve_relaxation(matrix, 4, tolerance=1e-3, reached=r) for r in (planted, None))
    assert quick.steps < full.steps
    assert certified_bound(matrix, 4, quick.multipliers) - planted <= 1e-3 * planted


def test_relaxation_is_tight_on_a_clearly_planted_matrix() -> None:
    matrix = _planted(16, 4, 0.2, 1)
    matrix = canonical(matrix).matrix
    bound = certified_bound(matrix, 4, solve_relaxation(matrix, 4).multipliers)
    planted = density(matrix, groups_of(np.arange(16) % 4))
    assert 0 <= bound - planted < 1e-3 * planted


def test_bound_is_no_looser_than_the_dual_formula_with_any_y_and_mu() -> None:
    """M = μI + ½(y1ᵀ + 1yᵀ) − A − N: kμ + Σy + k·max(0, −λ_min(M))."""
    rng = np.random.default_rng(2)
    matrix = _planted(10, 3, 0.5, 2)
    for _ in range(50):
        multipliers = symmetrised(rng.uniform(0, 0.3, size=(10, 10)))
        y, mu = rng.normal(size=10), rng.normal()
        slack = mu * np.eye(10) + (y[:, None] + y[None, :]) / 2 - matrix - multipliers
        formula = 3 * mu + y.sum() + 3 * max(0.0, -np.linalg.eigvalsh(slack).min())
        assert dual_bound(matrix, 3, multipliers) <= formula


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_bound_holds_for_any_multipliers(k: int) -> None:
    rng = np.random.default_rng(3)
    matrix = symmetrised(rng.normal(size=(7, 7)))
    optimum = max(density(matrix, groups_of(labels)) for labels in _partitions(7, k))
    for scale in (0.0, 0.1, 1.0):
        multipliers = symmetrised(scale * rng.uniform(size=(7, 7)))
        assert optimum <= dual_bound(matrix, k, multipliers)
