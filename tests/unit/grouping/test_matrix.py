from typing import Any

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import centre_rows, cluster
from affinity_service.grouping.matrix import canonical, symmetrised
from affinity_service.grouping.partition import density, groups_of, with_exactly


def test_centre_rows_gives_the_gain_over_training_alone() -> None:
    # Task 0 alone has loss 2.0, with task 1 loss 1.5: a gain of 0.5.
    negated_losses = [[-2.0, -1.5], [-0.4, -0.3]]
    np.testing.assert_allclose(centre_rows(negated_losses, "alone"), [[0.0, 0.5], [-0.1, 0.0]])


def test_centre_rows_makes_the_objective_a_weighted_mean_gain() -> None:
    rng = np.random.default_rng(0)
    gains = centre_rows(rng.normal(size=(6, 6)), "alone")
    groups = [[0, 2, 5], [1, 3], [4]]
    by_hand = sum(
        (1 - 1 / len(group)) * np.mean([gains[i, j] for j in group if j != i])
        for group in groups
        for i in group
        if len(group) > 1
    )
    assert density(symmetrised(gains), groups) == pytest.approx(by_hand)


def test_row_offsets_cannot_change_the_groups_of_sdp() -> None:
    rng = np.random.default_rng(1)
    same = np.arange(12)[:, None] % 3 == np.arange(12) % 3
    gains = same + 0.2 * rng.normal(size=(12, 12))
    losses_of_very_different_levels = gains - 100 * np.arange(12)[:, None]
    plain, offset = cluster(gains, 3), cluster(losses_of_very_different_levels, 3)
    assert plain.groups == offset.groups
    assert offset.objective == pytest.approx(plain.objective - 100 * np.arange(12).sum())
    assert cluster(centre_rows(losses_of_very_different_levels, "alone"), 3).groups == plain.groups


def test_centring_by_partners_asks_which_partner_not_whether_any() -> None:
    """Company as such lifts every row by another amount; the camps show only in the differences between partners."""
    rng = np.random.default_rng(2)
    same = np.arange(8)[:, None] % 2 == np.arange(8) % 2
    gains = 0.05 * same + 0.01 * rng.normal(size=(8, 8)) + rng.uniform(-1, 1, size=(8, 1))
    np.fill_diagonal(gains, 0.0)
    levels = rng.normal(size=(8, 1))
    centred = centre_rows(gains + levels, "partners")
    off_diagonal = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(centred.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(
        (centred[:, :-1] - centred[:, 1:])[off_diagonal[:, 1:] & off_diagonal[:, :-1]],
        (gains[:, :-1] - gains[:, 1:])[off_diagonal[:, 1:] & off_diagonal[:, :-1]],
        atol=1e-12,
    )
    assert cluster(centred, 2).groups == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert cluster(centre_rows(gains + levels, "alone"), 2).groups != [[0, 2, 4, 6], [1, 3, 5, 7]]
    with pytest.raises(UserError, match="by: found 'rows'"):
        centre_rows(gains, "rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1.0, 1e12, 1e150])
def test_canonical_form_keeps_the_objective(scale: float) -> None:
    rng = np.random.default_rng(2)
    matrix = symmetrised(scale * (rng.normal(size=(9, 9)) + 3))
    form = canonical(matrix)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 2, 0])
    value = form.original_units(density(form.matrix, groups_of(labels)), 3)
    assert value == pytest.approx(density(matrix, groups_of(labels)), abs=form.rounding)
    assert form.rounding < 1e-10 * scale
    np.testing.assert_allclose(form.matrix.sum(axis=0), 0, atol=1e-12)
    assert np.trace(form.matrix) == pytest.approx(0, abs=1e-12)
    assert np.abs(form.matrix).max() == pytest.approx(1)


def test_with_exactly_splits_until_there_are_enough_groups() -> None:
    labels = with_exactly(np.array([7, 7, 7, 7, 3]), 4)
    assert sorted(np.bincount(labels)) == [1, 1, 1, 2]


def _with(value: float) -> np.ndarray:
    matrix = np.zeros((3, 3))
    matrix[1, 2] = value
    return matrix


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\).*square"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((0, 0)), "T ≥ 1"),
        (_with(np.nan), r"found nan at row 1 \(receiver\), column 2 \(source\)"),
        (_with(-np.inf), "found -inf at row 1"),
        (_with(1e250), r"found 1e\+250.*magnitude up to 1e\+200"),
        ([["a", "b"], ["c", "d"]], "not numbers"),
        (np.eye(2) * 1j, "not numbers"),
        ([[1.0], [2.0, 3.0]], "not numbers"),
    ],
)
def test_bad_affinities_are_refused(affinity: Any, message: str) -> None:
    for refuse in (centre_rows, lambda matrix: cluster(matrix, 1)):
        with pytest.raises(UserError, match=message):
            refuse(affinity)
