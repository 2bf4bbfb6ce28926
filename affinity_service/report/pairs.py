"""Which partners help or harm whom most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affinity_service.affinity.matrix import AffinityMatrix

TOP = 10


@dataclass(frozen=True)
class Pair:
    """An ordered pair. `gain` is its level; `relative` is the gain minus the receiver's mean gain over its partners."""

    receiver: str
    source: str
    gain: float
    relative: float
    error: float
    subsets: int
    together: bool


def levels(matrix: AffinityMatrix, measured: bool) -> NDArray[np.float64]:
    """(T, T) what an entry says by itself: the gain over the receiver alone, or the affinity as it was measured."""
    return matrix.affinity.copy() if measured else matrix.gains()


def relative_gains(matrix: AffinityMatrix) -> NDArray[np.float64]:
    """(T, T) gains minus the receiver's mean over its partners, T ≥ 2; NaN on the diagonal.

    What all partners do to a receiver alike says nothing about whom to choose, and a receiver with large losses
    would otherwise fill every list.
    """
    gains = matrix.gains()
    np.fill_diagonal(gains, np.nan)
    return gains - np.nanmean(gains, axis=1, keepdims=True)


def extreme_pairs(
    matrix: AffinityMatrix, group_of: Mapping[str, int], top: int = TOP, measured: bool = False
) -> tuple[list[Pair], list[Pair]]:
    """The pairs that stand out most above and below their receiver's average partner, most extreme first."""
    tasks = len(matrix.names)
    if tasks < 2:
        return [], []
    relative, gains = relative_gains(matrix), levels(matrix, measured)
    errors = matrix.contrast_error()
    receivers, sources = np.nonzero(~np.eye(tasks, dtype=bool))
    order = np.argsort(-relative[receivers, sources], kind="stable")

    def pair(index: int) -> Pair:
        i, j = receivers[index], sources[index]
        groups = [group_of.get(matrix.names[task]) for task in (i, j)]
        return Pair(
            receiver=matrix.names[i],
            source=matrix.names[j],
            gain=float(gains[i, j]),
            relative=float(relative[i, j]),
            error=float(errors[i, j]),
            subsets=int(matrix.subsets[i, j]),
            together=groups[0] is not None and groups[0] == groups[1],
        )

    above = [pair(i) for i in order[:top] if relative[receivers[i], sources[i]] > 0]
    below = [pair(i) for i in order[::-1][:top] if relative[receivers[i], sources[i]] < 0]
    return above, below
