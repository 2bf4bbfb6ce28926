"""The anchored path: what the run's own optimizer would do on each subset, in the model linearised at the base model.

The displacement w of a subset stays in the full weight space, so the optimizer's metric is exactly diagonal and its
own. Only the examples' margins pass through the basis B of the features: with coordinates c = Bᵀ(w/s) they are
h + Φc, and the gradient of the subset is its stored mean at the base model, exact, plus what the changed residuals add,
B Φᵀ Δr / s. Adam's second moment is fed with the square of that gradient and the variance that minibatches would add.
All subsets advance together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from affinity_service.deadline import check_deadline
from affinity_service.fitting.member_rows import MemberRows
from affinity_service.fitting.optimizers import UpdateRule
from affinity_service.fitting.products import full_precision
from affinity_service.fitting.subset_rows import SubsetRows
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights, Table
from affinity_service.fitting.task_rows import TaskRows

# In between two looks at the examples the gradient goes on changing as it did before them. How far that was off a look
# finds out, and strides are as long as margins are off by so much (root mean square over the subset's rows) at most:
# what is missed grows with the square of a stride and acts along its length, hence the power.
TOLERANCE, POWER = 3e-4, 1 / 3
# Nor may margins change by more than this, nor strides be longer, or grow faster, however little was missed.
LARGEST_CHANGE = 0.2
LONGEST_STRIDE = 50
GROWTH = 2
# So much of the change is carried on: all of it would swing back and forth where the curvature is large.
CARRIED = 0.7


@dataclass(frozen=True)
class Training:
    """The training that is imagined, per subset.

    batch_size : examples per step. steps : (M,) optimizer steps an epoch. examples : (M,) training examples with a
    label of the subset.
    """

    batch_size: int
    steps: Tensor
    examples: Tensor


def batch_variance(
    share: Tensor, sizes: Tensor, training: Training, mixed: Callable[[Tensor, Table], Tensor]
) -> Tensor:
    """(M, P) variance of a minibatch's gradient; the tasks' parts count as independent.

    Parameters
    ----------
    share : (M, T), 1/|S| for the tasks of a subset, else 0. sizes : (T,) training rows of each task.
    mixed : Σ_t of factors (M, T) times a table's rows, as ``SubsetWeights.mixed``.
    """
    examples = training.examples.to(share.device, share.dtype)
    square = share**2
    factors = square * (examples[:, None] / sizes.clamp(min=1))
    per_example = mixed(factors, "square") - mixed(square, "squared_mean")
    part = (1 - training.batch_size / examples).clamp(min=0) / training.batch_size
    return per_example.clamp_(min=0).mul_(part[:, None])


class Paths:
    """Follows many subsets from one base model.

    Parameters
    ----------
    rows : per task its training rows; None for a task that no subset names.
    """

    def __init__(self, rows: Sequence[TaskRows | None], anchor: Anchor, optimizer: UpdateRule) -> None:
        self.rows, self.anchor, self.optimizer = rows, anchor, optimizer
        self._base: dict[int, Tensor] = {}
        self._curvatures: dict[int, Tensor] = {}

    def base_slopes(self, task: int, rows: TaskRows) -> Tensor:
        """(n, 1) at the base model. Like the curvature computed when first asked for: a question names few of many
        tasks."""
        if task not in self._base:
            self._base[task] = rows.slopes(rows.margins[:, None])
        return self._base[task]

    def curvature(self, task: int, rows: TaskRows) -> Tensor:
        if task not in self._curvatures:
            self._curvatures[task] = _curvature(rows.features)
        return self._curvatures[task]

    @torch.no_grad()
    def run(
        self,
        layout: SubsetWeights,
        training: Training,
        epochs: int,
        on_epoch: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        """``on_epoch(epoch, w, c)`` is called after each, from 0, with displacements (M, P) and coordinates
        (M, d + S·h + m) of the layout's subsets, of which it must keep copies."""
        # Subsets with more steps an epoch first: those still at work are then always the first ones.
        order = sorted(range(len(layout.subsets)), key=lambda i: -int(training.steps[i]))
        back = torch.tensor(order).argsort()
        with full_precision():
            state = _State(self, layout.reordered(torch.tensor(order)), training, torch.tensor(order))
            for epoch in range(epochs):
                state.epoch()
                on_epoch(epoch, state.w[back], state.coordinates()[back])


