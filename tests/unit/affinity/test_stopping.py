"""Where early stopping ends a training that fluctuates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.affinity.stopping import ExpectedStop, StopRule, course_correction, mean_course, stop_noise


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


def test_what_courses_share_in_overfitting_is_found():
    rng = np.random.default_rng(3)
    predicted = rng.normal(size=(6, 1)) + np.linspace(1, 0, 15)
    overfits = np.linspace(0, 0.5, 15) ** 2
    # Levels are no matter of the stop.
    true = predicted + overfits + rng.normal(size=(6, 1)) + rng.normal(scale=0.01, size=(6, 15))
    np.testing.assert_allclose(course_correction(true, predicted), overfits - overfits.mean(), atol=0.02)


def test_what_chance_explains_is_left_out():
    rng = np.random.default_rng(4)
    sizes = []
    for _ in range(200):
        # Courses that wander each for itself.
        apart = rng.normal(size=(6, 15)).cumsum(axis=1)
        found = np.array(course_correction(apart, np.zeros((6, 15))) or np.zeros(15))
        mean = (apart - apart.mean(axis=1, keepdims=True)).mean(axis=0)
        sizes.append(np.square(found).sum() / np.square(mean).sum())
    assert np.mean(sizes) < 0.15


@pytest.mark.parametrize("rows", [0, 1])
def test_one_course_tells_nothing(rows):
    assert course_correction(np.zeros((rows, 4)), np.ones((rows, 4))) == ()
    assert course_correction(np.zeros((3, 4)), np.ones((3, 4))) == ()


def test_a_probe_that_diverged_is_left_out():
    true = np.tile(np.array([0.0, 1.0, 2.0]), (4, 1))
    true[0, 2] = np.inf
    np.testing.assert_allclose(course_correction(true, np.zeros((4, 3))), [-1, 0, 1])


def test_the_correction_moves_the_score_of_its_epoch():
    losses = torch.tensor([[1.0, np.nan, 3.0], [np.nan, 4.0, np.nan]])
    assert StopRule(correction=(0.5, -0.25)).score(losses, 2).tolist() == [1.75, 3.75]
    assert StopRule().score(losses, 7).tolist() == [2.0, 4.0]


def test_the_course_is_the_mean_over_seeds_and_members():
    first = np.array([[[1.0, np.nan, 3.0], [2.0, np.nan, 2.0]]])
    np.testing.assert_allclose(mean_course([first, first + 2]), [[3.0, 3.0]])
