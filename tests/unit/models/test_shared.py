"""Which parameters tasks share."""

from __future__ import annotations

import pytest
from torch import nn

from affinity_service.config import MLPConfig
from affinity_service.errors import UserError
from affinity_service.models import build_model
from affinity_service.models.heads import TaskHeads
from affinity_service.models.shared import shared_parameters
from affinity_service.tasks.suite import Task

TASKS = [Task("a", "binary"), Task("b", "binary")]


def model() -> nn.Module:
    return build_model(MLPConfig(hidden=[3, 2]), (4,), TASKS, 0)


def test_all_outside_the_heads_that_train():
    own = model()
    assert shared_parameters(own) == ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"]
    own.body[0].bias.requires_grad_(False)
    assert shared_parameters(own) == ["body.0.weight", "body.2.weight", "body.2.bias"]
    assert shared_parameters(own, ["body.2.*"]) == ["body.2.weight", "body.2.bias"]


def test_tied_parameters_once():
    own = model()
    own.body.add_module("again", nn.Linear(4, 3))
    own.body.again.weight = own.body[0].weight
    assert shared_parameters(own).count("body.0.weight") == 1
    assert "body.again.weight" not in shared_parameters(own)


def test_patterns_that_name_nothing_or_a_head_are_refused():
    with pytest.raises(UserError, match=r"shared: 'trunk\.\*' names no parameter that trains; there are body"):
        shared_parameters(model(), ["trunk.*"])
    with pytest.raises(UserError, match=r"names heads\.bias_0, which belongs to one task alone"):
        shared_parameters(model(), ["heads.*"])


def test_a_model_of_heads_only_shares_nothing():
    with pytest.raises(UserError, match="no shared parameters"):
        shared_parameters(TaskHeads(4, TASKS))
