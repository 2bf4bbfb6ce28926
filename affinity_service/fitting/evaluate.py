"""Losses that fitted displacements predict on validation rows: one product per task for all subsets that hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.fitting.problem import Array, check_rows, check_subsets


@dataclass(frozen=True)
class PredictedLosses:
    """Flat arrays over the members of all subsets, subset by subset in the order of its tasks.

    subset_index, task : which member. loss : its mean loss over the task's rows, in nats or half squared units.
    standard_error : of that mean over rows; 0 for a single row.
    """

    subset_index: Any
    task: Any
    loss: Any
    standard_error: Any


def predicted_losses(
    features: Array,
    margins: Array,
    targets: Array,
    task_of_row: Array,
    weights: Array,
    subsets: Iterable[Iterable[int]],
    *,
    kinds: Sequence[str] | None = None,
) -> PredictedLosses:
    """Evaluate M displacements (M, d) on rows (Grad-TAG, arXiv 2409.06091, §3); rows as ``fit_subsets`` takes them.

    Raises
    ------
    UserError
        Rows or subsets are unusable, or a subset holds a task without rows.
    """
    chosen = [[int(t) for t in subset] for subset in subsets]
    rows = check_rows(features, margins, targets, task_of_row, kinds)
    check_subsets(chosen, rows.task, rows.n_tasks)
    w = torch.as_tensor(weights).to(rows.features)
    subset_index = torch.tensor([i for i, subset in enumerate(chosen) for _ in subset], dtype=torch.long)
    task = torch.tensor([t for subset in chosen for t in subset], dtype=torch.long)
    loss = torch.empty(len(task), dtype=torch.float64, device=rows.features.device)
    error = torch.empty_like(loss)
    for t in task.unique().tolist():
        places = (task == t).nonzero()[:, 0].to(loss.device)
        own = (rows.task == t).nonzero()[:, 0]
        z = rows.margins[own, None] + rows.features[own] @ w[subset_index.to(loss.device)[places]].T
        values = _losses(z.double(), rows.targets[own, None].double(), rows.kinds[t])
        loss[places] = values.mean(dim=0)
        error[places] = values.std(dim=0, correction=min(1, len(own) - 1)) / len(own) ** 0.5
    parts: tuple[Tensor, ...] = (subset_index, task, loss, error)
    return PredictedLosses(*(parts if isinstance(features, Tensor) else (p.cpu().numpy() for p in parts)))


def _losses(z: Tensor, target: Tensor, kind: str) -> Tensor:
    return 0.5 * (z - target).square() if kind == "squared" else -F.logsigmoid((2 * target - 1) * z)
