"""Groups chosen by the predicted losses of the groups themselves, not by averages over pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affinity_service.deadline import check_deadline
from affinity_service.grouping.constraints import UNCONSTRAINED, Constraints, Rules

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


def descend(
    predict: Predict,
    start: Sequence[Sequence[int]],
    most: int = MOST,
    constraints: Constraints = UNCONSTRAINED,
) -> DirectGroups:
    """Local descent on the mean predicted loss over all tasks: the best move of one task into another group, or the
    best swap of two, until none helps or the next look would ask for more than `most` groups in all. The number of
    groups stays.

    Parameters
    ----------
    start : a partition of the tasks, such as the clusters of the pairwise matrix.
    constraints : kept by the start, and then by every change.
    """
    groups = [tuple(sorted(group)) for group in start]
    known: dict[tuple[int, ...], float] = {}

    def total(needed: Sequence[tuple[int, ...]]) -> None:
        missing = [group for group in dict.fromkeys(needed) if group not in known]
        if missing:
            # What is predicted to diverge is worse than anything.
            sums = [float(np.nan_to_num(np.sum(losses), nan=np.inf)) for losses in predict(missing)]
            known.update(zip(missing, sums, strict=True))

    total(groups)
    tasks = sum(len(group) for group in groups)
    atom_of = Rules(constraints, tasks).atom_of
    # Tasks that belong together move together.
    block_of = [tuple(np.flatnonzero(atom_of == atom).tolist()) for atom in atom_of]
    first = sum(known[group] for group in groups)
    while True:
        # Moves first: they are few, and swaps are tried only where no move helps.
        change = None
        for changes in (_moves(groups, block_of), _swaps(groups, block_of)):
            candidates = [change for change in changes if _keeps(constraints, change)]
            if len({group for _, pair in candidates for group in pair} - set(known)) + len(known) > most:
                break
            total([group for _, pair in candidates for group in pair])
            gains = [
                np.nan_to_num(sum(known[groups[i]] for i in places) - sum(known[group] for group in pair), nan=-np.inf)
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


Network = tuple[int, ...]
Change = tuple[tuple[int, int], tuple[Network, Network]]


def _keeps(constraints: Constraints, change: Change) -> bool:
    # Of many tasks there are so many swaps that looking at all of them takes its time.
    check_deadline()
    return constraints.keeps(change[1])


def _moves(groups: Sequence[Network], block_of: Sequence[Network]) -> list[Change]:
    """Every move of a block out of a group that it is not all of: the two places, and what stands there afterwards."""
    return [
        ((a, b), (_without(groups[a], block), _with(groups[b], block)))
        for a in range(len(groups))
        for block in _blocks(groups[a], block_of)
        if len(block) < len(groups[a])
        for b in range(len(groups))
        if b != a
    ]


def _swaps(groups: Sequence[Network], block_of: Sequence[Network]) -> list[Change]:
    return [
        ((a, b), (_with(_without(groups[a], one), other), _with(_without(groups[b], other), one)))
        for a in range(len(groups))
        for b in range(a + 1, len(groups))
        for one in _blocks(groups[a], block_of)
        for other in _blocks(groups[b], block_of)
    ]


def _blocks(group: Network, block_of: Sequence[Network]) -> list[Network]:
    return list(dict.fromkeys(block_of[task] for task in group))


def _without(group: Network, block: Network) -> Network:
    return tuple(task for task in group if task not in block)


def _with(group: Network, block: Network) -> Network:
    return tuple(sorted((*group, *block)))
