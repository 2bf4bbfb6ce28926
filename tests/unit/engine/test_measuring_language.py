"""Measurements beside the training of a language model: only its adapters' weights are passed in."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from affinity_service.affinity.lookahead import measure_step
from affinity_service.config_models import CausalLMConfig, LoRAConfig
from affinity_service.engine.measuring import PlainModel
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.state import load_trained, trained_parameters
from tests.language_models import answers_suite

SUITE = answers_suite(rows=60)
RATE = 0.01


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


def mean_losses(model, batch):
    inputs, labels = batch
    losses = TaskLosses(SUITE.tasks)(model(inputs, range(len(SUITE.tasks))), labels).double()
    return losses.sum(dim=0) / (~labels.isnan()).sum(dim=0)


def test_lookahead_is_what_a_step_of_each_task_alone_takes_from_the_losses(tiny_llama):
    adapter = LoRAConfig(rank=4, targets="all-linear")
    model = build_model(CausalLMConfig(path=tiny_llama, adapter=adapter), SUITE.inputs.shape[1:], SUITE.tasks, 0)
    trained = trained_parameters(model)
    with torch.no_grad():
        for weight in trained.values():
            weight += 0.05 * torch.randn_like(weight)
    plain = PlainModel(copy.deepcopy(model), SUITE, [], torch.device("cpu"))
    batch = plain.batch(np.arange(24))
    weights = {name: weight.detach() for name, weight in trained.items()}
    found = measure_step(plain.instrument, batch, RATE, weights=weights).lookahead
    before = mean_losses(model, batch)
    for source in range(len(SUITE.tasks)):
        moved = copy.deepcopy(model)
        mean_losses(moved, batch)[source].backward()
        with torch.no_grad():
            for weight in trained_parameters(moved).values():
                weight -= RATE * weight.grad
            expected = 1 - mean_losses(moved, batch) / before
        assert found[:, source].tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
