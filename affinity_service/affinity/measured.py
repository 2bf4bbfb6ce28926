"""From the history of a joint training's measurements to the affinity matrix (TAG, arXiv 2109.04617, §3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.errors import UserError

Floats = NDArray[np.float64]
# Neighbouring measurements resemble each other; means of so many stretches hardly do.
_STRETCHES = 10


def history_of(table: pa.Table, measure: str, tasks: int) -> Floats:
    """(measurements, T, T) one measure, receiver by source, NaN where a batch had no examples of one of them."""
    values = table[measure].combine_chunks()
    if values.null_count:
        raise UserError(f"{measure} was not measured in this training; `affinity run` with this estimator measures it")
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(table), tasks, tasks)


def inside_window(table: pa.Table, best_epoch: int, window: tuple[float, float]) -> NDArray[np.bool_]:
    """(measurements,) which lie in the window: parts of the steps up to the end of the best epoch (from 0), after which
    a training overfits."""
    step, epoch = table["step"].to_numpy(), table["epoch"].to_numpy()
    until = step[epoch <= best_epoch]
    last = until.max(initial=0)
    return (epoch <= best_epoch) & (step >= window[0] * last) & (step <= window[1] * last)


def average_history(names: Sequence[str], history: Floats) -> AffinityMatrix:
    """Means over the measurements, with standard errors over stretches of them (batch means, Flegal & Jones 2010).

    Entry (receiver, source) is in units of the measure: the part of the receiver's loss that one step for the source
    takes away, or a cosine. The diagonal is what a task does for itself.

    Raises
    ------
    UserError
        A pair that no measured batch had examples of.
    """
    known = np.isfinite(history)
    counts = known.sum(axis=0)
    if not counts.all():
        receiver, source = (int(each[0]) for each in np.nonzero(counts == 0))
        missing = [name for name, own in zip(names, np.diag(counts), strict=True) if own == 0]
        who = f"task `{missing[0]}`" if missing else f"the pair `{names[receiver]}`, `{names[source]}`"
        raise UserError(
            f"{who} has no examples in any of the {len(history)} batches that were measured: raise base.batch_size or "
            "lower measure.every"
        )
    mean = np.where(known, history, 0.0).sum(axis=0) / counts
    return AffinityMatrix(tuple(names), mean, _errors(history, mean, counts), counts.astype(np.int64), mean.copy())


def _errors(history: Floats, mean: Floats, counts: NDArray[np.int_]) -> Floats:
    """(T, T) standard errors; where a pair was measured once, what the measurements of all pairs say on average."""
    stretches = np.array_split(history, min(len(history), _STRETCHES))
    square, number = np.zeros_like(mean), np.zeros_like(mean)
    for part in stretches:
        known = np.isfinite(part)
        own = known.sum(axis=0)
        deviation = np.where(known, part - mean, 0.0).sum(axis=0)
        # A stretch counts by its measurements.
        square += np.where(own > 0, deviation**2 / np.maximum(own, 1), 0.0)
        number += own > 0
    variance = np.divide(square, number - 1, out=np.full_like(mean, np.nan), where=number > 1)
    typical = float(np.nanmean(variance)) if np.isfinite(variance).any() else 0.0
    return np.sqrt(np.where(np.isfinite(variance), variance, typical) / counts)


def group_scores(matrix: Floats, subsets: Sequence[Sequence[int]]) -> list[Floats]:
    """Per subset the score of each member: the mean affinity of its mates, and its own for a task alone (§3.2)."""
    scores = []
    for subset in subsets:
        block = matrix[np.ix_(list(subset), list(subset))]
        own, size = np.diag(block), len(block)
        scores.append((block.sum(axis=1) - own) / (size - 1) if size > 1 else own)
    return scores


def losses_by_scores(matrix: Floats, base: Floats, subsets: Sequence[Sequence[int]], relative: bool) -> Floats:
    """(M, T) base losses lowered by the scores, NaN outside the subset: TAG says in which company a loss falls further,
    not how far, so only differences between subsets of a task mean anything.

    relative : scores are parts of the receiver's loss.
    """
    losses = np.full((len(subsets), len(base)), np.nan)
    for row, subset, scores in zip(losses, subsets, group_scores(matrix, subsets), strict=True):
        own = list(subset)
        row[own] = base[own] - scores * (base[own] if relative else 1.0)
    return losses
