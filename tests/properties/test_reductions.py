"""Statements about random projections that hold for every shape and seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions import Rademacher, rademacher
from affinity_service.gradients.weight_space import WeightSpace

shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9)), min_size=1, max_size=4)


def project(reduction, names, gradients):
    """Dense gradients (batch, p) as unfactored blocks."""
    blocks = [GradientBlock(name, None, g) for name, g in zip(names, gradients, strict=True)]
    return reduction(blocks, len(gradients[0]))


@given(shapes, st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_features_are_linear_and_repeat_with_the_seed(shapes, dimension, seed):
    named = {f"p{i}": shape for i, shape in enumerate(shapes)}
    rng = torch.Generator().manual_seed(seed % 1000)
    a, b = ([torch.randn(3, m * n, generator=rng) for m, n in shapes] for _ in range(2))
    reduction, again = Rademacher(WeightSpace(named), dimension, seed), Rademacher(WeightSpace(named), dimension, seed)
    combined = project(reduction, named, [2 * x - y for x, y in zip(a, b, strict=True)])
    separate = 2 * project(again, named, a) - project(again, named, b)
    torch.testing.assert_close(combined, separate, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_factored_and_dense_gradients_have_the_same_features(m, n, dimension, seed):
    rng = torch.Generator().manual_seed(seed)
    left, right = torch.randn(5, m, generator=rng), torch.randn(5, n, generator=rng)
    reduction = Rademacher(WeightSpace({"w": (m, n)}), dimension, seed)
    factored = reduction([GradientBlock("w", None, left, right)], 5)
    dense = reduction([GradientBlock("w", None, (left[:, :, None] * right[:, None, :]).flatten(1))], 5)
    torch.testing.assert_close(factored, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (1, 60), (30, 1)])
def test_inner_products_are_unbiased(shape):
    """Mean over 400 seeds of ⟨Ra, Rb⟩ lies within four standard errors of ⟨a, b⟩."""
    rng = torch.Generator().manual_seed(0)
    p = shape[0] * shape[1]
    vectors = torch.randn(2, p, generator=rng)
    exact = float(vectors[0] @ vectors[1])
    found = []
    for seed in range(400):
        features = Rademacher(WeightSpace({"w": shape}), 16, seed)([GradientBlock("w", None, vectors)], 2)
        found.append(float(features[0] @ features[1]))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 4 * error
    # The spread is what theory says for signs: var = (|a|²|b|² + ⟨a,b⟩² − 2Σ a²b²)/d.
    a, b = vectors
    variance = (a @ a * (b @ b) + exact**2 - 2 * ((a * b) ** 2).sum()) / 16
    assert np.var(found) == pytest.approx(float(variance), rel=0.35)


def test_chunks_and_cache_do_not_change_the_signs(monkeypatch):
    left, right = torch.randn(4, 11), torch.randn(4, 9)
    block = GradientBlock("w", torch.tensor([0, 2, 3, 5]), left, right)
    monkeypatch.setattr(rademacher, "CHUNK_ENTRIES", 9 * 8 * 3)
    cached = Rademacher(WeightSpace({"w": (11, 9)}), 8, 5)
    monkeypatch.setattr(rademacher, "CACHE_ENTRIES", 0)
    uncached = Rademacher(WeightSpace({"w": (11, 9)}), 8, 5)
    assert cached._cache is not None
    assert uncached._cache is None
    first = cached([block], 6)
    torch.testing.assert_close(first, uncached([block], 6))
    torch.testing.assert_close(first, cached([block], 6))
    assert (first[[1, 4]] == 0).all()
    dense = GradientBlock("w", block.rows, block.dense())
    torch.testing.assert_close(first, uncached([dense], 6))
