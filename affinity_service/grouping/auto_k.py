"""How many groups: the k whose grouping stands out most against chance."""

import numpy as np

from affinity_service.grouping.baselines import merge_path
from affinity_service.grouping.local_moves import improve
from affinity_service.grouping.matrix import Canonical, Floats, Labels, canonical

_SHUFFLES = 8


def choose_k(problem: Canonical, max_k: int, seed: int, min_k: int = 1) -> int:
    """The k from 2 to max_k whose grouping beats by most what the same search finds in shuffled affinities.

    The objective itself cannot choose: it changes with k through the diagonal alone, (k − 1)·diagonal, and
    with more groups it follows noise. So two comparisons. `surprise` gives the objective in standard
    deviations above random partitions of the same sizes, which takes the diagonal and the sizes out. From it
    goes the mean surprise that the same search reaches on eight matrices with the pairs (and the diagonal)
    shuffled, which takes the fit to noise out, as the gap statistic does (Tibshirani, Walther & Hastie 2001).
    The search at each k is greedy merging polished by local moves: one merging serves all k. Ties go to the
    smaller k.

    Where k = 1 and k = T are the only choices, or the matrix has no pattern (every partition of the same
    sizes scores the same), k is 1 or T, whichever has the larger objective, 1 if equal.

    Args:
        problem: canonical form of the symmetrised (T, T) affinities.
        max_k: largest k to try, 1 ≤ max_k ≤ T.
        seed: of the shuffles.
        min_k: smallest k to return, 1 ≤ min_k ≤ max_k.
    """
    tasks = len(problem.matrix)
    # k = T leaves nothing to permute; it can win only as the patternless case below.
    tried = range(max(2, min_k), min(max_k, tasks - 1) + 1)
    if not tried or problem.scale == 0.0:
        gain_of_splitting = problem.original_units(0.0, tasks) - problem.original_units(0.0, 1)
        return tasks if max_k == tasks and gain_of_splitting > problem.rounding else min_k
    rng = np.random.default_rng(seed)
    by_chance = [_surprises(shuffled(problem.matrix, rng), tried) for _ in range(_SHUFFLES)]
    excess = _surprises(problem.matrix, tried) - np.mean(by_chance, axis=0)
    # Equal but for rounding counts as equal.
    return tried[int(np.argmax(excess >= excess.max() - 1e-9))]


def _surprises(matrix: Floats, tried: range) -> Floats:
    path = merge_path(matrix, tried.start)
    return np.array([surprise(matrix, improve(matrix, path[k], k)) for k in tried])


def shuffled(matrix: Floats, rng: np.random.Generator) -> Floats:
    """The canonical matrix of the same pairs at random places, and the same diagonal at random places."""
    above = np.triu_indices(len(matrix), 1)
    pairs = np.zeros_like(matrix)
    pairs[above] = rng.permutation(matrix[above])
    return canonical(pairs + pairs.T + np.diag(rng.permutation(np.diag(matrix)))).matrix


def surprise(matrix: Floats, labels: Labels) -> float:
    """Objective of a partition in standard deviations above random partitions of the same sizes.

    Exact, no sampling. Under a uniformly random renaming of the tasks, ⟨B, X⟩ has mean 0 when B has zero row
    sums and zero trace. Its variance follows because such matrices split into two orthogonal parts that
    renaming never mixes: D = P·diag(u)·P, which carries the diagonal (dimension T − 1), and the rest, with
    zero diagonal (dimension T(T − 3)/2). By Schur's lemma the variance is the sum over both parts of
    ‖B part‖²·‖X part‖²/dimension. (These are the permutation moments of Mantel, Cancer Research 1967.)

    Args:
        matrix: (T, T) canonical matrix.
        labels: (T,) groups.

    Returns:
        the score; 0 where all partitions of these sizes have the same objective.
    """
    tasks = len(labels)
    same = labels[:, None] == labels[None, :]
    comembership = same / same.sum(axis=1)
    pattern = comembership - 1 / tasks
    pattern -= np.trace(pattern) / (tasks - 1) * (np.eye(tasks) - 1 / tasks)
    variance = 0.0
    if tasks > 2:
        variance += _diagonal_part(matrix) * _diagonal_part(pattern) / (tasks - 1)
    if tasks > 3:
        rest = [float((part**2).sum()) - _diagonal_part(part) for part in (matrix, pattern)]
        variance += max(rest[0], 0.0) * max(rest[1], 0.0) / (tasks * (tasks - 3) / 2)
    # Parts that vanish leave squares of rounding errors.
    negligible = (1e-13 * np.linalg.norm(matrix) * np.linalg.norm(pattern)) ** 2
    if variance <= negligible:
        return 0.0
    return float((matrix * comembership).sum() / np.sqrt(variance))


def _diagonal_part(matrix: Floats) -> float:
    """‖P·diag(u)·P‖² of the one such matrix, Σu = 0, with the diagonal of this one."""
    tasks = len(matrix)
    u = np.diag(matrix) / (1 - 2 / tasks)
    # ⟨P·diag(u)·P, P·diag(u)·P⟩ = Σ u_i · (its own diagonal)_i
    return float(u @ np.diag(matrix))
