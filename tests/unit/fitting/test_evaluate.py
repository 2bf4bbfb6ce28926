from collections.abc import Callable

import numpy as np
import pytest
import torch

from affinity_service.errors import UserError
from affinity_service.fitting import evaluate, predicted_losses

SUBSETS = [[2, 0], [1], [3, 1, 0], [0, 2]]


def expected_losses(examples, weights: np.ndarray, subset: int, task: int) -> np.ndarray:
    own = examples.task == task
    z = examples.margins[own] + examples.features[own] @ weights[subset]
    y = examples.targets[own]
    return 0.5 * (z - y) ** 2 if examples.kinds[task] == "squared" else np.logaddexp(0, -(2 * y - 1) * z)


@pytest.mark.parametrize("counts", [[20, 30, 25, 40], [20, 20, 20, 20], [700, 2, 600, 40]])
def test_means_and_standard_errors(make: Callable, counts: list[int]) -> None:
    examples = make(counts, 6, kinds=["logistic", "squared", "logistic", "squared"])
    weights = np.random.default_rng(0).standard_normal((4, 6))
    found = predicted_losses(*examples.arrays, weights, SUBSETS, kinds=examples.kinds)
    pairs = [(s, t) for s, subset in enumerate(SUBSETS) for t in subset]
    assert list(zip(found.subset, found.task, strict=True)) == pairs
    for place, (subset, task) in enumerate(pairs):
        losses = expected_losses(examples, weights, subset, task)
        assert found.loss[place] == pytest.approx(losses.mean(), rel=1e-9)
        assert found.standard_error[place] == pytest.approx(losses.std(ddof=1) / np.sqrt(len(losses)), rel=1e-7)


def test_tiles_and_pieces(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make([20, 30, 25, 40], 6)
    weights = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    features = examples.features.astype(np.float32)
    whole = predicted_losses(features, *examples.arrays[1:], weights, SUBSETS)
    monkeypatch.setattr(evaluate, "_TILE", 1)
    monkeypatch.setattr("affinity_service.fitting.blocks._WORK", {"cpu": 1, "cuda": 1})
    tiled = predicted_losses(features, *examples.arrays[1:], weights, SUBSETS)
    assert whole.loss.dtype == np.float32
    for one, other in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_extreme_logits_do_not_overflow() -> None:
    features = torch.tensor([[1000.0], [-1000.0]])
    found = predicted_losses(
        features, torch.zeros(2), torch.tensor([0.0, 0.0]), torch.tensor([0, 0]), torch.ones(1, 1), [[0]]
    )
    assert isinstance(found.loss, torch.Tensor)
    assert found.loss.tolist() == [500.0]
    assert found.standard_error.tolist() == [500.0]


def test_one_example_has_no_standard_error() -> None:
    one = np.ones(1)
    found = predicted_losses(np.ones((1, 1)), one, one, np.zeros(1, int), np.zeros((1, 1)), [[0]])
    assert found.loss[0] == pytest.approx(np.log1p(np.exp(-1)))
    assert np.isnan(found.standard_error[0])


def test_no_subsets(make: Callable) -> None:
    examples = make([5, 5], 3)
    assert all(len(part) == 0 for part in predicted_losses(*examples.arrays, np.zeros((0, 3)), []))


@pytest.mark.parametrize(
    ("weights", "subsets", "message"),
    [
        (np.zeros((1, 3)), [[0], [1]], r"weights has shape \(1, 3\).*\(2, 3\)"),
        (np.full((1, 3), np.nan), [[0]], "weights .* row 0, column 0"),
        (np.zeros((1, 3)), [[2]], "unknown"),
    ],
)
def test_mistakes_are_named(make: Callable, weights: np.ndarray, subsets: list, message: str) -> None:
    examples = make([5, 5], 3)
    with pytest.raises(UserError, match=message):
        predicted_losses(*examples.arrays, weights, subsets)
