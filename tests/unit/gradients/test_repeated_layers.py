"""Linear layers whose gradient is no outer product of one input and one error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from affinity_service.gradients import compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Exact
from affinity_service.models import TaskHeads
from affinity_service.tasks import TRAIN
from tests.estimating import margin_gradient, space_of
from tests.suites import neighbourhood_suite

SUITE = neighbourhood_suite()


class Linears(nn.Module):
    """Two layers, used on several rows of one example, twice, or with one weight for both."""

    def __init__(self, use: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.use = use
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if use == "tied":
            self.second.weight = self.first.weight
        self.heads = TaskHeads(4, SUITE.tasks)

    def forward(self, inputs, tasks=None):
        x = torch.tanh(inputs.flatten(1, -2))
        if self.use == "rows":
            x = torch.tanh(self.first(x)).mean(1)
        elif self.use == "flat rows":
            x = torch.tanh(self.first(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(1)
        elif self.use == "twice":
            x = torch.tanh(self.first(torch.tanh(self.first(x.mean(1)))))
        else:
            x = torch.tanh(self.first(x.mean(1)))
        return self.heads(torch.tanh(self.second(x)), tasks)


@pytest.mark.parametrize("use", ["rows", "flat rows", "twice", "tied", "once"])
def test_gradients_are_those_one_by_one_however_layers_are_used(use):
    model = Linears(use)
    gradients = PerExampleGradients(model, SUITE.tasks)
    example, task = (each[::9] for each in SUITE.pairs(TRAIN))
    found = compute_features(gradients, Exact(space_of(model)), SUITE, example, task, batch_rows=8)
    assert gradients.factored is (use == "once")
    for row, (e, t) in enumerate(zip(example.tolist(), task.tolist(), strict=True)):
        np.testing.assert_allclose(found.features[row], margin_gradient(model, SUITE, e, t), atol=1e-5)
