"""Which subsets of the tasks to fit."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from scipy import sparse

from affinity_service.errors import UserError

Subset = tuple[int, ...]

_RETRIES = 8
# Up to so many subsets of one size are listed to find the ones that are left.
_LISTED = 20_000


def subset_design(
    n_tasks: int, larger: int, sizes: tuple[int, int], seed: int, pairs: Literal["all", "uncovered", "none"] = "all"
) -> list[Subset]:
    """Every task alone, pairs, and `larger` balanced subsets of the given sizes.

    Args:
        n_tasks: tasks are 0 … n_tasks − 1.
        larger: how many subsets to draw beside singles and pairs; fewer are returned where fewer distinct ones exist.
        sizes: smallest and largest number of tasks of those.
        seed: the same seed gives the same design.
        pairs: all n_tasks·(n_tasks − 1)/2, those that no larger subset holds, or none.

    Returns:
        Distinct ascending tuples: singles, then pairs, then the larger ones.

    Raises:
        UserError: if n_tasks < 1, larger < 0, or sizes is not a range of positive integers.

    Source: Grad-TAG, arXiv 2409.06091, section 3 (subsets sampled at random there, balanced here).
    """
    singles: list[Subset] = [(task,) for task in range(_check_count("n_tasks", n_tasks, 1))]
    both: list[Subset] = list(combinations(range(n_tasks), 2)) if pairs == "all" else []
    more = balanced_subsets(n_tasks, larger, sizes, seed, exclude=singles + both)
    if pairs == "uncovered":
        counts = pair_coverage(more, n_tasks)
        both = [(i, j) for i, j in combinations(range(n_tasks), 2) if not counts[i, j]]
    return singles + both + more


def balanced_subsets(
    n_tasks: int, count: int, sizes: tuple[int, int], seed: int, exclude: Iterable[Sequence[int]] = ()
) -> list[Subset]:
    """Distinct subsets that cover all pairs of tasks about equally often.

    Sizes cycle through the range. Each subset starts with the task that was used least and takes, one by one, the
    task that shared the fewest subsets with those already in it; the seed breaks ties.

    Args:
        n_tasks: tasks are 0 … n_tasks − 1.
        count: subsets wanted. The list is shorter where fewer distinct ones exist: compare its length.
        sizes: smallest and largest number of tasks; sizes above n_tasks do not exist and are left out.
        seed: the same seed gives the same subsets.
        exclude: subsets that must not appear.

    Returns:
        Ascending tuples. All tasks are covered once count × size reaches n_tasks.

    Raises:
        UserError: if n_tasks < 1, count < 0, or sizes is not a range of positive integers.
    """
    _check_count("n_tasks", n_tasks, 1)
    _check_count("count", count, 0)
    low, high = _check_sizes(sizes)
    generator = np.random.default_rng(seed)
    seen = {tuple(sorted(int(task) for task in subset)) for subset in exclude}
    taken = dict.fromkeys(range(low, min(high, n_tasks) + 1), 0)
    for subset in seen:
        if len(subset) in taken and subset[0] >= 0 and subset[-1] < n_tasks:
            taken[len(subset)] += 1
    together = np.zeros((n_tasks, n_tasks))
    chosen: list[Subset] = []
    cycle = 0
    while len(chosen) < count:
        open_sizes = [size for size, number in taken.items() if number < comb(n_tasks, size)]
        if not open_sizes:
            break
        # The cycle passes over sizes of which no subset is left.
        size = low + cycle % (high - low + 1)
        cycle += 1
        if size not in open_sizes:
            continue
        subset = _draw(together, size, seen, generator)
        index = np.array(subset)
        together[np.ix_(index, index)] += 1
        seen.add(subset)
        taken[size] += 1
        chosen.append(subset)
    return chosen


def pair_coverage(subsets: Iterable[Sequence[int]], n_tasks: int, smallest: int = 1) -> np.ndarray:
    """How many of the subsets with at least `smallest` tasks contain both tasks: (n_tasks, n_tasks) int64.

    The diagonal counts the subsets of each task.

    Raises:
        UserError: if a subset names a task outside 0 … n_tasks − 1.
    """
    counted = [list(subset) for subset in subsets if len(subset) >= smallest]
    tasks = np.array([task for subset in counted for task in subset], dtype=np.int64)
    if len(tasks) and (tasks.min() < 0 or tasks.max() >= n_tasks):
        bad = int(tasks[(tasks < 0) | (tasks >= n_tasks)][0])
        raise UserError(f"a subset contains task {bad}; tasks 0 to {n_tasks - 1} are expected")
    offsets = np.concatenate([[0], np.cumsum([len(subset) for subset in counted], dtype=np.int64)])
    membership = sparse.csr_matrix((np.ones(len(tasks), dtype=np.int64), tasks, offsets), shape=(len(counted), n_tasks))
    return np.asarray((membership.T @ membership).toarray())


def _draw(together: np.ndarray, size: int, seen: set[Subset], generator: np.random.Generator) -> Subset:
    """A subset of the size that is not among the seen ones; there is at least one."""
    n_tasks = len(together)
    for retry in range(_RETRIES):
        subset = _greedy(together, size, float(retry), generator)
        if subset not in seen:
            return subset
    if comb(n_tasks, size) <= _LISTED:
        left = np.array([subset for subset in combinations(range(n_tasks), size) if subset not in seen])
        shared = together[left[:, :, None], left[:, None, :]].sum((1, 2))
        best = left[int(np.argmin(shared + 0.5 * generator.random(len(left))))]
        return tuple(best.tolist())
    while True:
        subset = tuple(np.sort(generator.permutation(n_tasks)[:size]).tolist())
        if subset not in seen:
            return subset


def _greedy(together: np.ndarray, size: int, noise: float, generator: np.random.Generator) -> Subset:
    used = together.diagonal()
    # Use breaks ties between equal pair counts, chance between equal use; noise leaves a path that gave a duplicate.
    preference = 0.5 * used / (used.max() + 1) + generator.random(len(used)) * (1e-6 + noise)
    start = used + 0.5 * generator.random(len(used)) * (1 + noise)
    members = [int(np.argmin(start))]
    cost = preference + together[members[0]]
    cost[members[0]] = np.inf
    for _ in range(size - 1):
        task = int(np.argmin(cost))
        members.append(task)
        cost += together[task]
        cost[task] = np.inf
    return tuple(sorted(members))


def _check_count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name} is {value!r}; an integer of at least {least} is expected")
    return int(value)


def _check_sizes(sizes: tuple[int, int]) -> tuple[int, int]:
    try:
        low, high = sizes
    except (TypeError, ValueError):
        raise UserError(f"sizes is {sizes!r}; a pair (smallest, largest) is expected") from None
    low, high = _check_count("the smallest size", low, 1), _check_count("the largest size", high, 1)
    if low > high:
        raise UserError(f"sizes is ({low}, {high}); the smallest size must not exceed the largest")
    return low, high
