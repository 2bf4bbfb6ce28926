"""Network selection for many tasks: local search, and an upper bound that tells how far it may be off."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from affinity_service.deadline import check_deadline
from affinity_service.grouping.baselines import merge_path, random_partition
from affinity_service.grouping.matrix import Floats, Labels, canonical, symmetrised

Members = NDArray[np.bool_]

_RANDOM_STARTS = 8
_MOST_MATES = 16
# Relative to the largest affinity; above rounding, so that the search must end.
_LEAST_GAIN = 1e-10


def serving_scores(affinity: Floats, alone: Floats, members: Members) -> Floats:
    """(groups, T) score of each task in each group, −inf outside; members is (groups, T)."""
    size = members.sum(axis=1, keepdims=True)
    given = members.astype(np.float64) @ (affinity - np.diag(np.diag(affinity))).T
    scores = np.where(members, given / np.maximum(size - 1, 1), -np.inf)
    return np.where(members & (size == 1), alone, scores)


def search_selection(affinity: Floats, alone: Floats, budget: int, seed: int) -> list[list[int]]:
    """The best of several starts, each filled up greedily and climbed by adding or removing one task.

    Starts: everybody in one group; greedy merging; random partitions. A group left out of a start is filled
    with the best "star": a task and the mates that give it most.

    Args:
        affinity: (T, T); rows receive, columns give.
        alone: (T,) score of each task alone; −inf where not allowed.
        budget: number of groups, 1…T.
        seed: of the random starts.

    Returns:
        at most `budget` non-empty groups that serve every task.
    """
    tasks = len(affinity)
    # Groups of two at least, so that every start serves everybody.
    parts = min(budget, tasks // 2)
    rng = np.random.default_rng(seed)
    partitions = [
        np.zeros(tasks, dtype=np.intp),
        merge_path(canonical(symmetrised(affinity)).matrix, parts)[parts],
    ]
    partitions += [random_partition(tasks, parts, rng) for _ in range(_RANDOM_STARTS)]
    stars = _stars(affinity, alone)
    star_scores = serving_scores(affinity, alone, stars)
    best, best_total = np.zeros((0, tasks), dtype=bool), -np.inf
    for labels in partitions:
        members = _filled(affinity, alone, _paired(affinity, labels), budget, stars, star_scores)
        members = _climbed(affinity, alone, members)
        total = float(serving_scores(affinity, alone, members).max(axis=0).sum())
        if total > best_total:
            best, best_total = members, total
    return [np.flatnonzero(row).tolist() for row in best if row.any()]


def _paired(affinity: Floats, labels: Labels) -> Members:
    """The partition as members, with its best giver beside every task that would be alone."""
    members = labels[None, :] == np.unique(labels)[:, None]
    givers = np.where(np.eye(len(affinity), dtype=bool), -np.inf, affinity).argmax(axis=1)
    for row in members:
        if row.sum() == 1:
            row[givers[int(row.argmax())]] = True
    return members


def _stars(affinity: Floats, alone: Floats) -> Members:
    """Every task with its 0, 1, …, 16 best givers."""
    tasks = len(affinity)
    order = np.argsort(-np.where(np.eye(tasks, dtype=bool), -np.inf, affinity), axis=1, kind="stable")
    stars = []
    for mates in range(0 if np.isfinite(alone).any() else 1, min(_MOST_MATES, tasks - 1) + 1):
        star = np.eye(tasks, dtype=bool)
        np.put_along_axis(star, order[:, :mates], True, axis=1)
        stars.append(star)
    return np.concatenate(stars)


def _filled(
    affinity: Floats, alone: Floats, members: Members, budget: int, stars: Members, star_scores: Floats
) -> Members:
    """Add the star that raises the total most while the budget lasts."""
    current = serving_scores(affinity, alone, members).max(axis=0)
    while len(members) < budget:
        check_deadline()
        star = int(np.maximum(star_scores, current).sum(axis=1).argmax())
        members = np.concatenate([members, stars[star : star + 1]])
        current = np.maximum(current, star_scores[star])
    return members


def _climbed(affinity: Floats, alone: Floats, members: Members) -> Members:
    """Group after group, add or take out the task that improves the total most, until none does."""
    members = members.copy()
    scores = serving_scores(affinity, alone, members)
    least = _LEAST_GAIN * float(np.abs(affinity).max())
    moved = True
    while moved:
        moved = False
        for group in range(len(members)):
            check_deadline()
            others = np.delete(scores, group, axis=0).max(axis=0, initial=-np.inf)
            flipped = flipped_scores(affinity, alone, members[group])
            totals = np.maximum(flipped, others).sum(axis=1)
            task = int(totals.argmax())
            if totals[task] > np.maximum(scores[group], others).sum() + least:
                members[group, task] ^= True
                scores[group] = flipped[task]
                moved = True
    return members


def flipped_scores(affinity: Floats, alone: Floats, member: Members) -> Floats:
    """(T, T): row c holds the scores of all tasks in the group `member` after task c joins or leaves it."""
    joins = np.where(member, -1.0, 1.0)
    size = (member.sum() + joins)[:, None]
    others = affinity - np.diag(np.diag(affinity))
    given = others @ member + joins[:, None] * others.T
    inside = member ^ np.eye(len(affinity), dtype=bool)
    scores = np.where(inside, given / np.maximum(size - 1, 1), -np.inf)
    return np.where(inside & (size == 1), alone, scores)


def score_bound(affinity: Floats, alone: Floats, budget: int) -> float:
    """An upper bound on the mean score of any selection of at most `budget` groups.

    Let n_a be the number of tasks served by the group that serves a. Its score is then at most t_a(n_a), the
    mean of its n_a − 1 best givers (for n_a = 1: its best giver, or itself alone), and Σ_a 1/n_a is the
    number of groups. So for any price λ ≥ 0 per group, λ·budget + Σ_a max_n (t_a(n) − λ/n) bounds the
    total; the lowest over λ is returned (a convex problem; every λ tried is valid).

    Args:
        affinity: (T, T) with T ≥ 2; rows receive, columns give.
        alone: (T,) score of each task alone; −inf where not allowed.
        budget: number of groups, at least 1.
    """
    tasks = len(affinity)
    givers = affinity[~np.eye(tasks, dtype=bool)].reshape(tasks, tasks - 1)
    means = np.cumsum(-np.sort(-givers, axis=1), axis=1) / np.arange(1, tasks)
    best = np.concatenate([np.maximum(means[:, :1], alone[:, None]), means], axis=1)
    share = 1 / np.arange(1, tasks + 1)

    def total(price: float) -> float:
        return price * budget + float((best - price * share).max(axis=1).sum())

    # At this price everybody prefers the largest group, and the bound only rises from here on.
    highest = float(np.ptp(best)) * tasks * (tasks - 1)
    prices = [0.0, highest]
    if highest > 0:
        prices.append(float(minimize_scalar(total, bounds=(0.0, highest), method="bounded").x))
    guard = 16 * np.finfo(np.float64).eps * tasks * float(np.abs(best).max())
    return float(min(total(price) for price in prices) + guard) / tasks
