"""The basis in two steps against dense products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.gradients.features import compute_features
from affinity_service.gradients.landmarks import LandmarkGradients
from affinity_service.gradients.layer_factors import (
    LayerCoordinates,
    LayeredSubspace,
    LayerFactors,
    StoredLandmarks,
    find_factors,
)
from affinity_service.gradients.reductions import Exact
from affinity_service.gradients.streamed import StreamedGradients
from affinity_service.gradients.weight_space import WeightSpace, rank_one
from affinity_service.models.state import trained_shapes
from affinity_service.tasks.suite import TRAIN
from tests.unit.gradients.test_streamed import TASKS, adapted, norms_and_linear, suite


def random_factors(space: WeightSpace, rank: int) -> LayerFactors:
    left, right = {}, {}
    for name, shape in space.shapes.items():
        m, n = shape[0], int(np.prod(shape[1:]))
        left[name] = torch.linalg.qr(torch.randn(m, min(m, rank)))[0]
        right[name] = torch.linalg.qr(torch.randn(n, min(n, rank)))[0]
    return LayerFactors(space, left, right)


def test_lifting_and_projecting_are_each_others_transpose_and_inverse() -> None:
    torch.manual_seed(0)
    factors = random_factors(WeightSpace({"a": (6, 5), "b": (4,), "c": (3, 2, 2)}), 3)
    u, x = torch.randn(7, factors.size), torch.randn(7, factors.space.size)
    torch.testing.assert_close(factors.project(factors.lift(u)), u)
    torch.testing.assert_close((factors.project(x) * u).sum(), (x * factors.lift(u)).sum())


@pytest.mark.parametrize("make", [adapted, norms_and_linear])
def test_features_are_the_products_with_the_whole_basis(make) -> None:
    torch.manual_seed(0)
    model, data = make(), suite()
    space = WeightSpace(trained_shapes(model))
    scale = rank_one(space, torch.rand(space.size) + 0.5)
    factors = random_factors(space, 4)
    basis = torch.linalg.qr(torch.randn(factors.size, 9))[0]
    example, task = data.pairs(TRAIN)
    gradients = StreamedGradients(model, TASKS, 30)
    exact = torch.from_numpy(compute_features(gradients, Exact(space), data, example, task, 99).features) * scale
    first = compute_features(gradients, LayerCoordinates(factors, scale), data, example, task, 99).features
    both = compute_features(gradients, LayeredSubspace(factors, basis, scale), data, example, task, 99).features
    torch.testing.assert_close(torch.from_numpy(first), factors.project(exact), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(both), factors.project(exact) @ basis, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("make", [adapted, norms_and_linear])
def test_factors_as_wide_as_the_gradients_lose_nothing(make) -> None:
    """Twelve short sequences: a gradient of a linear layer has at most as many directions as there are tokens."""
    model, data = make(), suite(3)
    space = WeightSpace(trained_shapes(model))
    scale = rank_one(space, torch.rand(space.size) + 0.5)
    example, task = data.pairs(TRAIN)
    landmarks = LandmarkGradients(StreamedGradients(model, TASKS, 30), space, scale, data, example, task, 99)
    exact = compute_features(landmarks.gradients, Exact(space, scale), data, example, task, 99).features
    x = torch.from_numpy(exact)
    factors = find_factors(landmarks, x.mean(dim=0, keepdim=True) / scale, rank=40, seed=0)
    torch.testing.assert_close(factors.lift(factors.project(x)), x, rtol=1e-2, atol=1e-3 * float(x.abs().max()))
    narrow = find_factors(landmarks, x.mean(dim=0, keepdim=True) / scale, rank=6, seed=0)
    held = narrow.project(x).square().sum() / x.square().sum()
    drawn = random_factors(space, 6).project(x).square().sum() / x.square().sum()
    assert held > 0.8
    assert held > 1.3 * drawn


def test_stored_landmarks_have_the_products_of_their_rows() -> None:
    x = torch.randn(5, 8)
    stored = StoredLandmarks(x, (np.arange(5), np.zeros(5, np.int32)))
    torch.testing.assert_close(stored.kernel(), (x @ x.T).double())
    assert stored.energy() == pytest.approx(float(x.square().sum()), rel=1e-6)


def test_a_metric_of_rank_one_stays_as_it_is() -> None:
    space = WeightSpace({"a": (4, 3), "b": (5,)})
    rows, columns, vector = torch.rand(4) + 0.5, torch.rand(3) + 0.5, torch.rand(5) + 0.5
    scale = torch.cat([(rows[:, None] * columns).flatten(), vector])
    torch.testing.assert_close(rank_one(space, scale), scale)
