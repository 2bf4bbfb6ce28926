"""Fits of small problems. Those run in double precision by default, so most tests ask for mixed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from affinity_service.errors import UserError
from affinity_service.fitting import blocks, fit_subset_reference, fit_subsets, solve, solve_subsets
from affinity_service.fitting.systems import Systems


def assert_agree(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    scale = np.abs(expected).max(axis=-1, keepdims=True).clip(1e-12)
    assert (np.abs(found - expected) / scale).max() < tolerance


def references(examples, subsets, l2) -> np.ndarray:
    each = np.broadcast_to(l2, len(subsets))
    return np.stack(
        [fit_subset_reference(*examples.arrays, s, p, examples.kinds) for s, p in zip(subsets, each, strict=True)]
    )


SUBSETS = [[0], [1, 3], [2, 0, 1], [3, 2, 1, 0], [4], [4, 0]]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("counts", [[40] * 5, [3, 90, 41, 1, 17], [700, 5, 600, 610, 40]])
def test_weights_agree_with_the_reference(make: Callable, counts: list[int], l2: float) -> None:
    examples = make(counts, 12)
    weights = fit_subsets(*examples.arrays, SUBSETS, l2, precision="mixed")
    assert_agree(weights, references(examples, SUBSETS, l2))


def test_more_dimensions_than_rows(make: Callable) -> None:
    examples = make([6, 9, 7, 8, 9], 60)
    assert_agree(fit_subsets(*examples.arrays, SUBSETS, 1e-2, precision="mixed"), references(examples, SUBSETS, 1e-2))


@pytest.mark.parametrize("kinds", [["squared"] * 5, ["logistic", "squared", "squared", "logistic", "squared"]])
def test_squared_and_mixed_subsets(make: Callable, kinds: list[str]) -> None:
    examples = make([30, 20, 50, 35, 28], 15, kinds=kinds)
    weights = fit_subsets(*examples.arrays, SUBSETS, 1e-3, kinds=kinds, precision="mixed")
    assert_agree(weights, references(examples, SUBSETS, 1e-3))


def test_squared_subsets_take_one_step(make: Callable) -> None:
    examples = make([80] * 5, 20, kinds=["squared"] * 5)
    result = solve_subsets(*examples.arrays, SUBSETS, 1e-2, kinds=examples.kinds, precision="mixed")
    assert result.iterations.max() <= 2


def test_a_penalty_per_subset(make: Callable) -> None:
    examples = make([30] * 5, 8)
    l2 = np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 3.0])
    assert_agree(fit_subsets(*examples.arrays, SUBSETS, l2, precision="mixed"), references(examples, SUBSETS, l2))


def test_separable_labels_with_hardly_any_penalty(make: Callable) -> None:
    examples = make([10] * 5, 30)
    result = solve_subsets(*examples.arrays, SUBSETS, 1e-6, precision="mixed")
    assert result.converged.all()
    assert_agree(result.weights, references(examples, SUBSETS, 1e-6))


def test_confident_base_model(make: Callable) -> None:
    examples = make([60] * 5, 10, margin=20.0)
    assert_agree(fit_subsets(*examples.arrays, SUBSETS, 1e-3, precision="mixed"), references(examples, SUBSETS, 1e-3))


def test_heavy_tailed_features(make: Callable) -> None:
    examples = make([60] * 5, 10)
    examples.features *= np.exp(1.5 * np.random.default_rng(1).standard_normal((300, 1)))
    assert_agree(fit_subsets(*examples.arrays, SUBSETS, 1e-3, precision="mixed"), references(examples, SUBSETS, 1e-3))


def test_features_of_zero_give_weights_of_zero(make: Callable) -> None:
    examples = make([20] * 5, 6)
    examples.features[examples.task == 4] = 0
    weights = fit_subsets(*examples.arrays, SUBSETS, 0.1, precision="mixed")
    assert np.abs(weights[4]).max() < 1e-9
    assert_agree(np.delete(weights, 4, 0), np.delete(references(examples, SUBSETS, 0.1), 4, 0))
    examples.features[:] = 0
    assert np.abs(fit_subsets(*examples.arrays, SUBSETS, 0.1, precision="mixed")).max() == 0


def test_result_describes_the_fit(make: Callable) -> None:
    examples = make([50] * 5, 8)
    result = solve_subsets(*examples.arrays, [[0, 2]], 0.1, precision="mixed")
    w = fit_subset_reference(*examples.arrays, [0, 2], 0.1)
    z = examples.margins + examples.features @ w
    losses = np.logaddexp(0, -(2 * examples.targets - 1) * z)
    expected = np.mean([losses[examples.task == t].mean() for t in (0, 2)]) + 0.05 * w @ w
    assert result.objective[0] == pytest.approx(expected, rel=1e-5)
    assert result.converged.tolist() == [True]
    assert 1 <= result.iterations[0] < 20
    assert result.gradient_norm[0] < 1e-2
    assert result.weights.shape == (1, 8)


def test_arrays_come_back_in_the_callers_kind(make: Callable) -> None:
    examples = make([20] * 5, 6)
    assert fit_subsets(*examples.arrays, SUBSETS, 0.1, precision="mixed").dtype == np.float64
    single = examples.features.astype(np.float32)
    assert fit_subsets(single, *examples.arrays[1:], SUBSETS, 0.1, precision="mixed").dtype == np.float32
    tensors = [torch.from_numpy(array) for array in examples.arrays]
    weights = fit_subsets(*tensors, SUBSETS, torch.tensor(0.1), precision="mixed")
    assert isinstance(weights, torch.Tensor)
    assert weights.dtype == torch.float64
    assert_agree(weights.numpy(), references(examples, SUBSETS, 0.1))


def test_read_only_and_reversed_arrays(make: Callable) -> None:
    examples = make([20] * 5, 6)
    expected = fit_subsets(*examples.arrays, SUBSETS, 0.1, precision="mixed")
    arrays = [array[::-1] for array in examples.arrays]
    for array in arrays:
        array.flags.writeable = False
    assert_agree(fit_subsets(*arrays, SUBSETS, 0.1, precision="mixed"), expected)


@pytest.mark.parametrize("precision", ["double", "auto"])
def test_small_problems_in_double_precision(make: Callable, precision: str) -> None:
    examples = make([40, 2, 5, 40, 40], 8)
    weights = fit_subsets(*examples.arrays, SUBSETS, 1e-3, precision=precision)
    assert_agree(weights, references(examples, SUBSETS, 1e-3), 1e-6)


@pytest.mark.parametrize("d", [12, 90])
def test_tiles_do_not_change_the_result(make: Callable, d: int) -> None:
    examples = make([30] * 5, d)
    subsets = SUBSETS * 10
    whole = fit_subsets(*examples.arrays, subsets, 1e-2, precision="mixed")
    tiled = fit_subsets(*examples.arrays, subsets, 1e-2, memory_bytes=1, precision="mixed")
    assert_agree(tiled, whole, 1e-5)


def test_large_tasks_are_read_in_pieces(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make([300, 20, 200, 310, 40], 7)
    whole = fit_subsets(*examples.arrays, SUBSETS, 1e-2, precision="mixed")
    monkeypatch.setattr(blocks, "_WORK", {"cpu": 1, "cuda": 1})
    assert_agree(fit_subsets(*examples.arrays, SUBSETS, 1e-2, precision="mixed"), whole, 1e-5)


def test_what_single_precision_cannot_finish_is_finished_in_double(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = make([30] * 5, 8)
    monkeypatch.setitem(solve._PASSES, torch.float32, 1)
    result = solve_subsets(*examples.arrays, SUBSETS, 1e-3, precision="mixed")
    assert result.converged.all()
    assert_agree(result.weights, references(examples, SUBSETS, 1e-3))


def test_what_no_pass_finishes_is_finished_by_newton(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["logistic", "squared", "logistic", "logistic", "squared"]
    examples = make([30] * 5, 8, kinds=kinds)
    monkeypatch.setattr(solve, "_PASSES", {torch.float32: 0, torch.float64: 0})
    result = solve_subsets(*examples.arrays, SUBSETS, 1e-3, kinds=kinds, precision="mixed")
    assert result.converged.all()
    assert_agree(result.weights, references(examples, SUBSETS, 1e-3), 1e-8)


def test_a_fit_that_failed_is_never_silent(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make([30] * 5, 8)
    monkeypatch.setattr(solve, "_PASSES", {torch.float32: 0, torch.float64: 0})
    monkeypatch.setattr("affinity_service.fitting.newton._STEPS", 0)
    assert not solve_subsets(*examples.arrays, SUBSETS, 1e-3, precision="mixed").converged.any()
    with pytest.raises(UserError, match="6 of 6 fits did not converge"):
        fit_subsets(*examples.arrays, SUBSETS, 1e-3, precision="mixed")


def test_steps_that_overshoot_are_shortened(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make([60] * 5, 10, margin=8.0)
    honest = Systems.solve

    def far_too_long(*arguments):
        step, inexact = honest(*arguments)
        return 50 * step, inexact

    monkeypatch.setattr(Systems, "solve", far_too_long)
    result = solve_subsets(*examples.arrays, SUBSETS, 1e-2, precision="mixed")
    assert_agree(result.weights, references(examples, SUBSETS, 1e-2))


def test_nothing_to_fit(make: Callable) -> None:
    examples = make([20] * 5, 6)
    assert fit_subsets(*examples.arrays, [], 0.1, precision="mixed").shape == (0, 6)
    empty = solve_subsets(examples.features[:, :0], *examples.arrays[1:], SUBSETS, 0.1)
    assert empty.weights.shape == (6, 0)
    task_0 = examples.task == 0
    losses = np.logaddexp(0, -(2 * examples.targets - 1) * examples.margins)
    assert empty.objective[0] == pytest.approx(losses[task_0].mean())
    none = np.zeros(0)
    assert fit_subsets(np.zeros((0, 4)), none, none, none.astype(int), [], 1.0).shape == (0, 4)
