"""The loss of every (example, task), for whole batches and for stacks of models alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.tasks.suite import Task

# Where at most so many of the labels are known, losses are taken one by one.
MOSTLY_MISSING = 0.2
# Kinds whose output is a margin.
LOGISTIC = ("binary", "sequence")


class TaskLosses:
    """Losses of T tasks from the columns of their heads.

    Binary, and the margin of a sequence: logistic loss. Multi-class: cross-entropy. Regression: half the squared
    error on the standardised target. All in nats or squared standard deviations; the mean over tasks of per-task means
    is what training minimises.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        starts = [0, *accumulate(task.outputs for task in tasks)]
        self.slices = [slice(a, b) for a, b in pairwise(starts)]
        self.columns = starts[-1]
        self._binary = [i for i, task in enumerate(tasks) if task.kind in LOGISTIC]
        self._regression = [i for i, task in enumerate(tasks) if task.kind == "regression"]
        self._multiclass = [i for i, task in enumerate(tasks) if task.kind == "multiclass"]
        self._first = torch.tensor(starts[:-1])
        self._is_binary = torch.tensor([task.kind in LOGISTIC for task in tasks])
        self._order = torch.tensor(self._binary + self._regression + self._multiclass).argsort()

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(..., columns), labels (..., T) or fewer leading dimensions → (..., T); 0 where the label is NaN."""
        labels = labels.expand(*outputs.shape[:-1], labels.shape[-1])
        known = ~labels.isnan()
        targets = torch.where(known, labels, 0.0)
        parts = []
        if self._binary:
            logits = outputs[..., [self.slices[i].start for i in self._binary]]
            parts.append(F.binary_cross_entropy_with_logits(logits, targets[..., self._binary], reduction="none"))
        if self._regression:
            predictions = outputs[..., [self.slices[i].start for i in self._regression]]
            parts.append(0.5 * (predictions - targets[..., self._regression]).square())
        for i in self._multiclass:
            log_p = F.log_softmax(outputs[..., self.slices[i]], dim=-1)
            parts.append(-log_p.gather(-1, targets[..., i : i + 1].long()))
        losses = torch.cat(parts, dim=-1)[..., self._order.to(outputs.device)]
        return losses * known

    def of_known(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The same of one model for (B, columns) and (B, T); among hundreds of tasks most labels are missing, and only
        those that are known are worked on."""
        row, task = (~labels.isnan()).nonzero(as_tuple=True)
        if self._multiclass or len(row) > MOSTLY_MISSING * labels.numel():
            return self(outputs, labels)
        found = outputs[row, self._first.to(task.device)[task]]
        goal, binary = labels[row, task], self._is_binary.to(task.device)[task]
        # The logistic loss of a label that is no 0 or 1 is not taken.
        logistic = F.binary_cross_entropy_with_logits(found, torch.where(binary, goal, 0.0), reduction="none")
        losses = torch.where(binary, logistic, 0.5 * (found - goal).square())
        return torch.zeros_like(labels, dtype=losses.dtype).index_put((row, task), losses)


def task_weights(counts: Sequence[int], tasks: Sequence[int], rows: int, temperature: float | None = None) -> Tensor:
    """(T,) weight of each task's summed batch loss per example, 0 outside ``tasks``.

    With rows · p_t / n_t the expected batch loss is exactly Σ p_t · the task's mean loss over its own n_t labelled
    examples, however the missing labels fall. Every task counts alike, p_t = 1/|S|; with a temperature τ a task counts
    as n_t^(1/τ) does: by its size at 1, ever more alike above.
    """
    weights = torch.zeros(len(counts))
    sizes = {task: 1.0 if temperature is None else float(counts[task]) ** (1 / temperature) for task in tasks}
    total = sum(sizes.values())
    for task in tasks:
        weights[task] = rows * sizes[task] / (total * counts[task])
    return weights
