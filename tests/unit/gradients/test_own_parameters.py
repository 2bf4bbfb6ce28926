"""Heads as coordinates of their own: which weights they are, and the features that keep them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.config import Config
from affinity_service.gradients import own_parameters
from affinity_service.gradients.own_parameters import OwnParameters, heads_apart, shared_space
from affinity_service.tasks.suite import TRAIN
from tests.estimating import features_of, margin_gradient, model_of, space_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=60)


def config(**sections) -> Config:
    gradients = {"reduction": "subspace", "dimension": 12, "landmarks": 100, **sections.pop("gradients", {})}
    return Config.parse(
        {"name": "x", "data": {"source": "yeast"}, "model": {"hidden": [5]}, "gradients": gradients, **sections}
    )


def test_every_weight_is_shared_or_one_tasks_own():
    space = space_of(model_of(config(), SUITE))
    found = OwnParameters.of(space, "heads.", len(SUITE.tasks))
    own = found.own[found.own < space.size]
    assert sorted([*found.shared.tolist(), *own.tolist()]) == list(range(space.size))
    assert len(found.shared) == shared_space(space, "heads.").size
    assert [(row < space.size).sum() for row in found.own] == [6 * task.outputs for task in SUITE.tasks]


def test_features_are_the_bases_coordinates_and_the_heads_own_gradient():
    model = model_of(config(), SUITE, 1)
    rows, anchor = features_of(config(), SUITE, model, apart=True)
    own, scale, basis = anchor["own"], anchor["scale"], anchor["basis"]
    shared = OwnParameters.of(space_of(model), "heads.", len(SUITE.tasks)).shared
    assert basis.shape == (len(shared), 12)
    example, task = SUITE.pairs(TRAIN)
    for row in range(0, len(task), 17):
        gradient = torch.tensor(margin_gradient(model, SUITE, example[row], task[row])) * scale
        columns = own[task[row]]
        head = torch.where(columns < len(gradient), gradient[columns.clamp(max=len(gradient) - 1)], 0)
        expected = torch.cat([gradient[shared] @ basis, head])
        np.testing.assert_allclose(rows[0].features[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sections", "apart"),
    [
        ({}, True),
        # The same features whatever is made of them: the stage must not run again for it.
        ({"fits": {"solution": "ridge"}}, True),
        ({"gradients": {"reduction": "exact"}}, False),
        ({"gradients": {"layers": ["body.*"]}}, False),
    ],
)
def test_heads_lie_apart_where_there_are_many_and_they_are_small(monkeypatch, sections, apart):
    settings = config(**sections)
    model = model_of(settings, SUITE)
    assert not heads_apart(settings, model, len(SUITE.tasks))
    monkeypatch.setattr(own_parameters, "MANY_TASKS", 3)
    assert heads_apart(settings, model, len(SUITE.tasks)) == apart
    monkeypatch.setattr(own_parameters, "LARGEST_HEAD", 5)
    assert not heads_apart(settings, model, len(SUITE.tasks))
