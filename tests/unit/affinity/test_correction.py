"""What errors of probes have in common, on errors whose parts are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from affinity_service.affinity.calibration import Calibration, calibrate, probe_subsets
from affinity_service.affinity.correction import NONE, Correction, fit_correction, left_out

TASKS = 12


def errors_of(subsets, rng, offset=0.0, of_share=0.0, noise=0.1, mean=0.0):
    """Errors and the true offsets: `mean` plus an offset per task, of_share · 1/|S|, and noise."""
    offsets = mean + offset * rng.normal(size=TASKS)
    errors = [offsets[list(s)] + of_share / len(s) + noise * rng.normal(size=len(s)) for s in subsets]
    return errors, offsets


def rms(errors) -> float:
    return float(np.sqrt(np.square(np.concatenate(errors)).mean()))


@pytest.mark.parametrize("unit", [1e-3, 1.0, 50.0])
def test_offsets_and_the_part_of_the_share_are_found(unit):
    rng = np.random.default_rng(0)
    subsets = probe_subsets(TASKS, 60, 0)
    errors, offsets = errors_of(subsets, rng, offset=0.3, of_share=1.0, mean=0.2, noise=0.05)
    correction = fit_correction([unit * e for e in errors], subsets, TASKS)
    assert correction.of_share / unit == pytest.approx(1.0, abs=0.1)
    # The mean share is in the offsets.
    expected = offsets + correction.shares[1]
    np.testing.assert_allclose(np.array(correction.offsets) / unit, expected, atol=0.05)
    new = probe_subsets(TASKS, 40, 1)
    predicted = [np.zeros(TASKS)[list(s)] for s in new]
    true = [offsets[list(s)] + 1 / len(s) for s in new]
    added = correction.applied(np.zeros((len(new), TASKS)), new) / unit
    assert rms([t - p - a[list(s)] for t, p, a, s in zip(true, predicted, added, new, strict=True)]) < 0.05


@pytest.mark.parametrize("probes", [4, 6, 12])
def test_pure_noise_is_left_alone(probes):
    corrected = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        subsets = probe_subsets(TASKS, probes, seed)
        errors, _ = errors_of(subsets, rng)
        found = calibrate({1.0: [-e for e in errors]}, [0 * e for e in errors], np.ones(TASKS), subsets, 0.0, 0.0)
        corrected += bool(found.correction)
    assert corrected <= 2


@pytest.mark.parametrize("probes", [6, 12])
def test_errors_of_tasks_are_smaller_where_offsets_are_large(probes):
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        subsets = probe_subsets(TASKS, probes, seed)
        errors, _ = errors_of(subsets, rng, offset=0.3)
        ratios.append(rms(left_out(errors, subsets, TASKS)) / rms(errors))
    assert np.mean(ratios) < {6: 0.8, 12: 0.6}[probes]


def test_few_probes_and_exact_predictions_give_none():
    assert fit_correction([np.ones(2), np.ones(2)], [(0, 1), (1, 2)], 3) is NONE
    assert fit_correction([np.zeros(2)] * 4, [(0, 1), (1, 2), (0, 2), (1, 3)], 4) is NONE
    losses = np.ones((2, 3))
    assert NONE.applied(losses, [(0,), (1, 2)]) is losses


def test_probes_of_one_size_tell_nothing_of_the_share():
    errors = [np.array([0.1, 0.3]), np.array([0.1, 0.2]), np.array([0.3, 0.2]), np.array([0.1, 0.1])]
    correction = fit_correction(errors, [(0, 1), (0, 2), (1, 2), (0, 3)], 4)
    assert correction.of_share == 0
    assert correction.offsets[1] > correction.offsets[0]


def test_sizes_beyond_the_probes_count_as_the_nearest_and_new_tasks_get_the_mean():
    correction = Correction((0.1, 0.3), of_share=2.0, shares=(0.25, 0.4, 0.5))
    found = correction.applied(np.ones((3, 3)), [(0,), (0, 1), tuple(range(8))])
    np.testing.assert_allclose(found[:, 2], 1.2 + 2 * np.array([0.1, 0.1, -0.15]))
    np.testing.assert_allclose(found[0], found[1])
    assert correction.applied(np.zeros((1, 2)), [tuple(range(8))])[0, 0] == 0, "no loss is negative"
    assert np.isnan(correction.applied(np.full((1, 2), np.nan), [(0, 1)])).all()


def test_a_calibration_corrects_where_that_helps_and_is_read_as_it_was_written():
    rng = np.random.default_rng(3)
    subsets, base = probe_subsets(TASKS, 8, 0), np.ones(TASKS)
    for offset, corrected in ((0.3, True), (0.0, False)):
        errors, _ = errors_of(subsets, rng, offset=offset, noise=0.02)
        predicted = [1 + 0.1 * rng.normal(size=len(s)) for s in subsets]
        true = [p + e for p, e in zip(predicted, errors, strict=True)]
        found = calibrate({1.0: predicted}, true, base, subsets, 0.0, 0.0)
        assert bool(found.correction) == corrected
        plain = rms(errors)
        assert (found.residual < 0.5 * plain) if corrected else found.residual == pytest.approx(plain)
        assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_correction_does_not_hide_that_predictions_tell_nothing():
    """The base model's losses are corrected alike before they are compared."""
    rng = np.random.default_rng(0)
    subsets, base = probe_subsets(TASKS, 12, 0), np.ones(TASKS)
    offsets = 0.3 * rng.normal(size=TASKS)
    true = [1 + offsets[list(s)] + 0.01 * rng.normal(size=len(s)) for s in subsets]
    for noise, misleads in ((0.05, True), (0.0, False)):
        # Either noise around the base model's losses, or what is true up to the offsets.
        predicted = [
            1 + noise * rng.normal(size=len(s)) if noise else own - offsets[list(s)]
            for own, s in zip(true, subsets, strict=True)
        ]
        found = calibrate({1.0: predicted}, true, base, subsets, 0.0, 0.0)
        assert found.correction
        assert found.misleads == misleads
