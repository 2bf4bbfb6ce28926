"""Losses that fitted subsets predict on other examples."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.fitting.blocks import LOSSES, TaskBlock, build_blocks, work_size
from affinity_service.fitting.layout import Layout
from affinity_service.fitting.problem import Array, as_tensor, check_finite, check_rows, check_subsets
from affinity_service.fitting.products import full_precision

_TILE = 2048


class PredictedLosses(NamedTuple):
    """One entry per (subset, task in it), in the order of the subsets and of the tasks within them.

    subset, task: integers; loss: mean over the examples of the task; standard_error: of that mean, the standard
    deviation over examples / √n (NaN for a task with a single example). Arrays of the caller's kind.
    """

    subset: Any
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
    kinds: Sequence[str] | None = None,
) -> PredictedLosses:
    """Mean loss of every task of every subset at margins + features·weights, for instance on validation examples.

    Args:
        features: (N, d); margins: (N,); targets: (N,); task_of_row: (N,); subsets and kinds: as in `fit_subsets`.
        weights: (M, d), one row per subset.

    Returns:
        Losses in nats (½ squared error for squared tasks), with standard errors over examples.

    Raises:
        UserError: on wrong shapes, values that are not finite, and subsets with unknown or empty tasks.

    Source: Grad-TAG, arXiv 2409.06091, section 3: the linearised estimate of f_i(S).
    """
    rows = check_rows(features, margins, targets, task_of_row, kinds)
    members = check_subsets(subsets, rows.task, rows.n_tasks)
    w = as_tensor(weights, "weights").to(rows.features.device)
    if w.shape != (len(members), rows.features.shape[1]):
        raise UserError(
            f"weights has shape {tuple(w.shape)}; {len(members)} subsets of {rows.features.shape[1]} "
            f"dimensions make ({len(members)}, {rows.features.shape[1]})"
        )
    check_finite(w, "weights")
    dtype = torch.promote_types(w.dtype, rows.features.dtype)
    loss, error = w.new_empty(len(members.task), dtype=dtype), w.new_empty(len(members.task), dtype=dtype)
    with torch.no_grad(), full_precision():
        blocks = build_blocks(rows, torch.unique(members.task).tolist(), dtype)
        ends = torch.cumsum(members.size, 0)
        for begin in range(0, len(members), _TILE):
            part = torch.arange(begin, min(begin + _TILE, len(members)))
            layout = Layout(blocks, members.take(part), w.device)
            pairs = slice(int(ends[begin] - members.size[begin]), int(ends[part[-1]]))
            loss[pairs], error[pairs] = _losses(blocks, layout, w[begin : begin + len(part)].to(dtype))
    parts = (members.subset, members.task, loss, error)
    if isinstance(features, Tensor):
        return PredictedLosses(*(part.to(features.device) for part in parts))
    return PredictedLosses(*(part.cpu().numpy() for part in parts))


def _losses(blocks: Sequence[TaskBlock], layout: Layout, w: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard errors of the pairs of a layout."""
    means, errors = [], []
    for part in layout.stack(w).blocks:
        block, x = blocks[part.number], part.x
        step = max(1, work_size(w.device) // max(1, block.rows.shape[0] * block.rows.shape[1]))
        moments = [_moments(block, x[:, i : i + step]) for i in range(0, x.shape[1], step)]
        means.append(torch.cat([mean for mean, _ in moments], 1).flatten())
        errors.append(torch.cat([error for _, error in moments], 1).flatten())
    return torch.cat(means)[layout.slot], torch.cat(errors)[layout.slot]


def _moments(block: TaskBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    losses = LOSSES[block.kind].values(block.scores(x))
    counts = block.counts[:, None]
    if block.padded:
        real = torch.arange(losses.shape[2], device=x.device) < block.counts[:, None, None]
        losses = torch.where(real, losses, 0)
    mean = losses.sum(-1) / counts
    deviations = losses.sub_(mean[:, :, None])
    if block.padded:
        deviations = torch.where(real, deviations, 0)
    variance = deviations.square_().sum(-1) / (counts - 1)
    return mean, (variance / counts).sqrt()
