"""Groupings that need no relaxation: spectral, agglomerative, random, and greedy merging.

Each returns exactly k non-empty groups as (T,) labels and takes affinities of either sign.
"""

import warnings

import numpy as np
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering

from affinity_service.deadline import check_deadline
from affinity_service.grouping.matrix import Floats, Labels
from affinity_service.grouping.partition import with_exactly

# Of the range of affinities; keeps the graph connected, as the spectral embedding wants it.
_WEAKEST_EDGE = 1e-3


def spectral(symmetric: Floats, k: int, seed: int) -> Labels:
    """Spectral clustering (scikit-learn) of the off-diagonal affinities, mapped linearly onto [0.001, 1]."""
    tasks = len(symmetric)
    if k in (1, tasks):
        return np.arange(tasks) % k
    unit = _unit_interval(symmetric)
    weights = _WEAKEST_EDGE + (1 - _WEAKEST_EDGE) * unit
    model = SpectralClustering(n_clusters=k, affinity="precomputed", random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct points than groups (duplicate tasks): with_exactly settles it.
        warnings.simplefilter("ignore")
        labels = model.fit_predict(weights)
    return with_exactly(labels, k)


def agglomerative(symmetric: Floats, k: int) -> Labels:
    """Average-linkage clustering (scikit-learn) with distance = largest off-diagonal affinity − affinity."""
    tasks = len(symmetric)
    if k in (1, tasks):
        return np.arange(tasks) % k
    distance = 1 - _unit_interval(symmetric)
    model = AgglomerativeClustering(n_clusters=k, metric="precomputed", linkage="average")
    return with_exactly(model.fit_predict(distance), k)


def random_partition(tasks: int, k: int, rng: np.random.Generator) -> Labels:
    """A uniformly drawn partition with sizes as equal as possible."""
    labels: Labels = rng.permutation(np.arange(tasks) % k)
    return labels


def merge_path(matrix: Floats, fewest: int) -> dict[int, Labels]:
    """Greedy merging from T single tasks: at each step the two groups whose union costs the objective least.

    Returns:
        for every k from T down to `fewest`, the labels of the partition into k groups on the way.
    """
    sums = matrix.copy()
    sizes = np.ones(len(matrix))
    labels = np.arange(len(matrix))
    path = {len(matrix): labels}
    for k in range(len(matrix) - 1, fewest - 1, -1):
        check_deadline()
        alone = np.diag(sums)
        union = (alone[:, None] + alone[None, :] + 2 * sums) / (sizes[:, None] + sizes[None, :])
        gains = union - (alone / sizes)[:, None] - (alone / sizes)[None, :]
        np.fill_diagonal(gains, -np.inf)
        kept, gone = sorted(divmod(int(gains.argmax()), k + 1))
        sums[kept] += sums[gone]
        sums[:, kept] += sums[:, gone]
        sums = np.delete(np.delete(sums, gone, axis=0), gone, axis=1)
        sizes[kept] += sizes[gone]
        sizes = np.delete(sizes, gone)
        labels = np.where(labels == gone, kept, labels)
        labels = labels - (labels > gone)
        path[k] = labels
    return path


def kmeans(points: Floats, k: int, seed: int) -> Labels:
    """k-means (scikit-learn, ten starts) on the rows of points."""
    with warnings.catch_warnings():
        # Fewer distinct points than groups: with_exactly settles it.
        warnings.simplefilter("ignore")
        labels = KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(points)
    return with_exactly(labels, k)


def _unit_interval(symmetric: Floats) -> Floats:
    """Off-diagonal entries mapped onto [0, 1] (all 1 where they are equal), diagonal 1."""
    others = symmetric[~np.eye(len(symmetric), dtype=bool)]
    low, span = others.min(), np.ptp(others)
    unit = (symmetric - low) / span if span > 0 else np.ones_like(symmetric)
    np.fill_diagonal(unit, 1.0)
    return unit
