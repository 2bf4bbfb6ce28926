"""A partition as labels or as groups, and the objective of one."""

import math
from collections.abc import Sequence

import numpy as np

from affinity_service.grouping.matrix import Floats, Labels


def density(symmetric: Floats, groups: Sequence[Sequence[int]]) -> float:
    """Σ_groups (1/|g|) Σ_{i,j∈g} A_ij, diagonal included (Grad-TAG, arXiv 2409.06091, clustering section).

    Summed exactly, so that renaming the tasks cannot change the last digit.
    """
    return math.fsum(math.fsum(symmetric[np.ix_(group, group)].ravel()) / len(group) for group in groups)


def density_of_labels(symmetric: Floats, labels: Labels, k: int) -> float:
    """The same objective in floating point, fast: for comparing candidates."""
    members = np.zeros((len(labels), k))
    members[np.arange(len(labels)), labels] = 1.0
    within = np.einsum("ig,ig->g", members, symmetric @ members)
    return float((within / members.sum(axis=0)).sum())


def groups_of(labels: Labels) -> list[list[int]]:
    """Sorted groups in the order of their first task."""
    groups: dict[int, list[int]] = {}
    for task, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(task)
    return list(groups.values())


def with_exactly(labels: Labels, k: int) -> Labels:
    """Relabel 0…; while fewer than k groups are used, split the last task off the largest group.

    Clustering routines may return fewer groups than asked for (duplicate points); never more.
    """
    relabelled = np.unique(labels, return_inverse=True)[1].astype(np.intp)
    used = int(relabelled.max()) + 1
    assert used <= k <= len(labels)
    for new in range(used, k):
        largest = int(np.bincount(relabelled).argmax())
        relabelled[np.flatnonzero(relabelled == largest)[-1]] = new
    return relabelled
