"""Per-task means and second moments of the loss gradients, what every first step moves along.

From the factors of the gradients: no per-example gradient is formed for a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.gradients.batches import Gradients, PairBatch, diverged, pair_batches
from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.projection import chunks
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.tasks.suite import Suite


@dataclass(frozen=True)
class GradientSums:
    """Sums over some rows of one split, per task that occurs there.

    Attributes
    ----------
    tasks : K tasks, ascending.
    rows : (K,) rows of each.
    first : (K, p) float64, the sum of the loss gradients.
    second : (K, p) float64, the sum of their squares, entry by entry; None where nobody asks for it.
    """

    tasks: NDArray[np.int64]
    rows: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64] | None = None


def loss_slopes(margins: Tensor, target: Tensor, task: Tensor, suite: Suite) -> Tensor:
    """(B,) derivative of each pair's loss by its margin: σ(h) − y, or h − y for regression. What turns the gradient of
    a margin into that of the loss."""
    squared = torch.tensor([t.kind == "regression" for t in suite.tasks], device=task.device)[task]
    return torch.where(squared, margins, torch.sigmoid(margins)) - target


def gradient_sums(
    gradients: Gradients,
    space: WeightSpace,
    suite: Suite,
    example: NDArray[np.int64],
    task: NDArray[np.int32],
    batch_rows: int,
    squares: bool = True,
) -> GradientSums:
    """Sums over the pairs (example[i], task[i]), on the model's device in float32, across batches in float64.

    squares : whether those of the squares are wanted, too.

    Raises
    ------
    UserError
        A gradient is not finite: the base model diverged.
    """
    device = gradients.device
    present = np.unique(task)
    place = torch.zeros(len(suite.tasks), dtype=torch.long)
    place[torch.as_tensor(present, dtype=torch.long)] = torch.arange(len(present))
    place = place.to(device)
    # Of powers 1 and 2.
    totals = [torch.zeros(len(present), space.size, dtype=torch.float64, device=device) for _ in range(1 + squares)]
    for batch in pair_batches(gradients, suite, example, task, batch_rows):
        slopes = loss_slopes(batch.margins, batch.target, batch.task, suite).float()

        def add(block: GradientBlock, batch: PairBatch = batch, slopes: Tensor = slopes) -> None:
            if block.name not in space.slices:
                return
            own = batch.task if block.rows is None else batch.task[block.rows]
            slope = slopes if block.rows is None else slopes[block.rows]
            columns = space.slices[block.name]
            for one in own.unique().tolist():
                chosen = own == one
                for power, total in enumerate(totals, 1):
                    total[place[one], columns] += _product(block, slope, chosen, power)

        batch.each(add)
    finite = torch.stack([total.isfinite().all(dim=1) for total in totals]).all(dim=0)
    if not finite.all():
        raise diverged(suite, int(present[int((~finite).nonzero()[0])]), "at some example")
    counts = np.array([(task == one).sum() for one in present])
    return GradientSums(present.astype(np.int64), counts, *(total.cpu().numpy() for total in totals))


def _product(block: GradientBlock, slope: Tensor, chosen: Tensor, power: int) -> Tensor:
    """Σ over the chosen rows of (slope · left ⊗ right)^power, flat."""
    own = slope[chosen]
    if block.left.dim() == 3:
        # A power of a sum of outer products is none of them: the gradients are formed, a few rows at a time.
        right = None if block.right is None else block.right[chosen]
        part = GradientBlock(block.name, None, block.left[chosen] * own[:, None, None], right)
        return torch.cat([(values**power).sum(dim=0) for *_, values in chunks(part, 1)])
    left = (block.left[chosen] * own[:, None]) ** power
    if block.right is None:
        return left.sum(dim=0)
    return (left.T @ block.right[chosen] ** power).flatten()


@dataclass(frozen=True)
class GradientStatistics:
    """Means over whole splits.

    Attributes
    ----------
    mean, validation_mean : (T, p) float32, the gradient of each task's mean training and validation loss.
    square : (T, p) float32, the mean of the squared entries of the training rows' loss gradients.
    """

    mean: Tensor
    validation_mean: Tensor
    square: Tensor

    def to_tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).contiguous() for name in type(self).__dataclass_fields__}


def combine(training: Iterable[GradientSums], validation: Iterable[GradientSums], tasks: int) -> GradientStatistics:
    """Means from the sums of all pieces, added in the order given, so that they do not depend on who made them."""
    mean, square = _means(training, tasks, ("first", "second"))
    (validation_mean,) = _means(validation, tasks, ("first",))
    return GradientStatistics(mean, validation_mean, square)


def _means(pieces: Iterable[GradientSums], tasks: int, names: tuple[str, ...]) -> list[Tensor]:
    """Of each table (T, p) by name."""
    rows, totals = np.zeros(tasks), {name: np.zeros((tasks, 0)) for name in names}
    for piece in pieces:
        rows[piece.tasks] += piece.rows
        for name in names:
            sums = getattr(piece, name)
            if not totals[name].size:
                totals[name] = np.zeros((tasks, sums.shape[1]))
            totals[name][piece.tasks] += sums
        # The next one is read before this one would be forgotten.
        del piece, sums
    return [torch.from_numpy((totals.pop(name) / rows[:, None]).astype(np.float32)) for name in names]
