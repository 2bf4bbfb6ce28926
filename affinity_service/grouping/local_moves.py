"""Local search over partitions into exactly k groups: single-task moves and swaps, best improvement first."""

import numpy as np

from affinity_service.grouping.matrix import Floats, Labels

# On entries of magnitude 1; above the rounding of the running sums, so that the search must end.
_LEAST_GAIN = 1e-10


def improve(matrix: Floats, labels: Labels, k: int) -> Labels:
    """Climb to a partition that no single move and no swap improves; no group is ever emptied.

    Args:
        matrix: (T, T) symmetric, entries of magnitude about 1 (a canonical matrix).
        labels: (T,) group of each task, every one of 0…k−1 in use.
        k: number of groups.

    Returns:
        (T,) labels, again with every one of 0…k−1 in use, of an objective at least as high.
    """
    labels = labels.copy()
    tasks = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=k).astype(np.float64)
    members = np.zeros((len(labels), k))
    members[tasks, labels] = 1.0
    to_group = matrix @ members

    def reassign(task: int, group: int) -> None:
        to_group[:, labels[task]] -= matrix[:, task]
        to_group[:, group] += matrix[:, task]
        sizes[labels[task]] -= 1
        sizes[group] += 1
        labels[task] = group

    while True:
        gains = move_gains(matrix, labels, sizes, to_group)
        task, group = divmod(int(gains.argmax()), k)
        if gains[task, group] > _LEAST_GAIN:
            reassign(task, group)
            continue
        # Swaps cost T² each and are looked at only where single moves are stuck.
        gains = swap_gains(matrix, labels, sizes, to_group)
        first, second = divmod(int(gains.argmax()), len(labels))
        if gains[first, second] <= _LEAST_GAIN:
            return labels
        group_of_first = int(labels[first])
        reassign(first, int(labels[second]))
        reassign(second, group_of_first)


def move_gains(matrix: Floats, labels: Labels, sizes: Floats, to_group: Floats) -> Floats:
    """(T, k) change of the objective when task i joins group b; −inf where it would empty its group.

    With S the sum inside a group and w_i(g) the sum of row i over g: S_a loses 2w_i(a) − A_ii and S_b wins
    2w_i(b) + A_ii.
    """
    tasks = np.arange(len(labels))
    own = to_group[tasks, labels]
    within = np.bincount(labels, weights=own, minlength=len(sizes))
    diagonal = np.diag(matrix)
    from_size = sizes[labels]
    left = (within[labels] - 2 * own + diagonal) / np.maximum(from_size - 1, 1) - within[labels] / from_size
    joined = (within + 2 * to_group + diagonal[:, None]) / (sizes + 1) - within / sizes
    gains: Floats = left[:, None] + joined
    gains[tasks, labels] = -np.inf
    gains[from_size == 1] = -np.inf
    return gains


def swap_gains(matrix: Floats, labels: Labels, sizes: Floats, to_group: Floats) -> Floats:
    """(T, T) change of the objective when tasks i and j change places; −inf inside a group."""
    own = to_group[np.arange(len(labels)), labels]
    diagonal = np.diag(matrix)
    both = diagonal[:, None] + diagonal[None, :] - 2 * matrix
    # Entry (i, j): j takes i's place in i's group; the transpose is i in j's place.
    replaced = (2 * (to_group[:, labels].T - own[:, None]) + both) / sizes[labels][:, None]
    gains: Floats = replaced + replaced.T
    gains[labels[:, None] == labels[None, :]] = -np.inf
    return gains
