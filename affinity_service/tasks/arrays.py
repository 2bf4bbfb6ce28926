"""Suites from arrays that are already in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.columns import MANY_TEXTS, label_column
from affinity_service.tasks.suite import COLUMN_KINDS, Kind, Suite, Task, seeded_split

ORIGIN = "from_arrays"


def suite_from_arrays(
    X: ArrayLike,
    Y: ArrayLike,
    task_names: Sequence[str] | None,
    kinds: Mapping[str, Kind] | Sequence[Kind] | Kind | None,
    mask: ArrayLike | None,
    validation: float,
    test: float,
    seed: int,
) -> Suite:
    """See ``Suite.from_arrays``."""
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise UserError(
            f"{ORIGIN}: validation={validation} and test={test} must be positive fractions whose sum stays below 1"
        )
    names = [str(name) for name in (task_names if task_names is not None else getattr(Y, "columns", ()))]
    features = tuple(str(name) for name in getattr(X, "columns", ()))
    inputs, labels = _inputs(X), _labels(Y, mask)
    if len(inputs) != len(labels):
        raise UserError(f"{ORIGIN}: X has {len(inputs)} rows and Y has {len(labels)}; both need one per example")
    if task_names is None and not names:
        names = [f"task_{index}" for index in range(labels.shape[1])]
    if len(names) != labels.shape[1]:
        raise UserError(f"{ORIGIN}: {len(names)} task_names for {labels.shape[1]} columns of Y; give one name each")
    wanted = _kinds(kinds, names)
    columns, tasks = [], []
    for index, name in enumerate(names):
        column, task = label_array(labels[:, index], name, wanted[index])
        columns.append(column)
        tasks.append(task)
    return Suite(
        inputs=inputs,
        labels=np.stack(columns, axis=1) if columns else np.empty((len(inputs), 0), np.float32),
        split=seeded_split(len(inputs), validation, test, seed),
        tasks=tuple(tasks),
        feature_names=features,
    )


def _inputs(X: Any) -> NDArray[np.float32]:
    dense = X.toarray() if hasattr(X, "toarray") else X
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which the checks refuse by name
            inputs = np.asarray(dense).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{ORIGIN}: X must hold numbers in rows of one length: {error}") from error
    if inputs.ndim < 2:
        raise UserError(f"{ORIGIN}: X has shape {inputs.shape}, expected (examples, features)")
    return inputs


def _labels(Y: Any, mask: ArrayLike | None) -> NDArray[Any]:
    try:
        labels = np.asarray(Y.toarray() if hasattr(Y, "toarray") else Y)
    except ValueError as error:
        raise UserError(f"{ORIGIN}: Y must have rows of one length: {error}") from error
    if labels.ndim != 2:
        raise UserError(f"{ORIGIN}: Y has shape {labels.shape}, expected (examples, tasks); one task is Y[:, None]")
    if mask is None:
        return labels
    known = np.asarray(mask)
    if known.shape != labels.shape or known.dtype != np.bool_:
        raise UserError(
            f"{ORIGIN}: mask is {known.dtype} of shape {known.shape}, expected bool of the shape of Y, {labels.shape}, "
            "true where a label is known"
        )
    labels = labels.astype(object)  # holds None, missing whatever the type of Y
    labels[~known] = None
    return labels


def label_array(
    values: NDArray[Any],
    name: str,
    kind: Kind | None,
    origin: str = ORIGIN,
    noun: str = "column",
    many_texts: str = MANY_TEXTS,
) -> tuple[NDArray[np.float32], Task]:
    """Labels (N,) of one task from values of any type, and the task. Raises UserError where they are no labels; what
    messages say as in ``label_column``."""
    try:
        column = pa.chunked_array([pa.array(values, from_pandas=True)])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"{origin}: task `{name}` must hold numbers, booleans or text: {error}") from error
    return label_column(column, name, kind, origin, noun, many_texts)


def _kinds(kinds: Mapping[str, Kind] | Sequence[Kind] | Kind | None, names: Sequence[str]) -> list[Kind | None]:
    wanted: list[Any]
    if kinds is None or isinstance(kinds, str):
        wanted = [kinds] * len(names)
    elif isinstance(kinds, Mapping):
        unknown = [name for name in kinds if name not in names]
        if unknown:
            raise UserError(f"{ORIGIN}: kinds names the task `{unknown[0]}`, which is not among the {len(names)} tasks")
        wanted = [kinds.get(name) for name in names]
    else:
        wanted = list(kinds)
        if len(wanted) != len(names):
            raise UserError(f"{ORIGIN}: {len(wanted)} kinds for {len(names)} tasks; give one kind each")
    for name, kind in zip(names, wanted, strict=True):
        if kind is not None and kind not in COLUMN_KINDS:
            raise UserError(f"{ORIGIN}: task `{name}`: kind {kind!r} is unknown; expected {', '.join(COLUMN_KINDS)}")
    return wanted
