"""Where early stopping ends a training that fluctuates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.affinity.stopping import ExpectedStop, stop_noise


def expected(noise: float, scores: np.ndarray, values: np.ndarray) -> torch.Tensor:
    """Of epochs (E, M) of scores and (E, M, ...) of values."""
    stop = ExpectedStop(noise)
    for score, value in zip(scores, values, strict=True):
        stop.add(torch.tensor(score), {"value": torch.tensor(value)})
    return stop.means()["value"]


def test_without_fluctuation_it_is_the_best_epoch():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(9, 5)), rng.normal(size=(9, 5, 3))
    best = values[scores.argmin(axis=0), np.arange(5)]
    np.testing.assert_allclose(expected(0.0, scores, values), best)


def test_the_chances_are_those_of_fluctuating_trainings():
    rng = np.random.default_rng(1)
    course, noise = np.array([0.3, 0.1, 0.0, 0.05, 0.2]), 0.1
    # Extreme-value fluctuations of that standard deviation, downwards.
    runs = course - rng.gumbel(scale=noise * np.sqrt(6) / np.pi, size=(200_000, 5))
    share = np.bincount(runs.argmin(axis=1), minlength=5) / len(runs)
    found = expected(noise, course[:, None], np.eye(5)[:, None, :])
    np.testing.assert_allclose(found[0], share, atol=5e-3)


def test_epochs_that_diverged_have_no_chance():
    scores = np.array([[np.inf, 0.2], [0.1, np.nan], [0.3, np.inf]])
    values = np.array([[np.nan, 1.0], [2.0, np.inf], [np.nan, np.nan]])
    np.testing.assert_allclose(expected(0.01, scores, values)[1:], [1.0])
    np.testing.assert_allclose(expected(0.0, scores[1:2], values[1:2])[:1], [2.0])


def test_fluctuation_is_told_from_the_course():
    rng = np.random.default_rng(2)
    course = rng.normal(size=(40, 12, 1)) + np.linspace(1, 0, 12)[:, None]
    losses = [course + rng.normal(scale=0.02, size=(40, 12, 1)) for _ in range(3)]
    # Tasks outside the subset count for nothing.
    losses = [np.concatenate([each, np.full_like(each, np.nan)], axis=2) for each in losses]
    assert stop_noise(losses) == pytest.approx(0.02, rel=0.1)
    assert stop_noise(losses[:1]) == 0.0
