"""The affinity matrix: what training with a source does to the loss of a receiver, with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from affinity_service.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AffinityMatrix:
    """Rows receive, columns give. All values are negated validation losses (nats, or squared standard deviations
    of a regression target over two): higher is better.

    Attributes
    ----------
    names : T task names.
    affinity : (T, T). Off the diagonal the mean of −f_i(S) over the sampled subsets S of three or more tasks with
        i and j in them (Grad-TAG, arXiv 2409.06091, §2), or the pair's own estimate where no such subset was
        sampled. On the diagonal −f_i({i}), the task alone.
    standard_error : (T, T). Off the diagonal that of the mean over subsets. That of the mean over validation examples
        on the diagonal and for pairs without subsets, which are single fits, and for all where no pair has two
        subsets, whose spread would tell the other.
    subsets : (T, T) counts of the subsets averaged.
    pair_estimate : (T, T) −f_i({i, j}), and −f_i({i}) on the diagonal.
    example_error : (T, T) of the affinity against the receiver's average partner: how much it would differ on other
        validation examples (bootstrap); zeros where an estimator has no examples to draw again.
    """

    names: tuple[str, ...]
    affinity: Floats
    standard_error: Floats
    subsets: NDArray[np.int64]
    pair_estimate: Floats
    example_error: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if self.example_error.shape != self.affinity.shape:
            object.__setattr__(self, "example_error", np.zeros_like(self.affinity))

    def contrast_error(self) -> Floats:
        """(T, T) standard error of affinity against the receiver's average partner, from both sources."""
        return np.hypot(self.standard_error, self.example_error)

    def gains(self) -> Floats:
        """(T, T) affinity minus the receiver's diagonal: by how much company lowers its loss; 0 on the diagonal."""
        return self.affinity - np.diag(self.affinity)[:, None]

    def scaled(self, factor: float) -> AffinityMatrix:
        """The same in another unit."""
        parts = ("affinity", "standard_error", "pair_estimate", "example_error")
        return replace(self, **{name: factor * getattr(self, name) for name in parts})

    def to_pandas(self) -> pd.DataFrame:
        """A receiver × source table of affinities; the standard errors, the same shape, in ``attrs``."""
        table = self._frame(self.affinity)
        table.attrs["standard_error"] = self._frame(self.standard_error)
        return table

    def _frame(self, values: Floats) -> pd.DataFrame:
        receiver, source = (pd.Index(self.names, name=name) for name in ("receiver", "source"))
        return pd.DataFrame(values, index=receiver, columns=source)

    def to_table(self) -> pa.Table:
        """One row per ordered pair."""
        receiver, source = np.indices(self.affinity.shape).reshape(2, -1)
        names = np.array(self.names, dtype=object)
        return pa.table(
            {
                "receiver": pa.array(names[receiver], pa.string()),
                "source": pa.array(names[source], pa.string()),
                "affinity": self.affinity.ravel(),
                "standard_error": self.standard_error.ravel(),
                "subsets": self.subsets.ravel(),
                "pair_estimate": self.pair_estimate.ravel(),
                "example_error": self.example_error.ravel(),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table, names: Sequence[str]) -> AffinityMatrix:
        """The inverse of ``to_table`` for rows in its order.

        Raises
        ------
        UserError
            The rows are not the pairs of these tasks in this order.
        """
        shape = (len(names), len(names))
        receivers, sources = table["receiver"].to_pylist(), table["source"].to_pylist()
        if receivers != [name for name in names for _ in names] or sources != list(names) * len(names):
            found = list(dict.fromkeys(receivers))
            shown = ", ".join(f"`{name}`" for name in found[:5]) + (", …" if len(found) > 5 else "")
            raise UserError(f"the matrix is of other tasks ({shown}); `affinity run` renews it")
        columns = [table[n].to_numpy().reshape(shape) for n in table.column_names[2:]]
        return cls(tuple(names), *columns)


def matrix_from_estimates(
    names: Sequence[str], subsets: Sequence[Sequence[int]], losses: Sequence[Floats], errors: Sequence[Floats]
) -> AffinityMatrix:
    """Average predicted losses of subsets into the matrix.

    Parameters
    ----------
    subsets : M tuples of tasks; all T singles must be among them and, unless larger subsets cover it, every pair.
    losses, errors : per subset, the predicted loss of each member and its standard error over examples.
    """
    tasks = len(names)
    total, squares, total_error, pair, single_error = (np.zeros((tasks, tasks)) for _ in range(5))
    counts = np.zeros((tasks, tasks), np.int64)
    pair[:] = np.nan
    for subset, loss, error in zip(subsets, losses, errors, strict=True):
        members = np.asarray(subset)
        block = np.ix_(members, members)
        if len(members) > 2:
            total[block] += loss[:, None]
            squares[block] += np.square(loss)[:, None]
            total_error[block] += error[:, None]
            counts[block] += 1
        elif len(members) == 2:
            i, j = members
            pair[i, j], pair[j, i] = loss
            single_error[i, j], single_error[j, i] = error
        else:
            pair[members[0], members[0]], single_error[members[0], members[0]] = loss[0], error[0]
    diagonal = np.eye(tasks, dtype=bool)
    counts[diagonal] = 1
    covered = (counts > 0) & ~diagonal
    mean = np.divide(total, counts, out=pair.copy(), where=covered)
    variance = np.divide(squares - counts * mean**2, np.maximum(counts - 1, 1), out=np.zeros_like(mean), where=covered)
    if (counts[covered] > 1).any():
        deviation = _with_pooled(np.sqrt(np.maximum(variance, 0)), counts, covered)
        error = np.where(covered, deviation / np.sqrt(np.maximum(counts, 1)), single_error)
    else:
        error = np.where(covered, total_error, single_error)
    assert np.isfinite(mean).all(), "a single or an uncovered pair was not estimated"
    return AffinityMatrix(tuple(names), -mean, error, counts, -np.where(np.isnan(pair), mean, pair))


def _with_pooled(deviation: Floats, counts: NDArray[np.int64], covered: NDArray[np.bool_]) -> Floats:
    """One subset says nothing about its spread: take the receiver's pooled deviation, or else everyone's.

    At least one pair must have several subsets.
    """
    several = covered & (counts > 1)
    weight = np.where(several, counts - 1, 0)
    square = weight * deviation**2
    everyone = square.sum() / weight.sum()
    pooled = np.divide(
        square.sum(axis=1),
        weight.sum(axis=1),
        out=np.full(len(counts), everyone),
        where=weight.sum(axis=1) > 0,
    )
    return np.where(several, deviation, np.sqrt(pooled)[:, None])
