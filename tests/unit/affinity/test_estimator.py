"""The linearised estimator: path and ridge, moments, the network's own losses, probes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from affinity_service.affinity import LinearizedEstimator, linearized
from affinity_service.affinity.calibration import (
    REACHES,
    Calibration,
    calibrate,
    chosen_reach,
    probe_subsets,
    probes_of,
)
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.affinity.penalty import ridge_penalties
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.evaluation.fine_tuning import FineTuner
from affinity_service.fitting.path import Training
from affinity_service.fitting.subset_weights import Anchor
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.tasks.suite import VALIDATION
from tests.estimating import estimator_of, features_of, model_of, space_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=200)
SUBSETS = [(0,), (0, 1), (1, 2, 3), (0, 1, 2, 3)]


def config(**sections) -> Config:
    content = {
        "base": {"batch_size": 32, "learning_rate": 0.003},
        "model": {"hidden": [6]},
        "gradients": {"reduction": "exact"},
        "fits": {"epochs": 6, "evaluate": "linearized"},
    }
    merged = {key: {**content.get(key, {}), **sections.get(key, {})} for key in {*content, *sections}}
    return Config.parse({"name": "x", "data": {"source": "yeast"}, **merged})


def test_with_whole_batches_the_path_is_true_training_of_the_linearised_network():
    """A batch as large as the subset's examples has no variance, and the anchor no reduction: what remains is the
    oracle, step by step."""
    settings = config(base={"batch_size": 200, "gradient_clipping": 0.0, "learning_rate": 0.01}, fits={"stop": "last"})
    model = model_of(settings, SUITE, 3)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Each subset's examples are one batch, drawn with repetition where they are fewer: take those with all labels.
    full = mixed_suite(rows=200, missing=0.0)
    settings = settings.model_copy(
        update={"base": settings.base.model_copy(update={"batch_size": int((full.split == 0).sum())})}
    )
    found = estimator_of(settings, full, model).estimate(SUBSETS)
    (oracle,) = FineTuner(full, settings, weights, linearised=True).run(SUBSETS, [0])
    for index, subset in enumerate(SUBSETS):
        losses = oracle.validation[index, -1, list(subset)]
        # The oracle's multi-class task keeps the curvature of its softmax; its margin has rank one.
        close = [task != 2 for task in subset]
        np.testing.assert_allclose(found.losses[index][close], losses[close], rtol=2e-3)


def test_moments_come_from_one_run_and_best_is_the_least_mean_loss():
    estimator = estimator_of(config(), SUITE, model_of(config(), SUITE))
    every = estimator.estimates(SUBSETS, [1, 2, 3, 4, 5, 6, "best"])
    means = np.array([[losses.mean() for losses in each.losses] for each in every])
    np.testing.assert_allclose(means[-1], means[:-1].min(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(every[-1].epochs, means[:-1].argmin(axis=0) + 1)
    (alone,) = estimator.estimates(SUBSETS[1:2], [3])
    np.testing.assert_allclose(alone.losses[0], every[2].losses[1], rtol=1e-5)


def test_a_subspace_of_all_directions_changes_nothing():
    model = model_of(config(), SUITE)
    size = space_of(model).size
    exact = estimator_of(config(), SUITE, model).estimate(SUBSETS)
    wide = config(gradients={"reduction": "subspace", "dimension": size + 50, "landmarks": 2000})
    found = estimator_of(wide, SUITE, model).estimate(SUBSETS)
    for a, b in zip(found.losses, exact.losses, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_heads_apart_are_the_same_model_with_fewer_weights_to_move(monkeypatch):
    """All directions of the shared weights, and every head as it is: what the unreduced gradients give, whatever the
    kinds of the tasks and the sizes of their heads."""
    model = model_of(config(), SUITE)
    exact = estimator_of(config(), SUITE, model)
    wide = config(gradients={"reduction": "subspace", "dimension": space_of(model).size + 50, "landmarks": 2000})
    apart = estimator_of(wide, SUITE, model, apart=True)
    assert apart.anchor.own is not None
    assert (
        apart.anchor.width(2)
        < apart.anchor.width(4)
        == len(exact.anchor.weights)
        + 3 * apart.anchor.own.shape[1]
        - (int((apart.anchor.own < len(exact.anchor.weights)).sum()) - apart.anchor.own.shape[1])
    )
    # Subsets of several sizes at once, one of them in parts.
    monkeypatch.setattr(linearized, "PATH_BYTES", 4 * linearized.PATH_COPIES * 2 * apart.anchor.width(4))
    for moment in (1, "best"):
        a, b = (each.estimates(SUBSETS, [moment])[0] for each in (apart, exact))
        for found, expected in zip(a.losses, b.losses, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3)
    h, d = apart.anchor.own.shape[1], apart.anchor.dimension
    assert [len(row) for row in a.coordinates] == [d + (h + 1) * len(subset) for subset in SUBSETS]


def test_a_penalised_fit_beside_heads_apart_moves_the_shared_weights_alone():
    ridge = {"solution": "ridge", "l2": 0.05}
    wide = {"reduction": "subspace", "dimension": 500, "landmarks": 2000}
    model = model_of(config(), SUITE)
    apart = estimator_of(config(gradients=wide, fits=ridge), SUITE, model, apart=True)
    only = config(gradients={**wide, "layers": ["body.*"]}, fits=ridge)
    space = WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()}, ["body.*"])
    rows, anchor = features_of(only, SUITE, model, space=space)
    body = LinearizedEstimator(*rows, SUITE.tasks, only, anchor)
    found, expected = apart.estimate(SUBSETS), body.estimate(SUBSETS)
    for a, b in zip(found.losses, expected.losses, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)
    assert {len(row) for row in found.coordinates} == {apart.anchor.dimension}


def test_the_network_at_the_weights_found():
    settings = config(fits={"stop": "last", "epochs": 2, "evaluate": "network"})
    model = model_of(settings, SUITE)
    rows, anchor = features_of(settings, SUITE, model)
    held_out = SUITE.rows(VALIDATION)
    examples = (torch.tensor(x[held_out]) for x in (SUITE.inputs, SUITE.labels))
    networks = ValidationNetworks(model, space_of(model), SUITE.tasks, *examples)
    mean, error = networks(torch.zeros(2, space_of(model).size), [(0, 1, 2, 3), (2,)])
    plain = LinearizedEstimator(*rows, SUITE.tasks, settings, anchor)
    base = plain.estimates([(0, 1, 2, 3)], [1])[0]
    assert mean.shape == error.shape == (2, 4)
    # Near the base model linearised and network losses are the same, further away they part.
    near = LinearizedEstimator(*rows, SUITE.tasks, settings, anchor, networks).estimates([(0, 1, 2, 3)], [1])[0]
    np.testing.assert_allclose(near.losses[0], base.losses[0], rtol=0.05)
    np.testing.assert_allclose(near.standard_errors[0], base.standard_errors[0], rtol=0.2)
    assert not np.allclose(near.losses[0], base.losses[0], rtol=1e-6)


def test_penalties_follow_the_rule():
    settings = config()
    _, tensors = features_of(settings, SUITE, model_of(settings, SUITE))
    anchor = Anchor.from_tensors(tensors, "cpu")
    training = Training(32, torch.tensor([4]), torch.tensor([128]))
    sizes = torch.full((4,), 128)
    (one,), (four,) = (ridge_penalties(anchor, [(1,)], training, sizes, epochs, settings.base) for epochs in (1, 4))
    assert one / four == pytest.approx(4)
    mean, square = anchor.mean[1], anchor.square[1]
    root = (mean**2 + (square - mean**2) * (1 - 32 / 128) / 32).sqrt()
    assert float(one) == pytest.approx(float(root[square > 0].mean()) / (settings.base.learning_rate * 4), rel=1e-4)


@pytest.mark.parametrize("l2", ["auto", 0.1])
def test_ridge_goes_further_with_more_epochs_unless_its_penalty_is_given(l2):
    settings = config(fits={"solution": "ridge", "l2": l2})
    estimator = estimator_of(settings, SUITE, model_of(settings, SUITE))
    one, six = (np.linalg.norm(each.coordinates, axis=1) for each in estimator.estimates(SUBSETS, [1, 6]))
    assert (six > one).all() if l2 == "auto" else np.allclose(six, one)
    assert estimator.estimate(SUBSETS).converged.all()


def test_few_small_subsets_run_on_one_thread(monkeypatch):
    estimator, used = estimator_of(config(), SUITE, model_of(config(), SUITE)), []

    @contextlib.contextmanager
    def recorded():
        used.append(True)
        yield

    monkeypatch.setattr(linearized, "little_work", recorded)
    estimator.estimate(SUBSETS)
    assert used.pop()
    # Numbers of the rows that a single task has.
    own = int((estimator._arrays[3] == 0).sum()) * estimator._arrays[0].shape[1]
    monkeypatch.setattr(linearized, "ONE_THREAD_ROW_NUMBERS", own)
    estimator.estimate([(0,)])
    assert used.pop()
    estimator.estimate([(0, 1)])
    assert not used


def test_what_cannot_be_estimated_is_named():
    estimator = estimator_of(config(), SUITE, model_of(config(), SUITE))
    with pytest.raises(UserError, match="task 9"):
        estimator.estimate([(0, 9)])
    with pytest.raises(
        UserError, match=r"fits.solution is path, which needs a basis that gradients.reduction rademacher"
    ):
        config(gradients={"reduction": "rademacher"}, fits={"solution": "path"})


def test_probes_are_distinct_and_cover_the_tasks():
    found = probe_subsets(13, 6, 0)
    assert len(set(found)) == 6
    assert all(2 <= len(subset) <= 8 for subset in found)
    counts = np.bincount(np.concatenate(found), minlength=13)
    assert counts.min() >= 1
    assert np.ptp(counts) <= 2
    # Of subsets of ten alone, their own size tells; there are too few of those among eleven tasks.
    of_ten = config(fits={"sizes": (10, 10), "probes": 6}).fits
    assert [len(subset) for subset in probes_of(of_ten, 500)] == [10] * 6
    assert probes_of(of_ten, 11) == probe_subsets(11, 6, 0)
    # Few tasks: most subsets are left to be validated on.
    assert [len(probe_subsets(tasks, 6, 0)) for tasks in (1, 2, 3, 4, 5)] == [0, 0, 1, 3, 6]


def test_calibration_takes_the_best_penalty_and_tells_the_error():
    rng = np.random.default_rng(0)
    subsets = probe_subsets(6, 12, 0)
    true = [rng.normal(size=len(s)) for s in subsets]
    predicted = {1.0: [t + 0.3 for t in true], 3.0: [t + 0.1 * rng.standard_normal(len(t)) for t in true]}
    found = calibrate(predicted, true, np.zeros(6), subsets, flops=5.0, seconds=1.0)
    assert found.penalty_factor == 3.0
    assert found.residual == pytest.approx(0.1, rel=0.5)
    assert not found.misleads
    member = np.concatenate([np.array(s) for s in subsets])
    inside = (
        np.abs(np.concatenate(predicted[3.0]) - np.concatenate(true)) <= 1.645 * np.array(found.task_errors)[member]
    )
    assert 0.88 <= inside.mean() <= 0.96
    assert Calibration.from_json(found.to_json()) == found
    worse = calibrate({1.0: [t + 5 * rng.standard_normal(len(t)) for t in true]}, true, np.zeros(6), subsets, 0.0, 0.0)
    assert worse.misleads


def test_a_reach_scales_the_displacements_by_the_steps_taken():
    settings = config(fits={"solution": "path", "evaluate": "linearized"})
    (train, validation), anchor = features_of(settings, SUITE, model_of(settings, SUITE))
    whole, limited = (
        LinearizedEstimator(train, validation, SUITE.tasks, settings, anchor, calibration=Calibration(reach_steps=each))
        for each in (None, 5.0)
    )
    subsets = [(0,), (0, 1, 2)]
    steps = whole._training(subsets).steps.numpy()
    for epoch in (1, 3):
        one, other = (each.estimates(subsets, [epoch])[0].coordinates for each in (whole, limited))
        for number, (full, part) in enumerate(zip(one, other, strict=True)):
            np.testing.assert_allclose(part, full * (1 + steps[number] * epoch / 5.0) ** -0.5, rtol=1e-5)


@pytest.mark.parametrize("solution", ["path", "ridge"])
def test_courses_of_several_reaches_are_those_of_one_at_a_time(solution, monkeypatch):
    settings = config(fits={"solution": solution, "evaluate": "linearized"})
    (train, validation), anchor = features_of(settings, SUITE, model_of(settings, SUITE))
    subsets, reaches = [(0, 1, 2), (1,), (0, 2)], [None, 1.0, 30.0]

    def estimator(reach: float | None) -> LinearizedEstimator:
        return LinearizedEstimator(
            train, validation, SUITE.tasks, settings, anchor, calibration=Calibration(reach_steps=reach)
        )

    together = estimator(3.0).courses_by_reach(subsets, reaches)
    # As many pieces as subsets.
    monkeypatch.setattr("affinity_service.affinity.linearized.PATH_BYTES", 1)
    for reach in reaches:
        moments = estimator(reach).estimates(subsets, range(1, settings.fits.epochs + 1))
        for epoch, found in enumerate(moments):
            for number, subset in enumerate(subsets):
                np.testing.assert_allclose(
                    together[reach][number, epoch, list(subset)], found.losses[number], rtol=1e-4, atol=1e-6
                )
        assert np.isnan(together[reach][1, :, 0]).all()


def test_a_reach_is_chosen_where_it_is_worth_it():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4, 3, 5))
    true[0, :, 2:] = np.nan
    away = {None: 1.0, **dict.fromkeys(REACHES, 2.0)}

    def courses(**other):
        return {reach: true + off for reach, off in away.items()} | {10.0: true + other.get("ten", 2.0)}

    assert chosen_reach(courses(), true) is None
    assert chosen_reach(courses(ten=0.95), true) is None
    assert chosen_reach(courses(ten=0.5), true) == 10.0


@pytest.mark.parametrize("solution", ["path", "ridge"])
def test_a_task_without_any_features_and_a_separable_one_get_finite_losses(solution):
    settings = config(fits={"solution": solution, "l2": 1e-9 if solution == "ridge" else "auto"})
    (train, validation), anchor = features_of(settings, SUITE, model_of(settings, SUITE))
    for rows in (train, validation):
        rows.features[rows.task_of_row == 0] = 0
        # The sign of the first direction is the label: no finite weights are the best.
        own = rows.task_of_row == 1
        rows.features[own, 0] = np.sign(rows.targets[own] - 0.5)
    anchor["mean"][0] = 0
    anchor["square"][0] = 0
    found = LinearizedEstimator(train, validation, SUITE.tasks, settings, anchor).estimate([(0,), (1,), (0, 1)])
    for losses, errors in zip(found.losses, found.standard_errors, strict=True):
        assert np.isfinite([*losses, *errors]).all()
    # Nothing moves the margins of the first task: it keeps the base model's loss in any company.
    assert found.losses[0][0] == pytest.approx(found.losses[2][0], rel=1e-6)
    assert found.losses[1][0] < 0.7
