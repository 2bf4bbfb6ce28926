"""Exponential moving averages of every task's gradient, and the inner products of all pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MovingAverages:
    """ĝ_k ← β·ĝ_k + (1−β)·g_k per task, from zero.

    Parameters
    ----------
    width : numbers per gradient, p or those of a sketch.
    halves : 1, or 2 averages per task that take turns. Noise that a gradient shares with itself lengthens it, and with
        it shortens every cosine; inner products between the two halves have no such bias.
    """

    def __init__(self, tasks: int, width: int, beta: float, halves: int = 1, device: Any = None) -> None:
        self.beta = beta
        self.values = torch.zeros(halves, tasks, width, device=device)
        self.counts = torch.zeros(halves, tasks, dtype=torch.int64)

    def update(self, tasks: list[int], rows: Tensor) -> list[int]:
        """Takes in rows (len(tasks), width); the tasks whose rows are not finite are left as they are and returned."""
        finite = rows.isfinite().all(dim=1).tolist()
        for task, row, good in zip(tasks, rows, finite, strict=True):
            if good:
                # Whose turn it is, task by task: tasks may be measured at different steps.
                half = int(self.counts[:, task].argmin())
                self.values[half, task].mul_(self.beta).add_(row, alpha=1 - self.beta)
                self.counts[half, task] += 1
        return [task for task, good in zip(tasks, finite, strict=True) if not good]

    def gram(self) -> Tensor:
        """(K, K) float64 on the CPU: ⟨ĝ_i, ĝ_j⟩, with two halves between them."""
        first, last = self.values[0], self.values[-1]
        products = (first @ last.T).double().cpu()
        return (products + products.T) / 2

    def add(self) -> None:
        """One more task, without an average yet."""
        self.values = torch.cat([self.values, torch.zeros_like(self.values[:, :1])], dim=1)
        self.counts = torch.cat([self.counts, torch.zeros_like(self.counts[:, :1])], dim=1)

    def remove(self, task: int) -> None:
        keep = [index for index in range(self.values.shape[1]) if index != task]
        self.values, self.counts = self.values[:, keep].clone(), self.counts[:, keep].clone()

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.values.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.values.copy_(state["values"])
        self.counts.copy_(state["counts"])


def cosines(gram: Tensor) -> Tensor:
    """(K, K) in [−1, 1]; 0 where a gradient is zero or missing, and where two halves deny that it has a length."""
    square = gram.diagonal()
    known = square > 0
    root = torch.where(known, square, 1.0).sqrt()
    found = (gram / root[:, None] / root[None, :]).clamp(-1, 1)
    return torch.where(known[:, None] & known[None, :], found, 0.0)