class _State:
    def __init__(self, paths: Paths, layout: SubsetWeights, training: Training, order: Tensor) -> None:
        self.paths, self.layout = paths, layout
        alone = len(layout.subsets) == 1
        self.looks: _Alone | _Together = _Alone(paths, layout) if alone else _Together(paths, layout)
        anchor, device = paths.anchor, paths.anchor.weights.device
        count = len(layout.subsets)
        self.steps = training.steps[order].tolist()
        self.mean = layout.mixed(layout.share, "mean")
        # Weights that no example of the subset reaches, such as other tasks' heads: the basis would leak into them.
        self.reached = layout.mixed(layout.share, "square") > 0
        self.weights = layout.of(anchor.weights) * self.reached
        sizes = torch.tensor([0 if rows is None else len(rows) for rows in paths.rows], device=device)
        ordered = Training(training.batch_size, training.steps[order], training.examples[order])
        self.noise = batch_variance(layout.share, sizes, ordered, layout.mixed)
        self.w = torch.zeros(count, layout.width, device=device)
        self.moments = paths.optimizer.start(self.w)
        # As the optimizer takes them, since the last look at the examples, and what the gradient changes by per step.
        self.gradient, self.square = paths.optimizer.feed(torch.zeros_like(self.w), self.noise)
        self.drift = torch.zeros_like(self.w)
        # Steps until the next look at the examples, and from the last to that.
        self.left = [0] * count
        self.stride = [1] * count
        self.now: Tensor | None = None
        self.first = True

    def coordinates(self) -> Tensor:
        """(M, d + S·h + m) of all displacements as they are now; the next look often asks for the same again."""
        if self.now is None:
            self.now = self.layout.to_coordinates(self.w)
        return self.now

    def epoch(self) -> None:
        step = 0
        while step < self.steps[0]:
            check_deadline()
            active = sum(1 for own in self.steps if own > step)
            due = [i for i in range(active) if self.left[i] == 0]
            if due:
                self._look(due)
            part = slice(0, active)
            # Until one of them looks again or has come to the end of its epoch.
            count = min(*self.left[part], self.steps[active - 1] - step)
            self.paths.optimizer.step(
                self.w[part],
                self.weights[part],
                self.gradient[part],
                self.square[part],
                self.moments,
                part,
                count,
                self.drift[part],
            )
            self.now = None
            for i in range(active):
                self.left[i] -= count
            step += count

    def _look(self, due: list[int]) -> None:
        """New residuals, gradients and strides of some subsets."""
        if self.first:
            self._set_out()
            return
        everyone = len(due) == len(self.w)
        index = torch.tensor(due, device=self.w.device)
        if everyone or self.now is not None:
            c = self.coordinates() if everyone else self.coordinates()[index]
        else:
            c = self.layout.to_coordinates(self.w[index], index)
        total, moved = self.looks.sums(c, index, everyone)
        found = self.layout.to_gradient(total, None if everyone else index)
        part = slice(None) if everyone else index
        gradient = (self.mean[part] + found).mul_(self.reached[part])
        fed, square = self.paths.optimizer.feed(gradient, self.noise[part])
        del found, gradient
        stride = torch.tensor([self.stride[i] for i in due], device=fed.device)[:, None]
        # The gradient has drifted since the last look: what was missed comes on top.
        missed = fed - self.gradient[part]
        length = self.paths.optimizer.length
        changes = moved.sqrt()
        # What was missed now was on average missed by half in between.
        errors = changes * length(missed, square) / (2 * length(fed, square)).clamp(min=1e-30)
        drift = missed.div_(stride).add_(self.drift[part]).mul_(CARRIED)
        if everyone:
            self.gradient, self.square, self.drift = fed, square, drift
        else:
            self.gradient[index], self.square[index], self.drift[index] = fed, square, drift
        # Of its own alone: what a subset looks at depends on no other.
        for i, (change, error) in zip(due, torch.stack([changes, errors], dim=1).tolist(), strict=True):
            self.stride[i] = self.left[i] = _next_stride(self.stride[i], change, error)

    def _set_out(self) -> None:
        """The first look, of all subsets at the base model, where no residual has changed yet and which has nothing to
        compare with: one step, then the next look."""
        self.gradient, self.square = self.paths.optimizer.feed(self.mean * self.reached, self.noise)
        self.left = [1] * len(self.left)
        self.first = False


