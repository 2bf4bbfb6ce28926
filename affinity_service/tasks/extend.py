"""A suite with one task more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.arrays import label_array
from affinity_service.tasks.checks import check_suite
from affinity_service.tasks.suite import Kind, Suite, standardise_targets

ORIGIN = "add_task"


def with_task(suite: Suite, name: str, labels: ArrayLike, kind: Kind | None = None) -> Suite:
    """The suite with a task behind its own.

    Parameters
    ----------
    labels : (N,) of the suite's examples by position, NaN or None where there is none (or masked).
    kind : inferred from the values when absent.

    Raises
    ------
    UserError
        The name is no text, the labels are not one per example, stand in another order, are no labels, or cannot train
        a task: one class, none in a split.
    """
    if not isinstance(name, str):
        raise UserError(f"{ORIGIN}: the name of a task must be text, found {name!r} ({type(name).__name__})")
    values = _values(name, labels, len(suite))
    if values.shape != (len(suite),):
        raise UserError(
            f"{ORIGIN}: task `{name}`: labels have shape {values.shape}; expected ({len(suite)},), one per example of "
            "the study in the order of its data, NaN where there is none"
        )
    advice = "give kind='multiclass' if they are classes"
    column, task = label_array(values, name, kind, ORIGIN, "task", advice)
    alone = replace(suite, labels=column[:, None], tasks=(task,), left_out=())
    try:
        check_suite(alone)
        alone = standardise_targets(alone)
    except UserError as error:
        raise UserError(f"{ORIGIN}: {error}") from error
    return replace(suite, labels=np.concatenate([suite.labels, alone.labels], axis=1), tasks=suite.tasks + alone.tasks)


def _values(name: str, labels: Any, count: int) -> NDArray[Any]:
    if isinstance(labels, pd.Series) and len(labels) == count and not labels.index.equals(pd.RangeIndex(count)):
        shown = ", ".join(repr(entry) for entry in labels.index[:3])
        raise UserError(
            f"{ORIGIN}: task `{name}`: the labels have an index of their own ({shown}, …), which may mean another "
            "order; labels go by position: bring them into the order of the study's data and pass labels.to_numpy()"
        )
    if isinstance(labels, np.ma.MaskedArray):
        values = labels.data.astype(object)  # holds None, missing whatever the type of the labels
        values[np.ma.getmaskarray(labels)] = None
        return values
    try:
        values = np.asarray(labels)
        # Text makes NaN and numbers beside it text as well: take what was given.
        return np.asarray(labels, dtype=object) if values.dtype.kind in "US" else values
    except (TypeError, ValueError) as error:
        raise UserError(f"{ORIGIN}: task `{name}`: labels must be one value per example: {error}") from error
