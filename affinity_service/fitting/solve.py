"""Fits of all subsets: minimise, per subset, the mean over its tasks of their mean losses plus the penalty."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.fitting.blocks import LOSSES, build_blocks
from affinity_service.fitting.curvature import TaskModels, reference_point
from affinity_service.fitting.descent import Descent, Outcome
from affinity_service.fitting.newton import newton_fit
from affinity_service.fitting.problem import Array, Members, Rows, check_l2, check_rows, check_subsets
from affinity_service.fitting.products import full_precision

# Estimated errors of the weights at which the passes end. What single precision could not finish is hard enough for
# estimates to be deceived, and double precision has digits to spare.
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-7}
DEFAULT_MEMORY = 256 << 20
Precision = Literal["auto", "mixed", "double"]
_PASSES = {torch.float32: 120, torch.float64: 200}
_LARGEST_TILE = 2048
# Multiplications of one pass up to which double precision is not felt.
_SMALL_WORK = 1e8


@dataclass(frozen=True)
class FitResult:
    """Fits of M subsets, arrays of the caller's kind.

    weights (M, d) in the floating type of the features; iterations (M,) passes over the examples; converged (M,) bool;
    gradient_norm (M,) at the last point where it was measured, one short step before the weights; objective (M,).
    """

    weights: Any
    iterations: Any
    converged: Any
    gradient_norm: Any
    objective: Any


def fit_subsets(
    features: Array,
    margins: Array,
    targets: Array,
    task_of_row: Array,
    subsets: Iterable[Iterable[int]],
    l2: float | Sequence[float] | Array,
    *,
    kinds: Sequence[str] | None = None,
    precision: Precision = "auto",
    memory_bytes: int = DEFAULT_MEMORY,
) -> Any:
    """The minimisers of all subsets' objectives, as an array (M, d) of the caller's kind and floating type.

    The objective of subset S is the mean over its tasks t of [the mean over t's rows of
    loss_t(margin + features·w, target)] + (l2/2)‖w‖², without an intercept. A logistic task has loss
    log(1 + exp(−(2·target − 1)·z)), a squared one (z − target)²/2; a subset may mix both.

    Args:
        features: (N, d) gradient features of the examples.
        margins: (N,) offsets: logits (or, for squared tasks, predictions) of the base model.
        targets: (N,) 0 or 1; any number for squared tasks.
        task_of_row: (N,) task number of each row, in any order.
        subsets: M collections of distinct task numbers.
        l2: positive penalty, one number or one per subset.
        kinds: "logistic" or "squared" per task; all logistic by default.
        precision: "mixed" computes in float32 and repeats in float64 what rounding kept from converging; "double"
            computes everything in float64; "auto" is "double" for problems so small that it costs nothing.
        memory_bytes: rough bound on the working memory beside two copies of the features; larger designs run in tiles.

    Returns:
        NumPy in, NumPy out; torch in, torch on the same device out. Weights agree with exact ones to about 1e-5 and
        at worst 1e-4 of the largest weight of the subset. They do not depend on the order of rows or tasks, nor,
        beyond that tolerance, on the other subsets.

    Raises:
        UserError: on shapes that do not match, NaN or infinite values (with row and column), logistic targets other
            than 0 and 1, unknown, repeated or empty tasks, empty subsets, l2 ≤ 0, and fits that did not converge.

    Source: Grad-TAG, arXiv 2409.06091, section 3 (the fit on projected gradients; offset and equal weights per task
    as in its derivation).
    """
    result = solve_subsets(
        features, margins, targets, task_of_row, subsets, l2,
        kinds=kinds, precision=precision, memory_bytes=memory_bytes,
    )  # fmt: skip
    failed = torch.nonzero(~torch.as_tensor(result.converged)).flatten().tolist()
    if failed:
        raise UserError(
            f"{len(failed)} of {len(result.converged)} fits did not converge, the first for subset {failed[0]}; "
            "raise l2 or scale the features to unit size (solve_subsets returns what was reached)"
        )
    return result.weights


def solve_subsets(
    features: Array,
    margins: Array,
    targets: Array,
    task_of_row: Array,
    subsets: Iterable[Iterable[int]],
    l2: float | Sequence[float] | Array,
    *,
    kinds: Sequence[str] | None = None,
    precision: Precision = "auto",
    memory_bytes: int = DEFAULT_MEMORY,
) -> FitResult:
    """Like `fit_subsets`, with iterations, convergence and objective per subset instead of an error.

    What does not converge in float32 is tried in float64, then by Newton's method; `converged` is false only where all
    three gave up. Arguments and other errors are those of `fit_subsets`. Source: arXiv 2409.06091, section 3.
    """
    rows = check_rows(features, margins, targets, task_of_row, kinds)
    members = check_subsets(subsets, rows.task, rows.n_tasks)
    penalties = check_l2(l2, len(members)).to(rows.features.device)
    if precision not in ("auto", "mixed", "double"):
        raise UserError(f"precision is {precision!r}; 'auto', 'mixed' or 'double' is expected")
    with torch.no_grad(), full_precision():
        outcome = _solve(rows, members, penalties, precision, memory_bytes)
    weights = outcome.weights.to(rows.features.dtype)
    parts = (weights, outcome.iterations, outcome.converged, outcome.gradient_norm, outcome.objective)
    if isinstance(features, Tensor):
        return FitResult(*parts)
    return FitResult(*(part.cpu().numpy() for part in parts))


def _solve(rows: Rows, members: Members, l2: Tensor, precision: str, memory_bytes: int) -> Outcome:
    m, d = len(members), rows.features.shape[1]
    if m == 0 or d == 0:
        return _trivial(rows, members, l2)
    work = d * int(torch.bincount(rows.task.cpu(), minlength=rows.n_tasks)[members.task].sum())
    double = precision == "double" or (precision == "auto" and work <= _SMALL_WORK)
    first = torch.float64 if double else torch.float32
    outcome = _descend(rows, members, l2, first, memory_bytes, None)
    failed = torch.nonzero(~outcome.converged).flatten()
    if len(failed) and first == torch.float32:
        start = outcome.weights[failed]
        retried = _descend(rows, members.take(failed.cpu()), l2[failed], torch.float64, memory_bytes, start)
        _merge(outcome, retried, failed)
        failed = failed[~retried.converged]
    for number in failed.tolist():
        index = torch.tensor([number])
        fit = newton_fit(rows, members.take(index).task.tolist(), float(l2[number]), outcome.weights[number])
        _merge(outcome, fit, index.to(failed.device))
    return outcome


def _descend(
    rows: Rows, members: Members, l2: Tensor, dtype: torch.dtype, memory_bytes: int, start: Tensor | None
) -> Outcome:
    """All subsets in one precision, a tile at a time."""
    used = torch.unique(members.task).tolist()
    blocks = build_blocks(rows, used, dtype)
    squared = torch.tensor([kind == "squared" for kind in rows.kinds])
    exact = torch.ones(len(members), dtype=torch.bool)
    exact[members.subset[~squared[members.task]]] = False
    penalty = float(l2.median())
    models = TaskModels(blocks, *reference_point(blocks, penalty), penalty, bool(exact.any()))
    # Weights that move no logit by more than a hundred-thousandth are as good as zero.
    total = sum(float(torch.linalg.vector_norm(block.rows)) ** 2 for block in blocks)
    mean_square = total / sum(block.rows.numel() for block in blocks)
    smallest = 1e-5 / mean_square**0.5 if mean_square > 0 else 1.0
    descent = Descent(blocks, models, TOLERANCE[dtype], smallest, _PASSES[dtype])
    tile = _tile_size(members, rows.features.shape[1], dtype, memory_bytes)
    outcomes = []
    for begin in range(0, len(members), tile):
        part = torch.arange(begin, min(begin + tile, len(members)))
        place = part.to(l2.device)
        outcome = descent.run(
            members.take(part),
            l2[place].to(dtype),
            exact[part].to(l2.device),
            None if start is None else start[place].to(dtype),
        )
        outcomes.append(outcome)
    names = list(vars(outcomes[0]))
    return Outcome(*(torch.cat([getattr(outcome, name) for outcome in outcomes]) for name in names))


def _tile_size(members: Members, d: int, dtype: torch.dtype, memory_bytes: int) -> int:
    """Subsets whose pairs, vectors and stacked weights stay within the budget."""
    vectors = 32 + 3 * float(members.size.double().mean())
    each = vectors * d * torch.finfo(dtype).bits / 8
    return int(min(_LARGEST_TILE, max(16, memory_bytes / each)))


def _merge(outcome: Outcome, other: Outcome, where: Tensor) -> None:
    dtype = torch.promote_types(outcome.weights.dtype, other.weights.dtype)
    for name in ("weights", "gradient_norm", "objective"):
        merged = getattr(outcome, name).to(dtype)
        merged[where] = getattr(other, name).to(dtype)
        setattr(outcome, name, merged)
    outcome.iterations[where] += other.iterations
    outcome.converged[where] = other.converged


def _trivial(rows: Rows, members: Members, l2: Tensor) -> Outcome:
    """No subsets or no dimensions: nothing to fit, but the objective is that of the margins."""
    m, device = len(members), rows.features.device
    zeros = torch.zeros(m, dtype=torch.float64, device=device)
    objective = zeros.clone()
    for number in range(m):
        tasks = members.task[members.subset == number].tolist()
        blocks = build_blocks(rows, tasks, torch.float64)
        total = [LOSSES[block.kind].values(block.offsets).sum(-1) / block.counts for block in blocks]
        objective[number] = torch.cat(total).mean()
    return Outcome(
        rows.features.new_zeros((m, rows.features.shape[1])),
        torch.zeros(m, dtype=torch.int64, device=device),
        torch.ones(m, dtype=torch.bool, device=device),
        zeros,
        objective,
    )
