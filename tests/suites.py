"""Suites made for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.tasks.suite import SPLITS, Suite, Task, seeded_split


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


def neighbourhood_suite(rows: int = 120, fanouts: tuple[int, ...] = (3, 2), features: int = 4, seed: int = 0) -> Suite:
    """`mixed_suite`, whose examples are neighbourhoods as graphs give them: labels follow their mean."""
    suite = mixed_suite(rows, features, seed=seed)
    noise = np.random.default_rng(seed).normal(size=(rows, *(1 + fanout for fanout in fanouts), features))
    mean = suite.inputs.reshape(rows, *(1 for _ in fanouts), features)
    return replace(suite, inputs=(mean + noise).astype(np.float32))


def allies_and_rivals(rows: int = 900, features: int = 20, degrees: float = 60, seed: int = 0) -> Suite:
    """Six binary tasks in two camps: within a camp all labels follow one direction of the inputs, and the two
    directions stand at an angle. Every example has a label for one task only, so company brings examples.

    A model whose body has one unit must compromise: tasks of one camp share everything, the camps pull the unit
    apart. (At a right angle it would not compromise but give one camp up.)
    """
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, features)).astype(np.float32)
    axes, _ = np.linalg.qr(rng.normal(size=(features, 2)))
    half = np.radians(degrees) / 2
    camps = axes @ np.array([[np.cos(half), np.cos(half)], [np.sin(half), -np.sin(half)]])
    scores = 3 * inputs @ camps[:, [0, 0, 0, 1, 1, 1]]
    labels = (scores + rng.logistic(size=scores.shape) > 0).astype(np.float32)
    labels[np.arange(6) != rng.integers(6, size=rows)[:, None]] = np.nan
    names = ("ally_a", "ally_b", "ally_c", "rival_a", "rival_b", "rival_c")
    return Suite(inputs, labels, seeded_split(rows, 0.3, 0.2, seed), tuple(Task(n, "binary") for n in names))


def write_suite(suite: Suite, path: Path) -> str:
    """A suite as a Parquet file in the project's own form."""
    names = {"multiclass": pa.int64()}
    columns = {
        "features": pa.FixedSizeListArray.from_arrays(pa.array(suite.inputs.ravel()), suite.inputs.shape[1]),
        "part": [SPLITS[code] for code in suite.split],
    }
    for index, task in enumerate(suite.tasks):
        values = pa.array(suite.labels[:, index], from_pandas=True)
        columns[task.name] = values.cast(names.get(task.kind, pa.float32()))
    pq.write_table(pa.table(columns), path)
    return str(path)


def small_settings(suite: Suite, path: str) -> dict[str, Any]:
    """A config, as YAML would hold it, on a written suite that runs in seconds."""
    return {
        "name": "small",
        "data": {
            "source": "parquet",
            "path": path,
            "split_column": "part",
            "tasks": {task.name: task.kind for task in suite.tasks},
        },
        "model": {"hidden": [16]},
        "base": {"epochs": 4, "batch_size": 32, "learning_rate": 0.01},
        "gradients": {"dimension": 24, "shard_rows": 200},
        "fits": {"subsets": 8, "sizes": [3, 4], "tile": 6},
        "groups": {"k": 2},
        "group_models": {"seeds": 2, "random_groupings": 1},
    }
