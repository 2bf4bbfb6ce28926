"""DeepSpeed inside Ray Train: what the config chooses must not change what is learned."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import ray
from safetensors.torch import load

from affinity_service.config import MLPConfig, ResourceConfig, TrainConfig
from affinity_service.engine.train import train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.errors import UserError
from affinity_service.evaluation.stacked import Run, StackedTrainer, split_losses
from affinity_service.gradients.weight_space import WeightSpace, optimizer_metric
from affinity_service.models import build_model
from affinity_service.tasks import VALIDATION
from tests.suites import mixed_suite

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]

SUITE = mixed_suite(rows=200)
MODEL = MLPConfig(hidden=[8])
TRAIN = TrainConfig(epochs=3, batch_size=32, learning_rate=0.01)


def build(seed=0):
    return build_model(MODEL, SUITE.inputs.shape[1:], SUITE.tasks, seed)


def train(tmp_path, **changes):
    job = TrainJob(ray.put(SUITE), MODEL, TrainConfig(**{**TRAIN.model_dump(), **changes}), (0, 1, 2, 3))
    return train_model(job, ResourceConfig(), str(tmp_path), f"train-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One worker, no sharding."""
    return train(tmp_path_factory.mktemp("one"))


def test_one_worker_learns_what_plain_torch_learns_and_the_loss_is_that_of_the_weights(one):
    trained = one
    (plain,) = StackedTrainer(SUITE, TRAIN, build, "cpu").train([Run((0, 1, 2, 3), 0)])
    weights = load(trained.weights)
    for name, value in plain.weights.items():
        np.testing.assert_allclose(weights[name], value, atol=2e-5)
    model = build()
    model.load_state_dict(weights)
    best = trained.state.history[trained.state.best_epoch]
    np.testing.assert_allclose(split_losses(model, SUITE, VALIDATION), best["validation_per_task"], rtol=1e-5)
    moments = load(trained.moments)
    assert {n: m.shape for n, m in moments.items()} == {n: w.shape for n, w in weights.items()}
    assert all((m >= 0).all() and (m > 0).any() for m in moments.values())


@pytest.mark.parametrize("changes", [{"zero_stage": 3}, {"zero_stage": 1, "accumulation": 2, "precision": "bf16"}])
def test_workers_and_zero_stages_learn_the_same(one, tmp_path, changes):
    two = train(tmp_path, workers=2, **changes)
    exact = "precision" not in changes
    a, b = load(one.weights), load(two.weights)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-5 if exact else 2e-2)
    va, vb = load(one.moments), load(two.moments)
    for name in va:
        np.testing.assert_allclose(va[name], vb[name], rtol=1e-3 if exact else 0.2, atol=1e-7 if exact else 1e-3)
    losses = [[epoch["validation_loss"] for epoch in run.state.history] for run in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-5 if exact else 1e-2)


def test_sgd_with_momentum_learns_what_plain_torch_learns_and_weighs_all_entries_alike(tmp_path):
    changes = {"optimizer": "sgd", "learning_rate": 0.1, "zero_stage": 1}
    trained = train(tmp_path, **changes)
    sgd = TRAIN.model_copy(update=changes)
    (plain,) = StackedTrainer(SUITE, sgd, build, "cpu").train([Run((0, 1, 2, 3), 0)])
    for name, value in load(trained.weights).items():
        np.testing.assert_allclose(value, plain.weights[name], atol=2e-5)
    space = WeightSpace({name: tuple(value.shape) for name, value in plain.weights.items()})
    assert (optimizer_metric(space, load(trained.moments)) == 1).all()


def test_a_diverging_training_is_an_error_that_says_what_to_change(tmp_path):
    with pytest.raises(UserError, match=r"diverged in epoch 1.*learning_rate"):
        train(tmp_path, learning_rate=1e30, gradient_clipping=0, epochs=2)
