"""Rows of the feature store by task, and what coordinates do to their margins and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task: features (n, d), margins and targets (n,) float32; squared: half the squared error is its
    loss, else the logistic one; products (n, W) with the tasks' means outside the basis, where there are any."""

    features: Tensor
    margins: Tensor
    targets: Tensor
    squared: bool
    products: Tensor | None = None

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
    features: Tensor,
    margins: Tensor,
    targets: Tensor,
    task_of_row: Tensor,
    squared: Sequence[bool],
    products: Tensor | None = None,
) -> list[TaskRows | None]:
    """Per task its rows, in the order given; None for a task without any."""
    order = torch.argsort(task_of_row, stable=True)
    sizes = torch.bincount(task_of_row, minlength=len(squared)).tolist()
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        features, margins, targets = features[order], margins[order], targets[order]
        products = None if products is None else products[order]
    columns = (features.split(sizes), margins.float().split(sizes), targets.float().split(sizes), squared)
    more = [None] * len(squared) if products is None else products.split(sizes)
    return [TaskRows(*part) if len(part[1]) else None for part in zip(*columns, more, strict=True)]
