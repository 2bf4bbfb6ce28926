"""Suites made for tests."""

from __future__ import annotations

import numpy as np

from affinity_service.tasks.suite import Suite, Task, seeded_split


def mixed_suite(rows: int = 120, features: int = 5, missing: float = 0.2, seed: int = 0) -> Suite:
    """Two binary tasks, one of three classes, one regression; some labels missing."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, features)).astype(np.float32)
    scores = inputs @ rng.normal(size=(features, 4)) + 0.5 * rng.normal(size=(rows, 4))
    labels = np.stack(
        [scores[:, 0] > 0, scores[:, 1] > 0.3, np.digitize(scores[:, 2], [-0.7, 0.7]), scores[:, 3]], axis=1
    ).astype(np.float32)
    labels[rng.random(labels.shape) < missing] = np.nan
    tasks = (Task("up", "binary"), Task("high", "binary"), Task("level", "multiclass", 3), Task("value", "regression"))
    return Suite(inputs, labels, seeded_split(rows, 0.2, 0.2, seed), tasks)


def allies_and_rivals(rows: int = 600, features: int = 12, seed: int = 0) -> Suite:
    """Six binary tasks that the base model must tell apart: 0, 1, 2 have one target, 3, 4, 5 its opposite, all noisy.

    Tasks within a camp share everything; across camps the labels contradict each other.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, features)).astype(np.float32)
    direction = rng.normal(size=features) / np.sqrt(features)
    scores = 2 * inputs @ direction
    labels = np.stack(
        [(sign * scores + rng.logistic(size=rows) * 0.7 > 0) for sign in (1, 1, 1, -1, -1, -1)], axis=1
    ).astype(np.float32)
    names = ("ally_a", "ally_b", "ally_c", "rival_a", "rival_b", "rival_c")
    return Suite(inputs, labels, seeded_split(rows, 0.3, 0.2, seed), tuple(Task(n, "binary") for n in names))
