"""What a user can do wrong, and what the message says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from affinity_service.errors import UserError
from affinity_service.fitting import fit_subsets


def broken(name: str, place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(arguments: dict[str, Any]) -> None:
        arguments[name] = arguments[name].copy()
        arguments[name][place] = value

    return apply


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(arguments: dict[str, Any]) -> None:
        arguments[name] = value

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken("features", (7, 2), np.nan), r"features .* row 7, column 2 \(nan\)"),
        (broken("features", (3, 0), -np.inf), r"features .* row 3, column 0 \(-inf\)"),
        (broken("margins", 5, np.nan), "margins .* row 5"),
        (broken("targets", 9, 0.5), r"targets has 0\.5 at row 9 .* 0 or 1"),
        (broken("targets", 9, -1), r"targets has -1\.0 at row 9"),
        (broken("task_of_row", 4, -2), "task_of_row has -2 at row 4"),
        (replaced("features", np.zeros(30)), r"features has shape \(30,\)"),
        (replaced("features", [["a", "b"]]), "features is not a numeric array"),
        (replaced("features", np.zeros((30, 4), complex)), "complex"),
        (replaced("margins", np.zeros(29)), r"margins has shape \(29,\).*30"),
        (replaced("targets", np.zeros((30, 1))), r"targets has shape \(30, 1\)"),
        (replaced("task_of_row", np.zeros(3, int)), r"task_of_row has shape \(3,\)"),
        (replaced("task_of_row", np.zeros(30)), "integer task numbers"),
        (replaced("task_of_row", ["a"] * 30), "task_of_row is not an array of integers"),
        (replaced("subsets", [[0, 1], []]), "subset 1 is empty"),
        (replaced("subsets", [[0], [1, 2, 1]]), "subset 1 contains task 1 more than once"),
        (replaced("subsets", [[0, 5]]), "subset 0 contains task 5, which is unknown: tasks 0 to 4"),
        (replaced("subsets", [[0, -1]]), "task -1"),
        (replaced("subsets", [[0], [3, 4]]), "subset 1 contains task 3, which has no rows"),
        (replaced("subsets", [[0, 1.5]]), "subset 0 contains 1.5"),
        (replaced("subsets", [0, 1]), "subset 0 is 0; a list"),
        (replaced("l2", 0), r"l2 is 0\.0 for subset 0; a positive"),
        (replaced("l2", -1.0), "positive"),
        (replaced("l2", np.nan), "positive"),
        (replaced("l2", [0.1, 0.1, 0.1]), r"l2 has shape \(3,\).*\(2,\)"),
        (replaced("l2", "much"), "l2 is 'much'"),
        (replaced("kinds", ["logistic"] * 2), "kinds names 2 tasks but task_of_row has task 4"),
        (replaced("kinds", ["logistic", "hinge"]), "kinds has 'hinge' for task 1"),
        (replaced("kinds", "squared"), "one kind per task"),
        (replaced("precision", "half"), "precision is 'half'"),
    ],
)
def test_mistakes_are_named(change: Callable[[dict[str, Any]], None], message: str) -> None:
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "features": rng.standard_normal((30, 4)),
        "margins": np.zeros(30),
        "targets": (rng.random(30) < 0.5).astype(float),
        # Task 3 has no rows.
        "task_of_row": np.array([0, 1, 2, 4, 2] * 6),
        "subsets": [[0, 1], [2, 4]],
        "l2": 0.1,
    }
    fit_subsets(**arguments)
    change(arguments)
    with pytest.raises(UserError, match=message):
        fit_subsets(**arguments)


def test_huge_finite_features_are_not_called_infinite() -> None:
    features = torch.full((4, 1), 3e38)
    zeros = torch.zeros(4)
    weights = fit_subsets(features * torch.tensor([[1.0], [-1], [1], [1]]), zeros, zeros, zeros.long(), [[0]], 1.0)
    assert torch.isfinite(weights).all()


def test_subsets_may_be_arrays_and_targets_booleans() -> None:
    rng = np.random.default_rng(0)
    features, task = rng.standard_normal((30, 4)), np.arange(30, dtype=np.uint8) % 3
    targets = rng.random(30) < 0.5
    as_lists = fit_subsets(features, np.zeros(30), targets.astype(float), task, [[0, 1], [1, 2]], 0.1)
    as_arrays = fit_subsets(features, np.zeros(30), targets, task, np.array([[0, 1], [1, 2]]), np.full(2, 0.1))
    assert np.array_equal(as_lists, as_arrays)
