"""A suite with one task more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from affinity_service.errors import UserError
from affinity_service.tasks.arrays import label_array
from affinity_service.tasks.checks import check_suite
from affinity_service.tasks.suite import Kind, Suite, standardise_targets


def with_task(suite: Suite, name: str, labels: ArrayLike, kind: Kind | None = None) -> Suite:
    """The suite with a task behind its own.

    Parameters
    ----------
    labels : (N,) of the suite's examples, NaN or None where there is none.
    kind : inferred from the values when absent.

    Raises
    ------
    UserError
        The labels are not one per example, are no labels, or cannot train a task: one class, none in a split.
    """
    values = np.asarray(labels)
    if values.shape != (len(suite),):
        raise UserError(
            f"task `{name}`: labels have shape {values.shape}; expected ({len(suite)},), one per example of the study "
            "in the order of its data, NaN where there is none"
        )
    column, task = label_array(values, name, kind)
    alone = replace(suite, labels=column[:, None], tasks=(task,), left_out=())
    check_suite(alone)
    alone = standardise_targets(alone)
    return replace(suite, labels=np.concatenate([suite.labels, alone.labels], axis=1), tasks=suite.tasks + alone.tasks)
