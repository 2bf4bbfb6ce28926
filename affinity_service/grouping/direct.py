"""Groups chosen by the predicted losses of the groups themselves, not by averages over pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Predicted losses of M subsets, one array per subset in the order of its tasks.
Predict = Callable[[list[tuple[int, ...]]], Sequence[NDArray[np.float64]]]
# An improvement smaller than this is rounding.
_LEAST = 1e-9
# Groups whose losses are predicted, at most: some minutes of estimates.
MOST = 5000


@dataclass(frozen=True)
class DirectGroups:
    """groups : k lists of tasks. loss : mean predicted loss over all tasks. start_loss : of the start. evaluated : how
    many different groups were asked for."""

    groups: list[list[int]]
    loss: float
    start_loss: float
    evaluated: int


def descend(predict: Predict, start: Sequence[Sequence[int]], most: int = MOST) -> DirectGroups:
    """Local descent on the mean predicted loss over all tasks: the best move of one task into another group, or the
    best swap of two, until none helps or the next look would ask for more than `most` groups in all. The number of
    groups stays.

    Parameters
    ----------
    start : a partition of the tasks, such as the clusters of the pairwise matrix.
    """
    groups = [tuple(sorted(group)) for group in start]
    known: dict[tuple[int, ...], float] = {}

    def total(needed: Sequence[tuple[int, ...]]) -> None:
        missing = [group for group in dict.fromkeys(needed) if group not in known]
        if missing:
            known.update({g: float(np.sum(losses)) for g, losses in zip(missing, predict(missing), strict=True)})

    total(groups)
    tasks = sum(len(group) for group in groups)
    first = sum(known[group] for group in groups)
    while True:
        # Moves first: they are few, and swaps are tried only where no move helps.
        change = None
        for candidates in (_moves(groups), _swaps(groups)):
            if len({group for _, pair in candidates for group in pair} - set(known)) + len(known) > most:
                break
            total([group for _, pair in candidates for group in pair])
            gains = [
                sum(known[groups[i]] for i in places) - sum(known[group] for group in pair)
                for places, pair in candidates
            ]
            if gains and max(gains) > _LEAST:
                change = candidates[int(np.argmax(gains))]
                break
        if change is None:
            break
        for place, group in zip(*change, strict=True):
            groups[place] = group
    last = sum(known[group] for group in groups)
    ordered = sorted((list(group) for group in groups), key=lambda group: group[0])
    return DirectGroups(ordered, last / tasks, first / tasks, len(known))


Change = tuple[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]]


def _moves(groups: Sequence[tuple[int, ...]]) -> list[Change]:
    """Every move of a task out of a group of at least two: the two places, and what stands there afterwards."""
    return [
        ((a, b), (tuple(t for t in groups[a] if t != task), tuple(sorted((*groups[b], task)))))
        for a in range(len(groups))
        if len(groups[a]) > 1
        for task in groups[a]
        for b in range(len(groups))
        if b != a
    ]


def _swaps(groups: Sequence[tuple[int, ...]]) -> list[Change]:
    return [
        (
            (a, b),
            (
                tuple(sorted([t for t in groups[a] if t != one] + [other])),
                tuple(sorted([t for t in groups[b] if t != other] + [one])),
            ),
        )
        for a in range(len(groups))
        for b in range(a + 1, len(groups))
        for one in groups[a]
        for other in groups[b]
    ]
