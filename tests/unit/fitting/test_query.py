"""One subset at a time gives what all at once give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.fitting import fit_subset_reference, solve_subsets
from affinity_service.fitting.query import QueryFits
from affinity_service.fitting.task_rows import split_by_task

TASKS = 6


def problem(seed: int, d: int = 12, scale: float = 1.0, squared: tuple[bool, ...] = (False,) * TASKS):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 60, TASKS)
    task = np.repeat(np.arange(TASKS), sizes)
    features = (scale * rng.normal(size=(len(task), d))).astype(np.float32)
    margins = rng.normal(size=len(task)).astype(np.float32)
    z = margins + features @ rng.normal(size=d) / (scale * d**0.5)
    draws = np.where(
        np.array(squared)[task], z + 0.1 * rng.normal(size=len(task)), rng.random(len(task)) < 1 / (1 + np.exp(-z))
    )
    return features, margins, draws.astype(np.float32), task


def engine(arrays, squared=(False,) * TASKS) -> QueryFits:
    return QueryFits(split_by_task(*(torch.tensor(array) for array in arrays), squared))


@pytest.mark.parametrize("l2", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("squared", [(False,) * TASKS, (True,) * TASKS, (False, True) * 3])
def test_the_minimiser_of_the_reference(l2, scale, squared):
    arrays = problem(0, scale=scale, squared=squared)
    kinds = ["squared" if each else "logistic" for each in squared]
    penalty, answered = l2 * scale**2, 0
    fits = engine(arrays, squared)
    for subset in [(0,), (1, 4), (0, 2, 3, 5), tuple(range(TASKS))]:
        exact = fit_subset_reference(*arrays, subset, penalty, kinds=kinds)
        found = fits.fit(subset, penalty)
        if found is None:
            continue
        answered += 1
        np.testing.assert_allclose(found.numpy(), exact, atol=1e-4 * np.abs(exact).max())
        again = fits.fit(subset, penalty, found)
        assert again is not None
        np.testing.assert_allclose(again.numpy(), exact, atol=1e-4 * np.abs(exact).max())
    assert answered >= 3


def test_rows_that_say_nothing():
    features, margins, targets, task = problem(1)
    fits = engine((np.zeros_like(features), margins, targets, task))
    found = fits.fit((0, 3), 1e-3)
    assert found is not None
    assert torch.equal(found, torch.zeros(features.shape[1]))


def test_rows_of_zeros_do_not_hide_that_the_others_are_flat():
    rng = np.random.default_rng(3)
    features = np.concatenate([np.zeros(100), 10 * rng.normal(size=100)]).astype(np.float32)[:, None]
    targets = (features[:, 0] > 0).astype(np.float32)
    arrays = features, np.zeros(200, np.float32), targets, np.zeros(200, np.int64)
    fits = engine(arrays, (False,))
    start = torch.tensor(solve_subsets(*arrays, [(0,)], 2e-5, precision="double").weights[0])
    exact = solve_subsets(*arrays, [(0,)], 1e-5, precision="double").weights[0]
    found = fits.fit((0,), 1e-5, start)
    assert found is None or found.numpy() == pytest.approx(exact, rel=1e-3)


def test_few_rows_are_left_to_others():
    assert engine(problem(0, d=12)).suits((0, 1, 2))
    assert not engine(problem(0, d=200)).suits((0,))


def test_separable_labels_with_hardly_a_penalty_settle_or_are_left_to_others():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(40, 5)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(np.float32)
    arrays = features, np.zeros(40, np.float32), targets, np.repeat(np.arange(2), 20)
    fits = engine(arrays, (False, False))
    assert fits.fit((0, 1), 1.0) is not None
    for l2 in (1e-1, 1e-2, 1e-3, 1e-5, 1e-8):
        found = fits.fit((0, 1), l2)
        if found is not None:
            exact = solve_subsets(*arrays, [(0, 1)], l2, precision="double").weights[0]
            np.testing.assert_allclose(found.numpy(), exact, atol=1e-3 * np.abs(exact).max())
        assert found is None or bool(found.isfinite().all())
