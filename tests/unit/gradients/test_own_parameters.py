"""Heads as coordinates of their own: which weights they are, and the features that keep them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.config import Config
from affinity_service.gradients import own_parameters
from affinity_service.gradients.outside_means import spanned_by
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
        products = gradient[shared] @ anchor["outside"].T
        np.testing.assert_allclose(rows[0].products[row], products, rtol=1e-3, atol=1e-3)


def test_means_lie_outside_a_basis_of_landmarks_alone():
    model = model_of(config(), SUITE, 1)
    _, anchor = features_of(config(), SUITE, model, apart=True)
    basis, outside, own = anchor["basis"], anchor["outside"], anchor["own"]
    shared = OwnParameters.of(space_of(model), "heads.", len(SUITE.tasks)).shared
    assert outside.shape == (len(own), len(shared))
    torch.testing.assert_close(outside @ basis, torch.zeros(len(own), 12), atol=1e-5, rtol=0)
    means = anchor["mean"][:, shared] * anchor["scale"][shared]
    means = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(means @ basis @ basis.T + outside, means, atol=1e-5, rtol=1e-4)
    assert (outside.norm(dim=1) > 0.05).all(), "the basis was made without them"


def test_without_landmarks_there_are_the_means_alone():
    settings = config(gradients={"landmarks": 0})
    rows, anchor = features_of(settings, SUITE, model_of(settings, SUITE), apart=True)
    assert anchor["basis"].shape[1] == 0
    assert rows[0].features.shape[1] == anchor["own"].shape[1]
    assert rows[0].products.shape[1] == len(SUITE.tasks)
    np.testing.assert_allclose(anchor["outside"].norm(dim=1), 1, rtol=1e-5)


def test_what_means_span_of_other_directions():
    rng = np.random.default_rng(0)
    means = torch.tensor(rng.normal(size=(4, 9)), dtype=torch.float32)
    # One twice: the products of neither may grow without bound.
    means = torch.nn.functional.normalize(torch.cat([means, means[:1]]))
    rows = torch.tensor(rng.normal(size=(2, 9)), dtype=torch.float32)
    found = means.T @ spanned_by(means, rows)
    q = torch.linalg.qr(means[:4].T)[0]
    torch.testing.assert_close(found.T, rows @ q @ q.T, rtol=1e-4, atol=1e-5)
    assert spanned_by(means, rows).abs().max() < 20


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
