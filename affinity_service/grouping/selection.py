"""`select_networks`: at most b groups, overlaps allowed, every task served by the best group it is in."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from affinity_service.errors import UserError
from affinity_service.grouping.direct import Predict
from affinity_service.grouping.matrix import Floats, checked_affinity, checked_integer
from affinity_service.grouping.selection_exact import best_selection, mates_scores
from affinity_service.grouping.selection_search import score_bound, search_selection, serving_scores

# 3^T steps per group of the budget: 12 tasks take well under a second, 14 a second or two, 16 some ten.
EXACT_UP_TO = 14
_EXACT_LIMIT = 16
# Relative; a heuristic that reaches its bound up to rounding has been proved optimal.
_PROVED = 1e-12


@dataclass(frozen=True)
class Selection:
    """Groups to train; every task is taken from the group that serves it.

    groups: at most `budget` sorted lists of task integers; each serves at least one task.
    score: mean over tasks of the task's score in its serving group.
    optimal: True if no selection within the budget scores higher (proved).
    bound: no selection within the budget has a larger score; equals score where optimal.
    task_scores: per task, its score in its serving group.
    served_by: per task, the index into groups of its serving group.
    """

    groups: list[list[int]]
    score: float
    optimal: bool
    bound: float
    task_scores: list[float]
    served_by: list[int]

    @property
    def gap(self) -> float:
        """By how much, at most, a better selection could score higher."""
        return self.bound - self.score

    def mean_loss(self, predict: Predict) -> float:
        """Mean over tasks of the loss that is predicted for each in the group that serves it."""
        losses = predict([tuple(group) for group in self.groups])
        return float(np.mean([losses[row][self.groups[row].index(task)] for task, row in enumerate(self.served_by)]))


def select_networks(
    affinity: ArrayLike,
    budget: int,
    *,
    singleton_score: ArrayLike | None = None,
    exact_up_to: int = EXACT_UP_TO,
    seed: int = 0,
) -> Selection:
    """Choose at most `budget` groups so that the mean over tasks of the best score is largest.

    The score of task a in group g is the mean of affinity[a, c] over its mates c ≠ a (TAG, arXiv 2109.04617,
    network selection; with affinity = −(loss of a trained with c) and singleton_score = −(loss of a alone) it
    is the higher-order approximation of Standley et al. 2020). The diagonal is not used. NP-hard: exact up to
    `exact_up_to` tasks, beyond by local search with a stated upper bound.

    Args:
        affinity: (T, T) finite; rows receive, columns give; higher is better.
        budget: number of groups, at least 1; beyond T it changes nothing.
        singleton_score: score of a task trained alone: one number, or one per task, in units of affinity.
            None: no task is trained alone unless T = 1, where the score is then 0.
        exact_up_to: solve exactly up to this many tasks, at most 16: cost grows as 3^T · budget.
        seed: of the random starts of the local search; without effect on exact solutions.

    Returns:
        Selection with plain Python numbers.

    Raises:
        UserError: affinity not square, not numeric, NaN or infinite; budget, exact_up_to or seed out of
            range; singleton_score not finite or of the wrong length.
    """
    matrix = checked_affinity(affinity)
    tasks = len(matrix)
    budget = min(checked_integer(budget, "budget", 1, None), tasks)
    exact_up_to = checked_integer(exact_up_to, "exact_up_to", 0, _EXACT_LIMIT)
    seed = checked_integer(seed, "seed", 0, 2**32 - 1)
    alone = _checked_singleton_score(singleton_score, tasks)
    if tasks == 1 and singleton_score is None:
        alone = np.zeros(1)
    if tasks == 1 or tasks <= exact_up_to:
        members = best_selection(mates_scores(matrix, alone), budget)
        return _selection(matrix, alone, members, None)
    upper = score_bound(matrix, alone, budget)
    return _selection(matrix, alone, search_selection(matrix, alone, budget, seed), upper)


def _checked_singleton_score(singleton_score: ArrayLike | None, tasks: int) -> Floats:
    """(T,) score of each task alone; −inf stands for not allowed."""
    if singleton_score is None:
        return np.full(tasks, -np.inf)
    expected = f"expected a finite number, or {tasks} of them, one per task"
    try:
        scores = np.asarray(singleton_score, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"singleton_score: found {singleton_score!r}; {expected}") from error
    if scores.shape not in ((), (tasks,)):
        raise UserError(f"singleton_score: found shape {scores.shape}; {expected}")
    if not np.isfinite(scores).all():
        raise UserError(f"singleton_score: found NaN or infinite values; {expected}")
    return np.broadcast_to(scores, (tasks,)).copy()


def _selection(matrix: Floats, alone: Floats, members: list[list[int]], upper: float | None) -> Selection:
    """Serve every task from its best group (the first of equals) and drop groups that serve nobody."""
    belongs = np.zeros((len(members), len(matrix)), dtype=bool)
    for row, group in enumerate(members):
        belongs[row, group] = True
    scores = serving_scores(matrix, alone, belongs)
    serving = scores.argmax(axis=0)
    # Sorted by members, so that the result does not depend on the order of discovery.
    kept = sorted(set(serving.tolist()), key=lambda row: members[row])
    task_scores: list[float] = scores.max(axis=0).tolist()
    score = math.fsum(task_scores) / len(matrix)
    bound = score if upper is None else max(upper, score)
    return Selection(
        groups=[sorted(members[row]) for row in kept],
        score=score,
        optimal=bool(bound - score <= _PROVED * max(abs(bound), abs(score))),
        bound=bound,
        task_scores=task_scores,
        served_by=[kept.index(row) for row in serving.tolist()],
    )
