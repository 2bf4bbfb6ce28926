"""Exact network selection by dynamic programming over the sets of tasks that groups serve.

An optimal selection hands every task to one group, so the served sets partition the tasks: the best total is
the best partition of all tasks into at most b served sets, each valued at the best group that contains it.
That is 3^T steps per group of the budget, whatever the scores; branch and bound over the 2^T − 1 groups
visits far more nodes.
"""

import numpy as np
from numpy.typing import NDArray

from affinity_service.deadline import check_deadline
from affinity_service.grouping.matrix import Floats


def mates_scores(affinity: Floats, alone: Floats) -> Floats:
    """(2^T, T) score of each task in each group: the mean affinity from its mates; −inf outside the group.

    Groups are bit masks: group m holds task a if bit a of m is set. Groups of one task score `alone`.
    """
    tasks = len(affinity)
    masks = np.arange(2**tasks)
    member = (masks[:, None] >> np.arange(tasks)) & 1 == 1
    size = member.sum(axis=1)
    given = member.astype(np.float64) @ (affinity - np.diag(np.diag(affinity))).T
    scores = np.where(member, given / np.maximum(size - 1, 1)[:, None], -np.inf)
    single = 2 ** np.arange(tasks)
    scores[single, np.arange(tasks)] = alone
    return scores


def best_selection(scores: Floats, budget: int) -> list[list[int]]:
    """At most `budget` groups with the largest sum over tasks of the best score, from any table of scores.

    Args:
        scores: (2^T, T); score of each task in each group (bit mask), −inf outside the group or where the
            group is not allowed; some group must be allowed for every task.
        budget: at least 1.

    Returns:
        the chosen groups, as sorted lists of tasks; among equals fewer and smaller groups.
    """
    tasks = scores.shape[1]
    everyone = 2**tasks - 1
    value, group_of = _value_of_serving(scores)
    best = value
    handed_on: list[NDArray[np.intp]] = []
    for group in range(1, min(budget, tasks)):
        # Only all tasks are asked for after the last group.
        asked = [everyone] if group == min(budget, tasks) - 1 else range(1, 2**tasks)
        longer, rest = best.copy(), np.zeros(2**tasks, dtype=np.intp)
        for served in asked:
            check_deadline()
            lowest = served & -served
            # One of the sets holds the lowest task; naming it first counts every partition once.
            first = _subsets(served ^ lowest) | lowest
            totals = value[first] + best[served ^ first]
            choice = int(totals.argmax())
            if totals[choice] > longer[served]:
                longer[served], rest[served] = totals[choice], served ^ first[choice]
        handed_on.append(rest)
        best = longer
    chosen, remaining = [], everyone
    for rest in reversed(handed_on):
        left = int(rest[remaining])
        if left:
            chosen.append(int(group_of[remaining ^ left]))
            remaining = left
    chosen.append(int(group_of[remaining]))
    return [[task for task in range(tasks) if mask >> task & 1] for mask in sorted(set(chosen))]


def _value_of_serving(scores: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """For every set of tasks: the largest sum of their scores in one group that holds all, and that group."""
    tasks = scores.shape[1]
    masks = np.arange(2**tasks)
    sizes = ((masks[:, None] >> np.arange(tasks)) & 1).sum(axis=1)
    value = np.full(2**tasks, -np.inf)
    value[0] = 0.0
    group_of = np.zeros(2**tasks, dtype=np.intp)
    # Small groups first: a larger one has to be strictly better.
    for mask in np.argsort(sizes, kind="stable")[1:].tolist():
        check_deadline()
        subsets, totals = np.zeros(1, dtype=np.intp), np.zeros(1)
        for task in range(tasks):
            if mask >> task & 1:
                subsets = np.concatenate([subsets, subsets | 1 << task])
                totals = np.concatenate([totals, totals + scores[mask, task]])
        better = totals > value[subsets]
        value[subsets[better]] = totals[better]
        group_of[subsets[better]] = mask
    return value, group_of


def _subsets(mask: int) -> NDArray[np.intp]:
    """All 2^|mask| subsets of a bit mask."""
    subsets = np.zeros(1, dtype=np.intp)
    while mask:
        lowest = mask & -mask
        subsets = np.concatenate([subsets, subsets | lowest])
        mask ^= lowest
    return subsets
