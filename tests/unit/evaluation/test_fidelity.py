"""Measures of fidelity on losses whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from affinity_service.evaluation import fidelity
from affinity_service.evaluation.fidelity_table import rows_of, title_of


def losses(subsets: int = 60, tasks: int = 8, seed: int = 0) -> np.ndarray:
    """Difficulties far apart, partners that matter a little, half of the entries outside their subset."""
    rng = np.random.default_rng(seed)
    values = np.linspace(0.2, 2, tasks) + 0.02 * rng.normal(size=(subsets, tasks))
    values[rng.random(values.shape) < 0.5] = np.nan
    return values


def test_the_truth_itself_is_perfect_and_the_difficulty_alone_is_blind():
    true = losses()
    base = np.nanmean(true, axis=0) + 0.05
    perfect = fidelity.scores(true, true, base)
    assert perfect["centred_r"] == pytest.approx(1)
    assert perfect["centred_r2"] == perfect["spearman"] == pytest.approx(1)
    assert perfect["regret"] == pytest.approx(0, abs=1e-12)
    assert perfect["relative_distance"] == 0
    assert perfect["skill"] == 1
    blind = fidelity.scores(fidelity.row_means(true), true, base)
    assert np.isnan(blind["centred_r"])
    assert np.isnan(blind["spearman"])
    assert blind["centred_r2"] == pytest.approx(0)
    assert blind["relative_distance"] < 0.03, "flattered by difficulties"
    assert 0.5 < blind["skill"] < 1
    assert blind["regret"] > 0.02


def test_centred_scores_do_not_see_levels():
    true = losses()
    rng = np.random.default_rng(1)
    predicted = true + 0.02 * rng.normal(size=true.shape)
    shifted = predicted + np.linspace(-1, 1, true.shape[1])
    for measure in (fidelity.centred_r, fidelity.centred_r2, fidelity.spearman, fidelity.regret):
        assert measure(shifted, true) == pytest.approx(measure(predicted, true))
    assert fidelity.relative_distance(shifted, true) > 10 * fidelity.relative_distance(predicted, true)


def test_ranks_are_those_of_scipy():
    true = losses()
    predicted = true + 0.03 * np.random.default_rng(2).normal(size=true.shape)
    each = [
        stats.spearmanr(predicted[known, t], true[known, t]).statistic
        for t in range(true.shape[1])
        for known in [~np.isnan(true[:, t])]
    ]
    assert fidelity.spearman(predicted, true) == pytest.approx(np.mean(each))


def test_regret_of_a_blind_prediction_is_that_of_a_random_choice():
    true = losses(subsets=200)
    rng = np.random.default_rng(3)
    random = np.mean(
        [fidelity.regret(np.where(np.isnan(true), np.nan, rng.random(true.shape)), true) for _ in range(20)]
    )
    assert fidelity.regret(fidelity.row_means(true), true) == pytest.approx(random, rel=0.05)
    assert fidelity.regret(-true, true) > 1.5 * random


def test_intervals_are_paired_and_hold_the_score():
    true = losses()
    base = np.nanmean(true, axis=0)
    rng = np.random.default_rng(4)
    good, bad = (true + noise * rng.normal(size=true.shape) for noise in (0.01, 0.05))
    found = fidelity.compare(
        {"good": [good], "same": [good], "bad": [bad], "blind": [fidelity.row_means(true)]}, true, base
    )
    assert found["good"] == found["same"]
    for name in ("good", "bad"):
        low, high = found[name]["centred_r_interval"]
        assert low < found[name]["centred_r"] < high
    assert found["good"]["centred_r_interval"][0] > found["bad"]["centred_r_interval"][1]
    assert found["blind"]["centred_r"] is None
    assert found["blind"]["centred_r_interval"] is None


def test_coverage_of_honest_errors_is_nominal():
    rng = np.random.default_rng(5)
    true = rng.normal(size=(400, 6))
    error = np.linspace(0.1, 1, 6)
    predicted = true + error * rng.normal(size=true.shape)
    assert fidelity.coverage(predicted, error, true) == pytest.approx(0.9, abs=0.02)
    assert fidelity.coverage(predicted, error / 2, true) < 0.7


def test_the_table_names_what_is_undefined():
    true = losses()
    found = fidelity.compare(
        {"estimate": [true], "row_mean": [fidelity.row_means(true)]}, true, np.nanmean(true, axis=0)
    )
    rows = {row[0]: row[1:] for row in rows_of(found)}
    assert rows["estimate"][0] == "1.000"
    assert rows["task means"][:2] == ["–", "–"]
    title = title_of("epoch_5", {"subsets": 60, "seeds": 3, "start": "base"})
    assert title == "60 subsets fine-tuned, after 5 epochs, mean of 3 seeds"
