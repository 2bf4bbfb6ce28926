"""True fine-tuning, its linearised oracle, and what the first-order baseline computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.affinity.first_order import first_order_losses
from affinity_service.affinity.trained import TrainedEstimator
from affinity_service.config import Config
from affinity_service.evaluation import fine_tuning
from affinity_service.evaluation.fine_tuning import FineTuned, FineTuner, seeds_of
from affinity_service.evaluation.flops import pass_flops
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import StackedTrainer, split_losses
from affinity_service.models import build_model
from affinity_service.planning.memory import stacked_model_bytes
from affinity_service.planning.workload import Workload
from affinity_service.tasks.suite import TRAIN, VALIDATION
from tests.estimating import features_of, model_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=150)
SUBSETS = [(0, 1), (2,), (0, 1, 2, 3)]


def config(**sections) -> Config:
    content = {"base": {"batch_size": 32, "learning_rate": 0.003}, "fits": {"epochs": 4}, "model": {"hidden": [6]}}
    merged = {key: {**content.get(key, {}), **sections.get(key, {})} for key in {*content, *sections}}
    return Config.parse({"name": "x", "data": {"source": "yeast"}, **merged})


def weights_of(seed: int = 5) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model_of(config(), SUITE, seed).named_parameters()}


def test_it_starts_from_the_weights_given_and_records_every_epoch():
    settings = config()
    (first, second) = FineTuner(SUITE, settings, weights_of(), record_test=True).run(SUBSETS, [1, 2])
    assert first.validation.shape == first.test.shape == (3, 4, 4)
    assert np.isnan(first.validation[1, :, [0, 1, 3]]).all()
    assert np.isfinite(first.validation[1, :, 2]).all()
    assert not np.allclose(first.validation[2], second.validation[2]), "another order of examples"
    base = split_losses(model_of(settings, SUITE, 5), SUITE, VALIDATION)
    start = np.abs(first.validation[2, 0] - base).max()
    fresh = FineTuner(SUITE, settings, None).run(SUBSETS, [1])[0]
    assert start < np.abs(fresh.validation[2, 0] - base).max()
    assert first.flops == pytest.approx(second.flops)


def test_moments_are_epochs_and_the_best_one():
    (found,) = FineTuner(SUITE, config(), weights_of()).run(SUBSETS, [1])
    best, epochs = found.at("best")
    for index in range(len(SUBSETS)):
        means = np.nanmean(found.validation[index], axis=1)
        assert epochs[index] == means.argmin() + 1
        np.testing.assert_array_equal(best[index], found.validation[index, means.argmin()])
    np.testing.assert_array_equal(found.at(2)[0], found.validation[:, 1])


def test_chunks_of_a_stack_do_not_matter(monkeypatch):
    tuner = FineTuner(SUITE, config(), weights_of())
    (whole,) = tuner.run(SUBSETS, [3])
    monkeypatch.setattr(fine_tuning, "STACK_BYTES", 1)
    (alone,) = tuner.run(SUBSETS, [3])
    np.testing.assert_allclose(whole.validation, alone.validation, rtol=1e-4)


def test_a_stack_takes_as_many_models_as_memory_and_the_heads_they_need_allow(monkeypatch):
    tuner = FineTuner(SUITE, config(), weights_of())
    runs = [Run(tasks, 0) for tasks in [(0,), (1,), (2,), (0, 1), (0, 1, 2, 3)]]
    work = Workload.of(config(), SUITE)
    assert work.parameters == sum(w.numel() for w in weights_of().values())
    rows = 256  # of an evaluation: a training step takes 32
    four, six = (stacked_model_bytes(work.parameters_with(n), rows, work.activations_with(n)) for n in (4, 6))

    def stacks(room):
        monkeypatch.setattr(fine_tuning, "STACK_BYTES", room)
        return list(tuner._stacks(runs, range(5)))

    # Beside one of three classes, a model of a binary task has its columns too: four.
    assert stacks(2 * four - 1) == [[0, 1], [2], [3], [4]]
    assert stacks(3 * four) == [[0, 1, 2], [3, 4]]
    assert stacks(5 * six) == [[0, 1, 2, 3, 4]]


def test_flops_are_of_the_own_heads_and_rows():
    tuner = FineTuner(SUITE, config(), None)
    alone = build_model(config().model, SUITE.inputs.shape[1:], [SUITE.tasks[2]], 0)
    passes = pass_flops(alone, SUITE.inputs.shape[1:])
    train, validation = (len(SUITE.rows(split, [2])) for split in (TRAIN, VALIDATION))
    assert tuner.flops((2,)) == 4 * (passes.training * train + passes.forward * validation)
    assert tuner.flops((0,)) < tuner.flops((0, 1)) < tuner.flops((0, 1, 2, 3))


def test_the_linearised_network_has_the_same_first_step_and_then_another():
    training = config().base.model_copy(update={"epochs": 1, "patience": 1, "batch_size": 1000})

    def build(seed: int) -> torch.nn.Module:
        return model_of(config(), SUITE, 5)

    runs = [Run((0, 1, 2, 3), 0)]
    plain, linear = (StackedTrainer(SUITE, training, build, "cpu", linearised=x).train(runs)[0] for x in (False, True))
    for name, weight in plain.weights.items():
        torch.testing.assert_close(linear.weights[name], weight, rtol=1e-4, atol=1e-6)
    longer = training.model_copy(update={"epochs": 60, "patience": 60, "learning_rate": 0.05})
    plain, linear = (StackedTrainer(SUITE, longer, build, "cpu", linearised=x).train(runs)[0] for x in (False, True))
    assert np.abs(plain.history[-1] - linear.history[-1]).max() > 1e-3


def test_the_trained_estimator_is_the_mean_of_its_seeds_with_their_error():
    settings = config(fits={"stop": "last", "seed": 4})
    estimator = TrainedEstimator(SUITE, settings, weights_of())
    found = estimator.estimate(SUBSETS)
    truths = FineTuner(SUITE, settings, weights_of()).run(SUBSETS, seeds_of("estimate", 4, 2))
    for index, subset in enumerate(SUBSETS):
        both = np.stack([truth.validation[index, -1, list(subset)] for truth in truths])
        np.testing.assert_allclose(found.losses[index], both.mean(axis=0), rtol=1e-5)
    assert (np.concatenate(found.standard_errors) > 0).all()
    assert (found.epochs == 4).all()


def test_first_order_follows_the_shared_gradients_only():
    settings = config(gradients={"reduction": "exact"})
    _, anchor = features_of(settings, SUITE, model_of(settings, SUITE, 5))
    base = np.array([1.0, 2.0, 3.0, 4.0])
    found = first_order_losses(anchor, base, SUBSETS, SUITE, settings, epochs=2)
    shared = ((anchor["square"] > 0).sum(0) > 1).numpy()
    assert 0 < shared.sum() < len(shared)
    g, v = (anchor[name].double().numpy()[:, shared] for name in ("mean", "validation_mean"))
    gain = base[[0, 1]] - found[0, [0, 1]]
    expected = (g[[0, 1]].mean(axis=0) * v[[0, 1]]).sum(axis=1)
    assert gain[0] / gain[1] == pytest.approx(expected[0] / expected[1], rel=1e-6)
    assert np.isnan(found[0, 2:]).all()
    twice = first_order_losses(anchor, base, SUBSETS, SUITE, settings, epochs=4)
    np.testing.assert_allclose(base[:2] - twice[0, :2], 2 * gain)


def test_a_training_that_diverges_later_keeps_its_best_epoch():
    losses = np.array([[[0.5, 0.4], [0.3, 0.2], [np.nan, np.nan]]])
    best, epochs = FineTuned(losses, None, 0.0).at("best")
    np.testing.assert_array_equal(best, [[0.3, 0.2]])
    assert epochs.tolist() == [2]


def test_no_purpose_shares_a_seed_with_another():
    drawn = [
        seed
        for purpose in ("probe", "truth", "oracle", "estimate")
        for s in range(50)
        for seed in seeds_of(purpose, s, 6)
    ]
    assert len(set(drawn)) == len(drawn)
    assert seeds_of("truth", 3, 6)[:2] == seeds_of("truth", 3, 2)
