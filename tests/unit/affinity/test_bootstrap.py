"""Errors from the validation examples, against drawing the examples and averaging again by hand."""

from __future__ import annotations

import numpy as np
import torch

from affinity_service.affinity.bootstrap import example_errors
from affinity_service.affinity.matrix import matrix_from_estimates
from affinity_service.fitting.member_rows import MemberRows
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights
from affinity_service.fitting.task_rows import TaskRows

SUBSETS = [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (0, 1, 2), (0, 1, 3), (0, 1, 2, 3)]


def rows(n: int, rng: np.random.Generator) -> list[TaskRows]:
    def one() -> TaskRows:
        features, margins = rng.normal(size=(n, 3)), rng.normal(size=n)
        targets = (rng.random(n) < 0.5).astype(float)
        return TaskRows(*(torch.tensor(x, dtype=torch.float32) for x in (features, margins, targets)), squared=False)

    return [one() for _ in range(4)]


def contrasts(by_task, coordinates) -> np.ndarray:
    anchor = Anchor(torch.zeros(3), torch.ones(3), None, torch.zeros(4, 3), torch.zeros(4, 3))
    layout = SubsetWeights(anchor, SUBSETS)
    mean, error = (x.double().numpy() for x in MemberRows(by_task, layout).losses(coordinates))
    pick = [[x[i, list(s)] for i, s in enumerate(SUBSETS)] for x in (mean, error)]
    affinity = matrix_from_estimates(["a", "b", "c", "d"], SUBSETS, *pick).affinity.copy()
    np.fill_diagonal(affinity, np.nan)
    return affinity - np.nanmean(affinity, axis=1, keepdims=True)


def test_errors_are_the_spread_over_examples_drawn_again():
    rng = np.random.default_rng(0)
    by_task = rows(80, rng)
    coordinates = torch.tensor(rng.normal(size=(len(SUBSETS), 3)), dtype=torch.float32)
    found = example_errors(enumerate(by_task), 4, SUBSETS, list(coordinates.numpy()), seed=1, draws=2000)
    again = []
    for _ in range(600):
        drawn = []
        for own in by_task:
            index = torch.tensor(rng.integers(0, len(own), len(own)))
            drawn.append(TaskRows(own.features[index], own.margins[index], own.targets[index], own.squared))
        again.append(contrasts(drawn, coordinates))
    expected = np.std(again, axis=0)
    outside = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(found[outside], expected[outside], rtol=0.12)
    assert (np.diag(found) == 0).all()


def test_products_with_own_means_are_margins_like_features():
    """Every number a feature, or those of one's own tasks' means as products."""
    rng = np.random.default_rng(2)
    whole = [
        TaskRows(*(torch.tensor(x, dtype=torch.float32) for x in (f, h, y)), squared=False)
        for f, h, y in (
            (rng.normal(size=(30, 2 + 4)), rng.normal(size=30), (rng.random(30) < 0.5).astype(float)) for _ in range(4)
        )
    ]
    every, kept = [], []
    for subset in SUBSETS:
        c = np.zeros(6, np.float32)
        c[[0, 1, *(2 + task for task in subset)]] = rng.normal(size=2 + len(subset))
        every.append(c)
        # A head of one weight, which no row has a gradient by.
        kept.append(np.concatenate([c[:2], np.ones(len(subset), np.float32), c[[2 + task for task in subset]]]))
    apart = [
        TaskRows(torch.nn.functional.pad(r.features[:, :2], (0, 1)), r.margins, r.targets, False, r.features[:, 2:])
        for r in whole
    ]
    a = example_errors(enumerate(whole), 4, SUBSETS, every, seed=1)
    b = example_errors(enumerate(apart), 4, SUBSETS, kept, seed=1, own_coordinates=1)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_more_examples_leave_less_error():
    rng = np.random.default_rng(0)
    coordinates = torch.tensor(rng.normal(size=(len(SUBSETS), 3)), dtype=torch.float32)
    few, many = (example_errors(enumerate(rows(n, rng)), 4, SUBSETS, coordinates, 0).mean() for n in (50, 5000))
    assert 5 < few / many < 20
