"""From the relaxed X to exactly k non-empty groups."""

from collections.abc import Iterator

import numpy as np

from affinity_service.grouping.baselines import agglomerative, kmeans, merge_path, random_partition, spectral
from affinity_service.grouping.constraints import Rules
from affinity_service.grouping.local_moves import improve
from affinity_service.grouping.matrix import Floats, Labels
from affinity_service.grouping.partition import density_of_labels

_RANDOM_STARTS = 10
# Kicks × tasks: each kick costs more the more tasks there are.
_KICK_EFFORT = 4000
_FEWEST_KICKS = 20
# On entries of magnitude 1, per task: nearer to the bound than this there is nothing left to gain.
_PROVED = 1e-7


def quick_start(matrix: Floats, k: int, rules: Rules | None = None) -> Labels:
    """Greedy merging polished by local moves: often optimal already, and then the relaxation need only prove it."""
    return improve(matrix, merge_path(matrix, k)[k], k, rules)


def rounded(
    matrix: Floats,
    relaxed: Floats | None,
    symmetric: Floats,
    start: Labels,
    k: int,
    seed: int,
    upper: float,
    rules: Rules | None = None,
) -> Labels:
    """The best of several partitions, each polished by local moves, then kicked about unless proved optimal.

    Candidates: the start, k-means on the leading eigenvectors of X, average linkage on X, greedy merging on X;
    and also the baselines, spectral and agglomerative clustering of the affinities and ten random partitions.
    So that the result is no worse than any of these baselines is by construction, not a merit of the
    relaxation; its merits are the bound, and the starts that the baselines lack. Where the best does not reach
    the bound, an iterated local search follows: shuffle the groups of a few tasks, polish, keep the result
    unless it is worse.

    Args:
        matrix: (T, T) canonical matrix, which the objective is compared on.
        relaxed: (T, T) solution X of the relaxation; None where the solver failed.
        symmetric: (T, T) symmetrised affinities as given, which the baselines see.
        start: (T,) labels of `quick_start`.
        k: number of groups, 1 ≤ k ≤ T.
        seed: of k-means, spectral clustering, the random partitions and the kicks.
        upper: bound on ⟨matrix, X⟩.
        rules: what the groups must look like; `start` keeps them, every other candidate is repaired first.

    Returns:
        (T,) labels with every one of 0…k−1 in use.
    """
    rng = np.random.default_rng(seed)
    best, value = start, density_of_labels(matrix, start, k)
    for candidate in _candidates(len(matrix), relaxed, symmetric, k, seed, rng):
        labels = improve(matrix, candidate, k, rules)
        if (reached := density_of_labels(matrix, labels, k)) > value:
            best, value = labels, reached
    tasks = len(matrix)
    # Repairs are dear.
    for _ in range(max(_FEWEST_KICKS, _KICK_EFFORT // tasks if rules is None else 0)):
        if value >= upper - _PROVED * tasks:
            break
        # Sizes stay, so no group is emptied; polishing may change them.
        chosen = rng.choice(tasks, size=min(tasks, max(3, tasks // 5)), replace=False)
        kicked = best.copy()
        kicked[chosen] = best[rng.permutation(chosen)]
        labels = improve(matrix, kicked, k, rules)
        if (reached := density_of_labels(matrix, labels, k)) >= value:
            best, value = labels, reached
    return best


def _candidates(
    tasks: int,
    relaxed: Floats | None,
    symmetric: Floats,
    k: int,
    seed: int,
    rng: np.random.Generator,
) -> Iterator[Labels]:
    if relaxed is not None:
        values, vectors = np.linalg.eigh(relaxed)
        leading = slice(len(values) - k, None)
        yield kmeans(vectors[:, leading] * np.sqrt(np.maximum(values[leading], 0)), k, seed)
        yield agglomerative(relaxed, k)
        yield merge_path(relaxed, k)[k]
    yield spectral(symmetric, k, seed)
    yield agglomerative(symmetric, k)
    for _ in range(_RANDOM_STARTS):
        yield random_partition(tasks, k, rng)
