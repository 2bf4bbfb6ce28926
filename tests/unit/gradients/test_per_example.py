import numpy as np
import pytest
import torch

from affinity_service.config import GradientConfig, MLPConfig
from affinity_service.errors import UserError
from affinity_service.gradients import compute_features
from affinity_service.gradients.margins import pair_margins
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Exact, build_reduction
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.tasks import TRAIN
from tests.suites import mixed_suite

SUITE = mixed_suite()


def model_and_shapes(activation="tanh"):
    model = build_model(MLPConfig(hidden=[7, 6], activation=activation, dropout=0.3), (5,), SUITE.tasks, seed=1)
    return model, {name: tuple(p.shape) for name, p in model.named_parameters()}


def reference_gradient(model, example, task):
    """One autograd call for one pair: slow and obvious."""
    model.eval()
    x = torch.tensor(SUITE.inputs[example])[None]
    label = torch.tensor(SUITE.labels[example, task])[None]
    margin = pair_margins(model(x, [task]), [task], torch.tensor([task]), label, SUITE.tasks)[0]
    gradients = torch.autograd.grad(margin, list(model.parameters()), allow_unused=True)
    flat = [
        torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(gradients, model.parameters(), strict=True)
    ]
    return margin.item(), torch.cat(flat).numpy()


@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_exact_features_are_the_gradients_one_by_one(hooks, activation):
    model, shapes = model_and_shapes(activation)
    example, task = SUITE.pairs(TRAIN)
    example, task = example[::9], task[::9]
    gradients = PerExampleGradients(model, SUITE.tasks, hooks=hooks)
    assert gradients.factored is hooks
    found = compute_features(gradients, Exact(WeightSpace(shapes)), SUITE, example, task, batch_rows=8)
    for row, (e, t) in enumerate(zip(example, task, strict=True)):
        margin, gradient = reference_gradient(model, int(e), int(t))
        assert found.margins[row] == pytest.approx(margin, abs=1e-5)
        np.testing.assert_allclose(found.features[row], gradient, atol=1e-5)


def test_batches_of_any_size_give_the_same_features():
    model, shapes = model_and_shapes()
    example, task = SUITE.pairs(TRAIN)
    reduction = build_reduction(GradientConfig(reduction="rademacher", dimension=16), WeightSpace(shapes))
    gradients = PerExampleGradients(model, SUITE.tasks)
    one = compute_features(gradients, reduction, SUITE, example, task, batch_rows=1)
    many = compute_features(gradients, reduction, SUITE, example, task, batch_rows=1000)
    np.testing.assert_allclose(one.features, many.features, atol=1e-5)


def test_a_diverged_model_is_named():
    model, shapes = model_and_shapes()
    with torch.no_grad():
        model.body[0].bias[0] = torch.nan
    example, task = SUITE.pairs(TRAIN)
    with pytest.raises(UserError, match=r"task `up` .* not finite: the base model diverged"):
        compute_features(PerExampleGradients(model, SUITE.tasks), Exact(WeightSpace(shapes)), SUITE, example, task, 64)
