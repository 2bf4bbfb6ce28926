"""What must hold of a suite before any work is spent on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS, TRAIN, VALIDATION, Suite


def check_suite(suite: Suite) -> None:
    """Raise ``UserError`` for data that no stage could use: the message names the task or column."""
    if suite.labels.shape != (len(suite.inputs), len(suite.tasks)):
        raise UserError(
            f"labels have shape {suite.labels.shape}, expected (examples, tasks) = "
            f"{(len(suite.inputs), len(suite.tasks))}"
        )
    if not suite.tasks:
        raise UserError("the suite has no task left" + _reasons(suite))
    for name, count in Counter(suite.names).items():
        if not name:
            raise UserError("a task has an empty name")
        if count > 1:
            raise UserError(f"task name `{name}` occurs {count} times; names must be unique")
    _check_finite_inputs(suite)
    for column, task in enumerate(suite.tasks):
        values = suite.labels[:, column]
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise UserError(f"task `{task.name}`: label of example {row} is infinite; leave it empty if it is unknown")
        known = values[~np.isnan(values)]
        if task.kind == "binary" and not np.isin(known, (0, 1)).all():
            wrong = known[~np.isin(known, (0, 1))][0]
            raise UserError(f"task `{task.name}`: a binary label must be 0, 1 or missing, found {wrong:g}")
        if task.kind == "multiclass" and (
            (known != np.floor(known)).any() or (known < 0).any() or (known >= task.classes).any()
        ):
            raise UserError(
                f"task `{task.name}`: class labels must be whole numbers 0 … {task.classes - 1}, found "
                f"{known.min():g} … {known.max():g}"
            )
        for code in (TRAIN, VALIDATION):
            part = values[(suite.split == code) & suite.observed[:, column]]
            if not len(part):
                raise UserError(
                    f"task `{task.name}` has no {SPLITS[code]} example with a label; give it more labels, another "
                    "split seed, or leave it out"
                )
            if code == TRAIN and task.kind != "regression" and len(np.unique(part)) < 2:
                raise UserError(
                    f"task `{task.name}` has one class only ({part[0]:g}) among its {len(part)} training labels; "
                    "a task needs both; leave it out or raise minimum_positives and minimum_negatives"
                )


def _check_finite_inputs(suite: Suite) -> None:
    flat = suite.inputs.reshape(len(suite.inputs), -1)
    bad = ~np.isfinite(flat)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise UserError(
            f"features: {int(bad.sum())} values are NaN or infinite, the first in example {row}, feature {column}; "
            "impute or drop them"
        )


def drop_rare_tasks(suite: Suite, positives: int, negatives: int) -> Suite:
    """Leave out binary tasks with too few labels of either class; the reasons stay in ``left_out``."""
    keep, left_out = [], list(suite.left_out)
    for column, task in enumerate(suite.tasks):
        known = suite.labels[suite.observed[:, column], column]
        counts = int((known == 1).sum()), int((known == 0).sum())
        if task.kind == "binary" and (counts[0] < positives or counts[1] < negatives):
            left_out.append(
                (
                    task.name,
                    f"{counts[0]} positives and {counts[1]} negatives; "
                    f"at least {positives} and {negatives} are asked for",
                )
            )
        else:
            keep.append(column)
    return replace(
        suite,
        labels=np.ascontiguousarray(suite.labels[:, keep]),
        tasks=tuple(suite.tasks[column] for column in keep),
        left_out=tuple(left_out),
    )


def _reasons(suite: Suite) -> str:
    reasons = [f"`{name}` has {reason}" for name, reason in suite.left_out]
    return f": {'; '.join(reasons[:5])}" if reasons else ""
