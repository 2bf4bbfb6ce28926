"""A suite of whatever types its maker chose, in the types that every stage counts on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from affinity_service.errors import UserError
from affinity_service.tasks.suite import Suite, Task
from affinity_service.tasks.tokens import TokenRows


def normalised(suite: Suite) -> Suite:
    """The same suite with the dtypes that ``Suite`` names and plain Python values in its tasks.

    Raises
    ------
    UserError
        Something among the tasks is no task, or a field of one is of another type; the message names the task.
    """
    with np.errstate(over="ignore"):  # becomes infinite, which the checks refuse by name
        read = suite.inputs
        inputs = _tokens(read) if isinstance(read, TokenRows) else read.astype(np.float32, copy=False)
        labels = suite.labels.astype(np.float32, copy=False)
    return replace(
        suite,
        inputs=inputs,
        labels=labels,
        split=suite.split.astype(np.int8, copy=False),
        tasks=tuple(_task(task, position) for position, task in enumerate(suite.tasks)),
        left_out=tuple((str(name), str(reason)) for name, reason in suite.left_out),
        feature_names=tuple(str(name) for name in suite.feature_names),
    )


def _tokens(rows: TokenRows) -> TokenRows:
    return TokenRows(
        rows.tokens.astype(np.int32, copy=False),
        rows.learned.astype(bool, copy=False),
        rows.starts.astype(np.int64, copy=False),
    )


def _task(task: Task, position: int) -> Task:
    if not isinstance(task, Task):
        raise UserError(f"task {position} of the suite is {type(task).__name__}, expected affinity_service.tasks.Task")
    name = str(task.name)
    try:
        classes, mean, scale = int(task.classes), float(task.mean), float(task.scale)
        if classes != task.classes:
            raise ValueError(f"classes {task.classes} is not a whole number")
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"task `{name}`: classes, mean and scale must be numbers: {error}") from error
    # An unknown kind is left to the checks; a NumPy string becomes a plain one.
    kind = str(task.kind)
    return Task(name, kind, classes, mean, scale)  # type: ignore[arg-type]
