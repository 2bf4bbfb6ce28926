"""Rows of the feature store by task, and what coordinates do to their losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.fitting.subset_weights import SubsetWeights

# Entries of one (rows × subsets) intermediate.
_ENTRIES = 1 << 24


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task: features (n, d), margins and targets (n,) float32; squared: half the squared error is its
    loss, else the logistic one."""

    features: Tensor
    margins: Tensor
    targets: Tensor
    squared: bool

    def __len__(self) -> int:
        return len(self.margins)

    def margins_at(self, c: Tensor) -> Tensor:
        """(n, k) margins at coordinates (k, d)."""
        return torch.addmm(self.margins[:, None], self.features, c.T)

    def slopes(self, z: Tensor) -> Tensor:
        """Derivative of the loss by the margin, for margins (n, k)."""
        return (z if self.squared else torch.sigmoid(z)) - self.targets[:, None]

    def losses(self, z: Tensor) -> Tensor:
        """(n, k) losses at margins (n, k)."""
        if self.squared:
            return 0.5 * (z - self.targets[:, None]).square()
        return -F.logsigmoid((2 * self.targets[:, None] - 1) * z)


def split_by_task(
    features: Tensor, margins: Tensor, targets: Tensor, task_of_row: Tensor, squared: Sequence[bool]
) -> list[TaskRows | None]:
    """Per task its rows, in the order given; None for a task without any."""
    order = torch.argsort(task_of_row, stable=True)
    sizes = torch.bincount(task_of_row, minlength=len(squared)).tolist()
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        features, margins, targets = features[order], margins[order], targets[order]
    parts = zip(features.split(sizes), margins.float().split(sizes), targets.float().split(sizes), squared, strict=True)
    return [TaskRows(x, h, y, kind) if len(h) else None for x, h, y, kind in parts]


def member_losses(rows: Sequence[TaskRows | None], layout: SubsetWeights, coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and its standard error over examples, (M, T) each, of every member of the layout's M subsets at
    coordinates (M, d + S·h); NaN for tasks outside a subset. The error is NaN for a single example."""
    mean = torch.full((len(layout.subsets), len(rows)), torch.nan, device=coordinates.device)
    error = torch.full_like(mean, torch.nan)
    for task in layout.tasks():
        own = rows[task]
        if own is None:
            continue
        together = max(1, _ENTRIES // len(own))
        for part, slots in zip(*(each.split(together) for each in layout.holders(task)), strict=True):
            losses = own.losses(own.margins_at(layout.of_task(coordinates, part, slots)))
            mean[part, task] = losses.mean(dim=0)
            error[part, task] = losses.std(dim=0) / len(own) ** 0.5 if len(own) > 1 else torch.nan
    return mean, error
