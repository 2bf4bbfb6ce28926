"""The fit of one subset in milliseconds, for questions that a user asks one at a time.

What depends on a task alone, its rows and its curvature at zero weights, where the base model is, is computed when the
task is first asked about and kept. The curvature of a subset is then a mean of matrices; its factor starts a
quasi-Newton iteration (Nocedal & Wright 2006, algorithm 7.4, with that factor as initial matrix), which usually needs
three to six passes over the subset's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from affinity_service.fitting.blocks import LOSSES, Loss
from affinity_service.fitting.products import full_precision
from affinity_service.fitting.solve import TOLERANCE
from affinity_service.fitting.task_rows import TaskRows

_PASSES = 30
# Where the objective is so many times flatter along a step than it was at zero weights, short steps no longer say that
# the end is near.
_ALIKE = 4.0
# A step may be so many times as long as the one before it; beyond that the iteration is given up.
_GROWTH = 2.0


@dataclass(frozen=True)
class _Task:
    """rows (n, d) and offsets (n,) as in ``blocks.TaskBlock``; curvature (d, d) of its mean loss at zero weights."""

    loss: Loss
    rows: Tensor
    offsets: Tensor
    curvature: Tensor

    @classmethod
    def of(cls, own: TaskRows) -> _Task:
        loss = LOSSES["squared" if own.squared else "logistic"]
        if own.squared:
            rows, offsets = own.features, own.margins - own.targets
        else:
            sign = 1 - 2 * own.targets
            rows, offsets = own.features * sign[:, None], own.margins * sign
        weighted = rows * (loss.curvatures(offsets) / len(own))[:, None]
        return cls(loss, rows, offsets, rows.T @ weighted)

    def scores(self, w: Tensor) -> Tensor:
        """(n,) u as in ``blocks.TaskBlock``."""
        return torch.addmv(self.offsets, self.rows, w)

    def gradient(self, u: Tensor) -> Tensor:
        """(d,) of the mean loss at scores u."""
        return torch.mv(self.rows.T, self.loss.slopes(u)).div_(len(self.rows))

    def curvatures_along(self, step: Tensor, u: Tensor) -> Tensor:
        """(2,) of the mean loss along a step, at scores u and at zero weights."""
        there = torch.dot(self.loss.curvatures(u), torch.mv(self.rows, step).square()) / len(self.rows)
        return torch.stack([there, torch.dot(step, torch.mv(self.curvature, step))])


class QueryFits:
    """Fits subsets one at a time.

    Parameters
    ----------
    rows : per task its training rows, float32; None for a task without any.
    """

    def __init__(self, rows: Sequence[TaskRows | None]) -> None:
        self._rows = rows
        self._tasks: dict[int, _Task] = {}

    def suits(self, subset: Sequence[int]) -> bool:
        """Whether the tasks have rows enough for a matrix of curvature each to pay."""
        rows = [self._rows[task] for task in subset]
        return all(own is not None and own.features.shape[1] <= 2 * len(own) for own in rows)

    @torch.no_grad()
    def fit(self, subset: Sequence[int], l2: float, start: Tensor | None = None) -> Tensor | None:
        """(d,) minimiser of the mean over the subset's tasks of their mean losses plus (l2/2)‖w‖², to the tolerance of
        ``solve_subsets``; None where it did not settle down, which that function is the better tool for.

        Parameters
        ----------
        start : (d,) where to begin, such as the minimiser for another penalty.
        """
        with full_precision():
            tasks = [self._task(task) for task in subset]
            curvature = tasks[0].curvature.clone()
            for task in tasks[1:]:
                curvature += task.curvature
            curvature /= len(tasks)
            curvature.diagonal().add_(l2)
            factor, failed = torch.linalg.cholesky_ex(curvature)
            w = curvature.new_zeros(len(curvature)) if start is None else start
            return None if int(failed) else self._descend(tasks, l2, factor, w)

    def _task(self, task: int) -> _Task:
        if task not in self._tasks:
            own = self._rows[task]
            assert own is not None, "checked by the caller"
            self._tasks[task] = _Task.of(own)
        return self._tasks[task]

    def _descend(self, tasks: Sequence[_Task], l2: float, factor: Tensor, w: Tensor) -> Tensor | None:
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        step = before = torch.empty(0)
        length = float("inf")
        for passes in range(_PASSES):
            scores = [task.scores(w) for task in tasks]
            parts = [task.gradient(u) for task, u in zip(tasks, scores, strict=True)]
            gradient = torch.stack(parts).mean(dim=0).add_(w, alpha=l2)
            if passes:
                change = gradient - before
                product = torch.dot(step, change)
                if product > 0:
                    pairs.append((step, change, 1 / product))
            step = _direction(gradient, pairs, factor)
            before, last = gradient, length
            length = float(step.abs().max())
            w = w + step
            goal = TOLERANCE[w.dtype] * float(w.abs().max())
            # So short a step is nearly rounding, whatever came before.
            near = length <= 0.1 * goal
            if not near and not length <= _GROWTH * last:
                return None
            # Steps shrink about geometrically: what remains is the rest of the series, but luck is not counted on.
            ratio = max(length / last, 0.1)
            if length == 0 or (passes and (near or (ratio < 1 and length * ratio / (1 - ratio) <= goal))):
                along = [task.curvatures_along(step, u) for task, u in zip(tasks, scores, strict=True)]
                there, start = (torch.stack(along).mean(dim=0) + l2 * torch.dot(step, step)).tolist()
                return w if _ALIKE * there >= start else None
        return None


def _direction(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], factor: Tensor) -> Tensor:
    """−(inverse Hessian)·gradient by the two-loop recursion."""
    q, parts = gradient.clone(), []
    for change, slope, inverse in reversed(pairs):
        parts.append(inverse * torch.dot(change, q))
        q.sub_(parts[-1] * slope)
    r = torch.cholesky_solve(q[:, None], factor)[:, 0]
    for (change, slope, inverse), part in zip(pairs, reversed(parts), strict=True):
        r.add_((part - inverse * torch.dot(slope, r)) * change)
    return r.neg_()
