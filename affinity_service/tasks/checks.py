"""What must hold of a suite before any work is spent on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS, TRAIN, VALIDATION, Kind, Suite, Task
from affinity_service.tasks.tokens import TokenRows


def check_suite(suite: Suite) -> None:
    """Raise ``UserError`` for data that no stage could use: the message names the task or column."""
    check_shapes(suite)
    if not suite.tasks:
        raise UserError("the suite has no task left" + _reasons(suite))
    for name, count in Counter(suite.names).items():
        if not name:
            raise UserError("a task has an empty name")
        if count > 1:
            raise UserError(f"task name `{name}` occurs {count} times; names must be unique")
    check_finite_inputs(suite)
    of_tokens, answers = isinstance(suite.inputs, TokenRows), any(task.kind == "sequence" for task in suite.tasks)
    for column, task in enumerate(suite.tasks):
        values = suite.labels[:, column]
        check_kind(task)
        if answers and task.kind != "sequence":
            raise UserError(
                f"task `{task.name}` is of kind {task.kind} and another a sequence: answers, which lie within the "
                "inputs, and labels are for different models; make two suites"
            )
        if answers and not of_tokens:
            raise UserError(
                f"task `{task.name}` is of kind sequence, but the inputs are no token sequences, which its answers lie "
                "within"
            )
        check_labels(task, values)
        if np.isnan(values).all():
            raise UserError(f"task `{task.name}` has no label: all {len(values)} are missing; leave it out")
        for code in (TRAIN, VALIDATION):
            part = values[(suite.split == code) & suite.observed[:, column]]
            if not len(part):
                raise UserError(
                    f"task `{task.name}` has no {SPLITS[code]} example with a label; give it more labels, another "
                    "split seed, or leave it out"
                )
            if code == TRAIN and task.kind in ("binary", "multiclass") and len(np.unique(part)) < 2:
                raise UserError(
                    f"task `{task.name}` has one class only ({part[0]:g}) among its {len(part)} training labels; "
                    "a task needs both; leave it out or raise minimum_positives and minimum_negatives"
                )


def check_kind(task: Task) -> None:
    """Raise ``UserError`` unless the kind is known and has as many classes as it needs."""
    if task.kind not in get_args(Kind):
        raise UserError(f"task `{task.name}`: kind {task.kind!r} is unknown; expected {', '.join(get_args(Kind))}")
    if task.kind == "multiclass" and task.classes < 2:
        raise UserError(
            f"task `{task.name}`: a multiclass task needs 2 or more classes, found {task.classes}; give their number "
            "as `classes` of its Task"
        )


def check_labels(task: Task, values: NDArray[np.float32]) -> None:
    """Raise ``UserError`` unless the labels (N,) of one task, NaN for missing, are what its kind takes."""
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise UserError(
            f"task `{task.name}`: label of example {row} is infinite (in float32); leave it empty if it is unknown"
        )
    known = values[~np.isnan(values)]
    if task.kind == "sequence" and (known != 1).any():
        raise UserError(
            f"task `{task.name}`: the label of an answer is 1, or missing where an example is of another task, found "
            f"{known[known != 1][0]:g}"
        )
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


def check_tokens(rows: TokenRows, answers: bool = True) -> None:
    """Raise ``UserError`` unless every sequence begins with a token to read and, of answers, has one to learn."""
    arrays = (rows.tokens, rows.learned, rows.starts)
    if any(not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "biu" for array in arrays):
        raise UserError("tokens, learned and starts of the token sequences must be NumPy arrays of whole numbers")
    lengths, starts = np.diff(rows.starts), rows.starts
    if not len(starts) or starts[0] != 0 or starts[-1] != len(rows.tokens) or (lengths < 0).any():
        raise UserError(f"starts of the token sequences must rise from 0 to the number of tokens, {len(rows.tokens)}")
    if len(rows.learned) != len(rows.tokens):
        raise UserError(f"`learned` has {len(rows.learned)} entries, expected one per token: {len(rows.tokens)}")
    if (rows.tokens < 0).any():
        raise UserError(f"token ids must be 0 or more, found {rows.tokens.min()}")
    learned = np.concatenate([[0], np.cumsum(rows.learned)])
    # The first token of a sequence follows nothing that could predict it.
    first = rows.learned[starts[:-1][lengths > 0]]
    bad = np.flatnonzero((lengths == 0) | (answers & (np.diff(learned[starts]) == 0)))
    if len(bad) or first.any():
        row = int(bad[0]) if len(bad) else int(np.flatnonzero(lengths > 0)[np.flatnonzero(first)[0]])
        raise UserError(
            f"token sequence {row} must begin with a token that is read and hold one that is learned, found "
            f"{lengths[row]} tokens, learned {rows.learned[starts[row] : starts[row + 1]][:8].tolist()}"
        )


def check_shapes(suite: Suite) -> None:
    """Raise ``UserError`` unless arrays are numbers whose shapes fit; a suite of one's own may be anything."""
    arrays = ("labels", "split") if isinstance(suite.inputs, TokenRows) else ("inputs", "labels", "split")
    for name in arrays:
        array = getattr(suite, name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"`{name}` of the suite must be a NumPy array of numbers, found {found}")
    if not len(suite.inputs):
        raise UserError("the suite has no example")
    if isinstance(suite.inputs, TokenRows):
        check_tokens(suite.inputs, any(task.kind == "sequence" for task in suite.tasks))
    elif suite.inputs.ndim < 2 or not suite.inputs[0].size:
        raise UserError(f"inputs have shape {suite.inputs.shape}, expected (examples, features)")
    if suite.split.shape != (len(suite.inputs),) or not np.isin(suite.split, range(len(SPLITS))).all():
        raise UserError(
            f"`split` of the suite must hold one of 0, 1, 2 ({', '.join(SPLITS)}) for each of the {len(suite.inputs)} "
            f"examples, found shape {suite.split.shape} with values {np.unique(suite.split)[:5].tolist()}"
        )
    if suite.labels.shape != (len(suite.inputs), len(suite.tasks)):
        raise UserError(
            f"labels have shape {suite.labels.shape}, expected (examples, tasks) = "
            f"{(len(suite.inputs), len(suite.tasks))}"
        )


def check_finite_inputs(suite: Suite) -> None:
    """Raise ``UserError`` naming the first example and feature that is NaN or infinite; tokens cannot be."""
    if isinstance(suite.inputs, TokenRows):
        return
    flat = suite.inputs.reshape(len(suite.inputs), -1)
    bad = ~np.isfinite(flat)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        named = len(suite.feature_names) == flat.shape[1]
        name = f"`{suite.feature_names[column]}`" if named else str(column)
        found = "infinite (in float32)" if np.isinf(flat[row, column]) else "missing or NaN"
        raise UserError(
            f"features: {int(bad.sum())} values are NaN or infinite, the first in example {row}, feature {name}: "
            f"{found}; impute it, or leave the row or the feature out"
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
