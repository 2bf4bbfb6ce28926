"""Measurements beside the training of a language model: only its adapters' weights are passed in."""

from __future__ import annotations

import numpy as np
import torch

from affinity_service.config_models import CausalLMConfig
from affinity_service.engine.measuring import PlainModel
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.state import load_trained, trained_parameters
from tests.language_models import answers_suite

SUITE = answers_suite(rows=40)


def test_gradients_of_tasks_are_those_of_the_weights_passed_in(tiny_llama):
    def build(seed):
        return build_model(CausalLMConfig(path=tiny_llama), SUITE.inputs.shape[1:], SUITE.tasks, seed)

    plain, model, rows = PlainModel(build(0), SUITE, [], torch.device("cpu")), build(1), np.arange(12)
    load_trained(model, {name: p + 0.05 for name, p in trained_parameters(model).items()})
    weights = {name: p.detach() for name, p in trained_parameters(model).items()}
    found = plain.instrument.gradients(plain.batch(rows), weights, None)
    labels = torch.tensor(SUITE.labels[rows])
    losses = TaskLosses(SUITE.tasks).of_known(model(torch.tensor(SUITE.inputs[rows]), range(3)), labels)
    means = losses.sum(dim=0) / (~labels.isnan()).sum(dim=0)
    torch.testing.assert_close(found.losses.float(), means.float().detach(), atol=1e-5, rtol=1e-5)
    for task in range(3):
        expected = torch.autograd.grad(means[task], list(trained_parameters(model).values()), retain_graph=True)
        flat = torch.cat([gradient.flatten() for gradient in expected])
        torch.testing.assert_close(found.rows[task].float(), flat, atol=1e-5, rtol=1e-4)
