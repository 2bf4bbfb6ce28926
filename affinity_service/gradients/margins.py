"""The margin output of an (example, task): its logistic loss is the task's loss (Grad-TAG, arXiv 2409.06091, §3).

Stored as a logit with a target, the form that the subset fits take:

- binary: the logit and the label y; the loss is log(1 + exp(−(2y−1)·logit)).
- multi-class: z_y − log Σ_{k≠y} exp(z_k) with target 1; log(1 + exp(−margin)) equals −log p_y in value and gradient.
- regression: the prediction and the standardised label; the loss is half the squared error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.tasks.suite import Task


def multiclass_margin(logits: Tensor, label: Tensor) -> Tensor:
    """(B, C) logits, (B,) class indices → (B,) margins."""
    chosen = label.long()[:, None]
    others = logits.scatter(1, chosen, -torch.inf)
    return logits.gather(1, chosen)[:, 0] - others.logsumexp(dim=1)


def pair_margins(
    outputs: Tensor, requested: Sequence[int], task: Tensor, label: Tensor, tasks: Sequence[Task]
) -> Tensor:
    """Margins (B,) of a batch of pairs, in float64: a rounded margin of 60 moves a loss near 0 by 4e-6 of itself.

    Parameters
    ----------
    outputs : (B, columns) of the heads in ``requested``, in that order.
    requested : the tasks that occur in the batch.
    task, label : (B,) the pair's task and its label.
    tasks : all T tasks.
    """
    outputs = outputs.double()
    margins = outputs.new_zeros(len(outputs))
    start = 0
    for index in requested:
        columns = outputs[:, start : start + tasks[index].outputs]
        start += tasks[index].outputs
        rows = (task == index).nonzero()[:, 0]
        if tasks[index].kind == "multiclass":
            values = multiclass_margin(columns[rows], label[rows])
        else:
            values = columns[rows, 0]
        margins = margins.index_add(0, rows, values)
    return margins


def targets(task: Tensor, label: Tensor, tasks: Sequence[Task]) -> Tensor:
    """(B,) targets that go with the margins: the label, but 1 for multi-class pairs."""
    multiclass = torch.tensor([t.kind == "multiclass" for t in tasks], device=task.device)
    return torch.where(multiclass[task.long()], torch.ones_like(label), label)


def signed_margin(margin: Tensor, target: Tensor) -> Tensor:
    """h = (2·target − 1)·margin, whose logistic loss log(1 + exp(−h)) is the task's loss."""
    return (2 * target - 1) * margin


def logistic_loss(margin: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(−h)), exact to rounding for losses near 0 and far above 50."""
    return -F.logsigmoid(signed_margin(margin, target))
