"""The gradient of every task's loss with respect to the parameters that tasks share: one row per task.

What TAG (arXiv 2109.04617) and SON-GOKU (arXiv 2509.16959) both measure. Rows come from ``torch.autograd.grad``: no
``.grad`` is written, no optimizer, scaler or hook of a parallel wrapper takes notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from affinity_service.gradients.sketch import CountSketch


@dataclass(frozen=True)
class TaskGradients:
    """rows (K, p), or (K, D) sketched, float32; reached (K, parameters) bool: whether the loss depends on it at all."""

    rows: Tensor
    reached: Tensor


def task_gradients(
    losses: Sequence[Tensor], parameters: Sequence[Tensor], sketch: CountSketch | None = None
) -> TaskGradients:
    """Gradients of K scalar losses, concatenated over the parameters in their order; the graph is kept.

    One backward pass per loss: batching them (``is_grads_batched``) was slower wherever losses come from branches of
    their own, and fails for operations without a batching rule.
    """
    sizes = [p.numel() for p in parameters]
    width = sum(sizes) if sketch is None else sketch.dimension
    device = parameters[0].device
    rows = torch.zeros(len(losses), width, device=device)
    reached = torch.zeros(len(losses), len(parameters), dtype=torch.bool)
    for number, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        start = 0
        for index, (gradient, size) in enumerate(zip(gradients, sizes, strict=True)):
            if gradient is not None:
                reached[number, index] = True
                if sketch is None:
                    rows[number, start : start + size] = gradient.reshape(-1)
                else:
                    sketch.add(index, gradient, rows[number])
            start += size
    return TaskGradients(rows, reached)


def ranks(group: Any = None) -> int:
    """Data-parallel processes in the group; 1 where there is none."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size(group) if running else 1


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Summed in place where there are several ranks. Gradients are averaged, never cosines: only so do two ranks give
    what one process gives."""
    if ranks(group) > 1:
        values = values.contiguous()
        torch.distributed.all_reduce(values, group=group)
    return values
