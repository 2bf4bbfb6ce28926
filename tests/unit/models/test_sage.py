"""GraphSAGE, and what stands on it: gradients one by one, stacks of models, plans, estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from affinity_service.config import Config
from affinity_service.config_models import SAGEConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.flops import flop_counter, pass_flops
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import StackedTrainer, split_losses
from affinity_service.fitting import subset_design
from affinity_service.gradients import compute_features
from affinity_service.gradients.landmarks import LandmarkGradients, landmark_pairs
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Exact
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.planning import flops
from affinity_service.planning.workload import Workload, shared_layers
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import TEST, TRAIN, VALIDATION
from tests.estimating import estimator_of, features_of, margin_gradient, model_of, space_of
from tests.suites import neighbourhood_suite

SUITE = neighbourhood_suite()
MODEL = SAGEConfig(hidden=[6, 5], activation="tanh", dropout=0.3)


def build(seed: int = 1, config: SAGEConfig = MODEL) -> nn.Module:
    return build_model(config, SUITE.inputs.shape[1:], SUITE.tasks, seed)


def config_of(**sections) -> Config:
    model = {"kind": "sage", "hidden": [6, 5], "activation": "tanh"}
    return Config.parse({"name": "x", "data": {"source": "yeast"}, "model": model, **sections})


def represented(model: nn.Module, nodes: torch.Tensor, step: int, aggregator: str) -> torch.Tensor:
    """Of one node: slow and obvious. nodes (1 + fanout, …, features) of its neighbourhood, itself first."""
    if step < 0:
        return nodes
    own, *others = (represented(model, each, step - 1, aggregator) for each in nodes)
    stacked = torch.stack(others)
    aggregate = stacked.mean(0) if aggregator == "mean" else stacked.max(0).values
    layer = [m for m in model.body if hasattr(m, "weight")][step]
    return torch.tanh(F.linear(torch.cat([own, aggregate]), layer.weight, layer.bias))


@pytest.mark.parametrize("aggregator", ["mean", "max"])
def test_every_node_is_put_together_with_its_neighbours(aggregator):
    model = build(config=MODEL.model_copy(update={"aggregator": aggregator})).eval()
    x = torch.tensor(SUITE.inputs[:4])
    expected = torch.stack([represented(model, each, 1, aggregator) for each in x])
    torch.testing.assert_close(model.body(x), expected)
    torch.testing.assert_close(model(x), model.heads(expected))
    shuffled = x.clone()
    shuffled[:, 1:] = shuffled[:, [3, 1, 2]]
    torch.testing.assert_close(model(x), model(shuffled), msg="the order of neighbours says nothing")


@pytest.mark.parametrize("shape", [(4,), (4, 5), (1, 3, 5), (4, 3, 2, 5)])
def test_inputs_of_other_shapes_are_refused_by_model_and_plan(shape):
    for use in (lambda: build_model(MODEL, shape, SUITE.tasks, 0), lambda: shared_layers(MODEL, shape)):
        with pytest.raises(UserError, match=r"sage with 2 hidden widths .* \(1 \+ fanout 1, 1 \+ fanout 2, features\)"):
            use()


def test_gradients_are_those_one_by_one():
    model = build()
    gradients = PerExampleGradients(model, SUITE.tasks)
    assert not gradients.factored, "known before a landmark asks"
    example, task = (each[::9] for each in SUITE.pairs(TRAIN))
    found = compute_features(gradients, Exact(space_of(model)), SUITE, example, task, batch_rows=8)
    for row, (e, t) in enumerate(zip(example.tolist(), task.tolist(), strict=True)):
        np.testing.assert_allclose(found.features[row], margin_gradient(model, SUITE, e, t), atol=1e-5)


def test_its_landmarks_have_no_kernel_by_layers():
    model = build()
    space = space_of(model)
    pairs = landmark_pairs(SUITE, 40, 0)
    landmarks = LandmarkGradients(
        PerExampleGradients(model, SUITE.tasks), space, torch.ones(space.size), SUITE, *pairs, batch_rows=16
    )
    assert not landmarks.has_kernel
    x = landmarks.transposed_times(torch.eye(len(landmarks))).T
    one = margin_gradient(model, SUITE, int(pairs[0][7]), int(pairs[1][7]))
    np.testing.assert_allclose(x[7].numpy(), one, atol=1e-5)


def test_models_in_a_stack_are_what_they_would_be_alone():
    settings = config_of(base={"epochs": 2, "batch_size": 16, "optimizer": "sgd", "gradient_clipping": 0}).base
    plain = SAGEConfig(hidden=[6, 5])
    runs = [Run((0, 1, 2, 3), 0), Run((1, 3), 5), Run((2,), 5)]
    outcomes = StackedTrainer(SUITE, settings, lambda seed: build(seed, plain), "cpu").train(runs)
    losses, counts = TaskLosses(SUITE.tasks), SUITE.label_counts(TRAIN).tolist()
    for outcome in outcomes:
        tasks, model = list(outcome.run.tasks), build(outcome.run.seed, plain)
        optimizer = torch.optim.SGD(
            model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
        rows = SUITE.rows(TRAIN, tasks)
        weights = task_weights(counts, tasks, len(rows))
        for epoch in range(outcome.best_epoch):
            for batch in epoch_batches(rows, settings.batch_size, outcome.run.seed, epoch):
                every = losses(model(torch.tensor(SUITE.inputs[batch])), torch.tensor(SUITE.labels[batch]))
                optimizer.zero_grad()
                ((every * weights).sum() / len(batch)).backward()
                optimizer.step()
        np.testing.assert_allclose(outcome.validation[tasks], split_losses(model, SUITE, VALIDATION)[tasks], rtol=1e-4)
        np.testing.assert_allclose(outcome.test[tasks], split_losses(model, SUITE, TEST)[tasks], rtol=1e-4)


def test_the_linearisation_goes_through_a_stack():
    settings = config_of(base={"epochs": 2, "batch_size": 32}).base
    (outcome,) = StackedTrainer(SUITE, settings, build, "cpu", linearised=True).train([Run((0, 3), 0)])
    assert np.isfinite(outcome.validation[[0, 3]]).all()


@pytest.mark.parametrize(("fanouts", "hidden"), [((3,), [6]), ((3, 2), [6, 5]), ((2, 3, 2), [4, 5, 6])])
def test_passes_are_what_torch_counts(fanouts, hidden):
    suite = neighbourhood_suite(fanouts=fanouts)
    config = config_of(model={"kind": "sage", "hidden": hidden})
    work, model = Workload.of(config, suite), model_of(config, suite)
    counted = pass_flops(model, suite.inputs.shape[1:])
    assert flops.forward_flops(work) == counted.forward
    assert flops.backward_flops(work) == counted.backward
    assert work.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("reduction", ["exact", "rademacher", "subspace", "factorised"])
def test_gradient_features_are_what_torch_counts(reduction):
    suite = neighbourhood_suite(rows=300)
    gradients = {"reduction": reduction, "dimension": 40, "landmarks": 100, "batch_rows": 64}
    solution = {} if reduction in ("exact", "subspace") else {"fits": {"solution": "ridge"}}
    config = config_of(gradients=gradients, **solution)
    model = model_of(config, suite)
    with flop_counter() as counter:
        features_of(config, suite, model)
    assert flops.gradient_flops(config, Workload.of(config, suite)) == pytest.approx(counter.get_total_flops(), rel=0.5)


def test_fits_on_its_gradients_predict_lower_losses_than_it_has():
    suite = neighbourhood_suite(rows=300)
    config = config_of(gradients={"dimension": 30}, fits={"probes": 0, "epochs": 5})
    model = model_of(config, suite)
    found = estimator_of(config, suite, model).estimate(subset_design(len(suite.tasks), 4, (3, 4), 0))
    before = split_losses(model, suite, VALIDATION)
    for subset, losses in zip(found.subsets, found.losses, strict=True):
        assert (losses < before[list(subset)]).all()