def _next_stride(last: int, change: float, error: float) -> int:
    """Optimizer steps until the next look, after a stride by which margins changed and were off by so much."""
    most: float = last * min(GROWTH, (TOLERANCE / error) ** POWER if error > 0 else GROWTH)
    if change > 0:
        most = min(most, last * LARGEST_CHANGE / change)
    return max(1, min(LONGEST_STRIDE, int(most)))


class _Together:
    """What many subsets see when they look at the examples, task by task."""

    def __init__(self, paths: Paths, layout: SubsetWeights) -> None:
        self.paths, self.layout, self.members = paths, layout, MemberRows(paths.rows, layout)
        device = layout.share.device
        # Coordinates at the last look; beside own means also every task's margins (n, k), once there was one.
        self.seen = torch.zeros(len(layout.subsets), layout.coordinates, device=device)
        self.margins: dict[int, Tensor] = {}

    def sums(self, c: Tensor, index: Tensor, everyone: bool) -> tuple[Tensor, Tensor]:
        """Of subsets in `index` (m,) at coordinates (m, …): (m, …) sums Φᵀr over their tasks' changed residuals, and
        (m,) mean squares of the changes of their margins since their last look, which this one now is."""
        count, device = len(self.layout.subsets), c.device
        place = torch.full((count,), -1, device=device)
        place[index] = torch.arange(len(index), device=device)
        change = c - (self.seen if everyone else self.seen[index])
        total = torch.zeros_like(c)
        moved = torch.zeros(len(index), device=device)
        for task in self.members.tasks:
            check_deadline()
            holders, slots = self.layout.holders(task)
            own = place[holders]
            chosen: Tensor | slice = slice(None)
            if not everyone:
                chosen = (own >= 0).nonzero()[:, 0]
                own, slots, holders = (x[chosen] for x in (own, slots, holders))
            if not len(own):
                continue
            rows, share = self.members.of(task), self.layout.share[holders, task]
            margins = self.members.margins(task, c, own, slots, chosen)
            slopes = rows.slopes(margins) - self.paths.base_slopes(task, rows)
            self.members.add_sums(total, task, own, slots, chosen, slopes, share / len(rows))
            if self.layout.means is None:
                changes = self.layout.of_task(change, own, slots)
                squares = _mean_square(self.paths.curvature(task, rows), changes)
            else:
                squares = self._changed(task, chosen, margins)
            moved.index_add_(0, own, squares * share)
        if everyone:
            self.seen = c
        else:
            self.seen[index] = c
        return total, moved

    def _changed(self, task: int, chosen: Tensor | slice, margins: Tensor) -> Tensor:
        """(k,) mean squares of the changes of margins (n, k) since the last look, which this one now is: features along
        its own means differ from subset to subset, no curvature is common to them."""
        if task not in self.margins:
            first = self.members.of(task).margins[:, None]
            self.margins[task] = first.expand(-1, len(self.layout.holders(task)[0])).clone()
        squares = (margins - self.margins[task][:, chosen]).square().mean(dim=0)
        self.margins[task][:, chosen] = margins
        return squares


class _Alone:
    """The same of one subset, all of its rows at once."""

    def __init__(self, paths: Paths, layout: SubsetWeights) -> None:
        self.rows = SubsetRows(paths.rows, layout)
        self.margins = self.rows.margins

    def sums(self, c: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        margins = self.rows.at(c[0])
        moved = self.rows.mean_square(margins - self.margins)
        self.margins = margins
        return self.rows.sums(margins)[None], moved[None]


def _curvature(features: Tensor) -> Tensor:
    """(d, d) mean outer product of the rows; the rows themselves (n, d) over √n where they are fewer."""
    n, d = features.shape
    return features / n**0.5 if d > n else features.T @ features / n


def _mean_square(curvature: Tensor, change: Tensor) -> Tensor:
    """(k,) mean square of the margins' changes under changes of coordinates (k, d)."""
    moved = change @ curvature.T
    return ((moved * change) if len(curvature) == change.shape[1] else moved.square()).sum(dim=1).clamp(min=0)
