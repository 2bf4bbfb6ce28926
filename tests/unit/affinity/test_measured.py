"""From a history of measurements to the matrix, group scores and losses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from affinity_service.affinity.measured import (
    average_history,
    group_scores,
    history_of,
    inside_window,
    losses_by_scores,
)
from affinity_service.errors import UserError

NAMES = ["a", "b", "c"]


def table(history: np.ndarray, per_epoch: int = 5) -> pa.Table:
    steps = 10 * np.arange(len(history))
    flat = [each.ravel().astype(np.float32) for each in history]
    return pa.table(
        {
            "step": steps,
            "epoch": np.arange(len(history)) // per_epoch,
            "lookahead": flat,
            "cosine": pa.nulls(len(history), pa.list_(pa.float32())),
        }
    )


def test_means_counts_and_errors_over_measurements():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 3))
    errors, found = [], []
    for seed in range(200):
        history = truth + np.random.default_rng(seed).normal(size=(40, 3, 3))
        matrix = average_history(NAMES, history)
        found.append(matrix.affinity)
        errors.append(matrix.standard_error)
    # 40 independent measurements of spread 1.
    np.testing.assert_allclose(np.mean(errors, axis=0), 1 / np.sqrt(40), rtol=0.1)
    np.testing.assert_allclose(np.std(found, axis=0), 1 / np.sqrt(40), rtol=0.2)
    assert (matrix.subsets == 40).all()
    np.testing.assert_array_equal(matrix.pair_estimate, matrix.affinity)


def test_errors_of_measurements_that_resemble_their_neighbours_are_larger():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(400, 3, 3))
    slow = np.zeros_like(noise)
    for step in range(1, 400):
        slow[step] = 0.9 * slow[step - 1] + noise[step]
    naive = slow.std(axis=0, ddof=1) / 20
    assert (average_history(NAMES, slow).standard_error > 1.5 * naive).all()


def test_what_a_batch_does_not_know_is_left_out():
    history = np.ones((6, 3, 3))
    history[:4, 0, 1] = np.nan
    history[4:, 0, 1] = 3.0
    matrix = average_history(NAMES, history)
    assert matrix.affinity[0, 1] == 3.0
    assert matrix.subsets[0, 1] == 2
    assert np.isfinite(matrix.standard_error).all()
    assert np.isfinite(average_history(NAMES, history[4:5]).standard_error).all()


def test_a_task_that_is_never_measured_is_named():
    history = np.ones((6, 3, 3))
    history[:, 1, :] = history[:, :, 1] = np.nan
    with pytest.raises(UserError, match="task `b` has no examples in any of the 6 batches that were measured"):
        average_history(NAMES, history)
    history = np.ones((6, 3, 3))
    history[:, 0, 2] = np.nan
    with pytest.raises(UserError, match="the pair `a`, `c` has no examples"):
        average_history(NAMES, history)


def test_the_window_ends_with_the_best_epoch():
    own = table(np.ones((20, 3, 3)))
    assert inside_window(own, 1, (0.0, 1.0)).sum() == 10
    np.testing.assert_array_equal(np.flatnonzero(inside_window(own, 1, (0.5, 1.0))), range(5, 10))
    np.testing.assert_array_equal(np.flatnonzero(inside_window(own, 3, (0.0, 0.1))), range(2))


def test_history_is_receiver_by_source_and_says_what_was_not_measured():
    history = np.arange(18.0).reshape(2, 3, 3)
    np.testing.assert_array_equal(history_of(table(history), "lookahead", 3), history)
    with pytest.raises(UserError, match="cosine was not measured in this training"):
        history_of(table(history), "cosine", 3)


def test_scores_are_means_over_mates():
    matrix = np.array([[9.0, 1, 2], [3, 9, 4], [5, 6, 9]])
    scores = group_scores(matrix, [(0, 2), (0, 1, 2), (1,)])
    assert [each.tolist() for each in scores] == [[2, 5], [1.5, 3.5, 5.5], [9]]
    losses = losses_by_scores(matrix / 10, np.array([1.0, 2.0, 3.0]), [(0, 2)], relative=True)
    np.testing.assert_allclose(losses, [[0.8, np.nan, 1.5]])
    losses = losses_by_scores(matrix / 10, np.array([1.0, 2.0, 3.0]), [(0, 2)], relative=False)
    np.testing.assert_allclose(losses, [[0.8, np.nan, 2.5]])
