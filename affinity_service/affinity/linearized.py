"""What training on a subset would give, from the features alone (Grad-TAG, arXiv 2409.06091, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from affinity_service.fitting import predicted_losses, solve_subsets
from affinity_service.gradients.store import FeatureRows
from affinity_service.tasks.suite import Task


@dataclass(frozen=True)
class SubsetEstimates:
    """Predicted validation losses of the members of M subsets.

    Attributes
    ----------
    subsets : M tuples of tasks.
    weights : (M, d) float32, the displacement of each subset in feature coordinates.
    converged : (M,) bool. iterations : (M,) int.
    losses, standard_errors : one array per subset in the order of its tasks; the error is that of the mean over the
        task's validation examples.
    """

    subsets: list[tuple[int, ...]]
    weights: NDArray[np.float32]
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int64]
    losses: list[NDArray[np.float64]]
    standard_errors: list[NDArray[np.float64]]

    def to_table(self, first: int) -> pa.Table:
        """One row per subset, numbered from `first`."""
        return pa.table(
            {
                "subset": np.arange(first, first + len(self.subsets)),
                "tasks": pa.array([list(s) for s in self.subsets], pa.list_(pa.int32())),
                "predicted_loss": pa.array(self.losses, pa.list_(pa.float64())),
                "standard_error": pa.array(self.standard_errors, pa.list_(pa.float64())),
                "converged": self.converged,
                "iterations": self.iterations,
                "weights": pa.FixedSizeListArray.from_arrays(pa.array(self.weights.reshape(-1)), self.weights.shape[1]),
            }
        )


class LinearizedEstimator:
    """Fits subsets on training rows and evaluates them on validation rows, thousands at a time.

    Parameters
    ----------
    train, validation : rows of the feature store, of all tasks or of those that will be asked for.
    tasks : all tasks of the suite, which decide the loss of each.
    l2 : ridge penalty on the displacement.
    device : where the products run.
    """

    def __init__(
        self,
        train: FeatureRows,
        validation: FeatureRows,
        tasks: Sequence[Task],
        l2: float,
        device: str = "cpu",
    ) -> None:
        self.l2 = l2
        self.kinds = loss_kinds(tasks)
        self._train, self._validation = (_tensors(rows, device) for rows in (train, validation))

    def estimate(self, subsets: Sequence[Sequence[int]]) -> SubsetEstimates:
        """Raises UserError for a subset that names an unknown task, repeats one, or is empty."""
        chosen = [tuple(int(t) for t in subset) for subset in subsets]
        features, margins, targets, task_of_row = self._train
        fit = solve_subsets(features, margins, targets, task_of_row, chosen, self.l2, kinds=self.kinds)
        features, margins, targets, task_of_row = self._validation
        evaluated = predicted_losses(features, margins, targets, task_of_row, fit.weights, chosen, kinds=self.kinds)
        losses = _numpy(evaluated.loss).astype(np.float64)
        errors = _numpy(evaluated.standard_error).astype(np.float64)
        # A single validation example tells no spread: an error as large as the loss itself claims nothing.
        errors = np.where(np.isnan(errors), np.abs(losses), errors)
        ends = np.cumsum([len(subset) for subset in chosen])[:-1]
        return SubsetEstimates(
            subsets=chosen,
            weights=_numpy(fit.weights).astype(np.float32),
            converged=_numpy(fit.converged),
            iterations=_numpy(fit.iterations).astype(np.int64),
            losses=np.split(losses, ends),
            standard_errors=np.split(errors, ends),
        )


def loss_kinds(tasks: Sequence[Task]) -> list[str]:
    """What the fits minimise per task."""
    return ["squared" if task.kind == "regression" else "logistic" for task in tasks]


def _tensors(rows: FeatureRows, device: str) -> tuple[torch.Tensor, ...]:
    # Rows from the object store are read-only, which torch cannot express; nothing here writes to them.
    arrays = (rows.features, rows.margins.astype(np.float32), rows.targets, rows.task_of_row.astype(np.int64))
    return tuple(torch.tensor(array, device=device) for array in arrays)


def _numpy(values: object) -> NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
