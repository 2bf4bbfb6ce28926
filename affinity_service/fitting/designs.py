"""Which subsets are fitted: singles, pairs, and larger ones in which every pair meets about equally often."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from affinity_service.errors import UserError

Subset = tuple[int, ...]
# Draws of one subset before its size is taken to be used up.
_ATTEMPTS = 20


def balanced_subsets(
    n_tasks: int, count: int, sizes: tuple[int, int], seed: int, exclude: Iterable[Subset] = ()
) -> list[Subset]:
    """Distinct subsets of mixed sizes that cover every pair about equally often.

    Sizes cycle through the range; each subset grows by the task that has met the chosen ones least, ties broken by
    the seed. Where fewer distinct subsets exist than asked for, all of them come back and the list is shorter.

    Raises
    ------
    UserError
        The sizes do not lie in 1 … n_tasks.
    """
    low, high = sizes
    if not 1 <= low <= high <= n_tasks:
        raise UserError(f"subset sizes {low} to {high} must lie within 1 … {n_tasks}, the number of tasks")
    rng = np.random.default_rng(seed)
    seen = {tuple(sorted(subset)) for subset in exclude}
    left = {size: math.comb(n_tasks, size) - sum(len(s) == size for s in seen) for size in range(low, high + 1)}
    met = np.zeros((n_tasks, n_tasks))
    used = np.zeros(n_tasks)
    chosen: list[Subset] = []
    while len(chosen) < count and any(left.values()):
        size = low + len(chosen) % (high - low + 1)
        if not left[size]:
            size = next(s for s in left if left[s])
        subset = _draw(met, used, size, rng, seen, n_tasks)
        seen.add(subset)
        left[size] -= 1
        chosen.append(subset)
        members = np.array(subset)
        met[np.ix_(members, members)] += 1
        used[members] += 1
    return chosen


def _draw(
    met: NDArray[np.float64], used: NDArray[np.float64], size: int, rng: np.random.Generator, seen: set[Subset], n: int
) -> Subset:
    for _ in range(_ATTEMPTS):
        # Ties, and after a clash near-ties, are broken at random.
        noise = rng.random(n)
        subset = [int(np.argmin(used + noise))]
        while len(subset) < size:
            score = met[subset].sum(axis=0) + noise * 0.5
            score[subset] = np.inf
            subset.append(int(np.argmin(score)))
        key = tuple(sorted(subset))
        if key not in seen:
            return key
    for _ in range(_ATTEMPTS):
        key = tuple(sorted(int(t) for t in rng.choice(n, size, replace=False)))
        if key not in seen:
            return key
    return next(key for key in combinations(range(n), size) if key not in seen)


def subset_design(
    n_tasks: int, larger: int, sizes: tuple[int, int], seed: int, pairs: bool = True
) -> list[Subset]:
    """Singles, all pairs (unless turned off) and `larger` balanced subsets, in this order."""
    design: list[Subset] = [(task,) for task in range(n_tasks)]
    if pairs:
        design += list(combinations(range(n_tasks), 2))
    return design + (balanced_subsets(n_tasks, larger, sizes, seed, exclude=design) if larger else [])


def pair_coverage(subsets: Iterable[Sequence[int]], n_tasks: int, smallest: int = 3) -> NDArray[np.int64]:
    """(T, T) number of subsets of at least `smallest` tasks that hold both; the diagonal counts each task's."""
    counts = np.zeros((n_tasks, n_tasks), np.int64)
    for subset in subsets:
        if len(subset) >= smallest:
            counts[np.ix_(subset, subset)] += 1
    return counts
