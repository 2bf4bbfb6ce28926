"""Local search over partitions into exactly k groups: single moves and swaps, best improvement first."""

from functools import lru_cache

import numpy as np

from affinity_service.deadline import check_deadline
from affinity_service.grouping.constraints import UNCONSTRAINED, Rules
from affinity_service.grouping.matrix import Floats, Labels

# On entries of magnitude 1; above the rounding of the running sums, so that the search must end.
_LEAST_GAIN = 1e-10


def improve(matrix: Floats, labels: Labels, k: int, rules: Rules | None = None) -> Labels:
    """Climb to a partition that no single move and no swap improves; no group is ever emptied.

    Args:
        matrix: (T, T) symmetric, entries of magnitude about 1 (a canonical matrix).
        labels: (T,) group of each task, every one of 0…k−1 in use.
        k: number of groups.
        rules: what the groups must look like. `labels` that break them are first repaired.

    Returns:
        (T,) labels, again with every one of 0…k−1 in use, of an objective at least as high (unless repaired).
    """
    if rules is None:
        return Search(matrix, labels, k, _free(len(matrix))).climb()
    search = Search(rules.contracted(matrix), rules.repaired(labels, k), k, rules)
    return search.climb()[rules.atom_of]


@lru_cache(maxsize=8)
def _free(tasks: int) -> Rules:
    return Rules(UNCONSTRAINED, tasks)


class Search:
    """A partition of atoms and its running sums.

    labels : (A,) group of each atom. sizes : (k,) tasks per group. to_group : (A, k) sum of each atom's row over each
    group. conflicts : (A, k) members of each group that an atom must be kept apart from; None where there are none.
    """

    def __init__(self, matrix: Floats, labels: Labels, k: int, rules: Rules) -> None:
        self.matrix, self.rules, self.k = matrix, rules, k
        self.labels, self.atoms = labels.copy(), np.arange(len(labels))
        members = np.zeros((len(labels), k))
        members[self.atoms, labels] = 1.0
        self.sizes: Floats = rules.weights @ members
        self.to_group: Floats = matrix @ members
        self.conflicts: Floats | None = rules.apart @ members if rules.apart.any() else None

    def climb(self) -> Labels:
        while True:
            check_deadline()
            gains = self.move_gains()
            atom, group = divmod(int(gains.argmax()), self.k)
            if gains[atom, group] > _LEAST_GAIN:
                self._reassign(atom, group)
                continue
            # Swaps cost A² each and are looked at only where single moves are stuck.
            gains = self.swap_gains()
            first, second = divmod(int(gains.argmax()), len(self.labels))
            if gains[first, second] <= _LEAST_GAIN:
                return self.labels
            group_of_first = int(self.labels[first])
            self._reassign(first, int(self.labels[second]))
            self._reassign(second, group_of_first)

    def _reassign(self, atom: int, group: int) -> None:
        old = self.labels[atom]
        self.to_group[:, old] -= self.matrix[:, atom]
        self.to_group[:, group] += self.matrix[:, atom]
        self.sizes[old] -= self.rules.weights[atom]
        self.sizes[group] += self.rules.weights[atom]
        if self.conflicts is not None:
            self.conflicts[:, old] -= self.rules.apart[:, atom]
            self.conflicts[:, group] += self.rules.apart[:, atom]
        self.labels[atom] = group

    def move_gains(self) -> Floats:
        """(A, k) change of the objective when atom i joins group b; −inf where the rules forbid it.

        With S the sum inside a group and w_i(g) the sum of row i over g: S_a loses 2w_i(a) − A_ii and S_b wins
        2w_i(b) + A_ii.
        """
        labels, sizes, weights = self.labels, self.sizes, self.rules.weights
        own = self.to_group[self.atoms, labels]
        within = np.bincount(labels, weights=own, minlength=self.k)
        diagonal = np.diag(self.matrix)
        left_size = sizes[labels] - weights
        left = (within[labels] - 2 * own + diagonal) / np.maximum(left_size, 1) - within[labels] / sizes[labels]
        joined_size = sizes + weights[:, None]
        joined = (within + 2 * self.to_group + diagonal[:, None]) / joined_size - within / sizes
        gains: Floats = left[:, None] + joined
        gains[self.atoms, labels] = -np.inf
        gains[left_size < self.rules.min_size] = -np.inf
        gains[joined_size > self.rules.max_size] = -np.inf
        if self.conflicts is not None:
            gains[self.conflicts > 0] = -np.inf
        return gains

    def swap_gains(self) -> Floats:
        """(A, A) change of the objective when atoms i and j change places; −inf where the rules forbid it."""
        labels, weights = self.labels, self.rules.weights
        own = self.to_group[self.atoms, labels]
        within = np.bincount(labels, weights=own, minlength=self.k)
        diagonal = np.diag(self.matrix)
        both = diagonal[:, None] + diagonal[None, :] - 2 * self.matrix
        # Entry (i, j): j takes i's place in i's group; the transpose is i in j's place.
        grown = 2 * (self.to_group[:, labels].T - own[:, None]) + both
        if np.ptp(weights) == 0:
            replaced = grown / self.sizes[labels][:, None]
            swapped_size = None
        else:
            swapped_size = self.sizes[labels][:, None] + weights[None, :] - weights[:, None]
            before = (within / self.sizes)[labels][:, None]
            replaced = (within[labels][:, None] + grown) / swapped_size - before
        gains: Floats = replaced + replaced.T
        forbidden = labels[:, None] == labels[None, :]
        if swapped_size is not None:
            outside = (swapped_size < self.rules.min_size) | (swapped_size > self.rules.max_size)
            forbidden |= outside | outside.T
        if self.conflicts is not None:
            # Whom j must be kept apart from in i's group, but for i itself, who leaves.
            clash = (self.conflicts[:, labels].T - self.rules.apart) > 0
            forbidden |= clash | clash.T
        gains[forbidden] = -np.inf
        return gains
