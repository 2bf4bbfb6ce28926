"""Affinities drawn towards the average partner by their standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.grouping import centre_rows, cluster
from affinity_service.grouping.shrinkage import shrink_rows


def test_certain_affinities_stay_and_chance_vanishes():
    rng = np.random.default_rng(0)
    matrix = centre_rows(rng.normal(size=(8, 8)))
    np.testing.assert_array_equal(shrink_rows(matrix, np.zeros((8, 8))), matrix)
    assert np.abs(shrink_rows(matrix, np.full((8, 8), 100.0))).max() == 0
    assert np.abs(shrink_rows(np.zeros((3, 3)), np.zeros((3, 3)))).max() == 0


def test_the_squared_error_falls_where_errors_are_as_said():
    rng = np.random.default_rng(1)
    before, after = 0.0, 0.0
    for _ in range(50):
        truth = centre_rows(rng.normal(scale=rng.uniform(0.1, 2, (20, 1)), size=(20, 20)))
        error = rng.uniform(0.2, 2, (20, 20)) * (1 - np.eye(20))
        seen = centre_rows(truth + error * rng.normal(size=(20, 20)))
        before += np.square(seen - truth).sum()
        after += np.square(shrink_rows(seen, error) - truth).sum()
    assert after < 0.7 * before


def test_noisy_receivers_no_longer_steer_the_groups():
    rng = np.random.default_rng(2)
    camp = np.arange(18) % 3
    error = np.where(np.arange(18) < 6, 6.0, 0.1)[:, None] * (1 - np.eye(18))
    plain = kept = 0
    for _ in range(20):
        seen = centre_rows((camp[:, None] == camp) * 1.0 + error * rng.normal(size=(18, 18)))
        wanted = [np.flatnonzero(camp == g).tolist() for g in range(3)]
        plain += cluster(seen, 3).groups == wanted
        kept += cluster(shrink_rows(seen, error), 3).groups == wanted
    assert kept > plain


@pytest.mark.parametrize("error", [np.zeros((2, 2)), -np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_errors_that_are_none_are_refused(error):
    with pytest.raises(UserError):
        shrink_rows(np.zeros((3, 3)), error)
