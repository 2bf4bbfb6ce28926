"""Random graphs of overlapping communities: the affiliation model (Yang and Leskovec 2012, arXiv 1205.6228).

Communities have sizes by a power law and draw their members from a theme, a region of the nodes, and from everywhere;
a node is drawn the more often the larger its propensity, also by a power law. Edges join members of a community at
random, and some any two nodes. Communities of one theme share members and neighbours: tasks that help each other.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from affinity_service.config_graphs import GeneratedGraphSource
from affinity_service.graphs.raw import RawGraph

# Edges within a community grow faster than its members, as in the graphs that the model was fitted to.
DENSIFICATION = 1.2
GENERATED = "generated graph"
# More pairs are drawn than wanted, as some are self-loops or repeat.
SURPLUS = 1.15
# Times that places are drawn by their weights before any of those that are left will do.
DRAWS = 20
NOTHING = np.empty(0, np.int64)


def generate_memberships(source: GeneratedGraphSource) -> dict[str, NDArray[np.int64]]:
    """Task name → members, ascending; the communities are numbered from the largest."""
    rng = np.random.default_rng([source.seed, 0])
    sizes = _power_law(rng, source.communities, *source.community_sizes, source.size_exponent)
    propensity = _propensities(source)
    theme_of = rng.integers(source.themes, size=source.nodes)
    order = np.argsort(theme_of, kind="stable")
    bounds = np.searchsorted(theme_of[order], np.arange(source.themes + 1))
    everywhere = np.cumsum(propensity)
    # Themes are not equally popular, or all would have as many communities.
    popularity = rng.exponential(size=source.themes)
    chosen = rng.choice(source.themes, size=source.communities, p=popularity / popularity.sum())
    found = {}
    for index, (size, theme) in enumerate(zip(sizes, chosen, strict=True)):
        own = order[bounds[theme] : bounds[theme + 1]]
        loyal = min(round(size * source.loyalty), len(own) // 2)
        within = np.sort(own[_draw(rng, np.cumsum(propensity[own]), loyal)])
        found[f"community_{index}"] = _draw(rng, everywhere, size, within)
    return found


def generate_graph(source: GeneratedGraphSource) -> RawGraph:
    """The whole graph; the same source gives the same one."""
    members = generate_memberships(source)
    rng = np.random.default_rng([source.seed, 1])
    propensity = np.cumsum(_propensities(source))
    wanted = int(SURPLUS * source.edges)
    sizes = np.array([len(nodes) for nodes in members.values()])
    inside = sizes**DENSIFICATION
    # No community is asked for more than half of its pairs: what it cannot take joins the background.
    counts = np.minimum((1 - source.background) * wanted * inside / inside.sum(), sizes * (sizes - 1) / 4).astype(int)
    drawn = [
        _keys(nodes[rng.integers(len(nodes), size=(count, 2))], source.nodes)
        for nodes, count in zip(members.values(), counts, strict=True)
    ]
    keys = _some(rng, _distinct(np.concatenate(drawn)), round((1 - source.background) * source.edges))
    del drawn
    for drawn_before in itertools.count():
        missing = source.edges - len(keys)
        if missing <= 0:
            break
        # Where the graph is dense the pairs of large propensities are soon all taken: then any two nodes.
        more = int(SURPLUS * missing) + 16
        ends = rng.integers(source.nodes, size=2 * more)
        if drawn_before < DRAWS:
            ends = rng.permutation(_weighted(rng, propensity, 2 * more))
        keys = _distinct(np.concatenate([keys, _keys(ends.reshape(more, 2), source.nodes)]))
    edges = np.stack(np.divmod(_some(rng, keys, source.edges), source.nodes), axis=1)
    return RawGraph(GENERATED, np.arange(source.nodes), edges, members)


def _propensities(source: GeneratedGraphSource) -> NDArray[np.float64]:
    """(n,) Pareto with the exponent of memberships."""
    rng = np.random.default_rng([source.seed, 2])
    return (1 - rng.random(source.nodes)) ** (-1 / (source.membership_exponent - 1))


def _power_law(rng: np.random.Generator, count: int, low: int, high: int, exponent: float) -> NDArray[np.int64]:
    """(count,) sizes between low and high with density ∝ size^−exponent, the largest first."""
    power = 1 - exponent
    u = rng.random(count)
    sizes = (low**power + u * (float(high) ** power - low**power)) ** (1 / power)
    return np.sort(np.clip(np.round(sizes), low, high).astype(np.int64))[::-1]


def _draw(
    rng: np.random.Generator, cumulative: NDArray[np.float64], count: int, found: NDArray[np.int64] = NOTHING
) -> NDArray[np.int64]:
    """`count` distinct places, ascending, with chance by their weights; those found before are among them."""
    for _ in range(DRAWS):
        missing = count - len(found)
        if missing <= 0:
            return found
        found = _distinct(np.concatenate([found, _weighted(rng, cumulative, missing)]))
    # What is left are places of little weight.
    rest = np.setdiff1d(np.arange(len(cumulative)), found, assume_unique=True)
    return np.sort(np.concatenate([found, rng.choice(rest, count - len(found), replace=False)]))


def _weighted(rng: np.random.Generator, cumulative: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(count,) places with chance by their weights, ascending: a search in order stays in the cache."""
    drawn = np.sort(rng.random(count))
    drawn *= cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, drawn, "right"), len(cumulative) - 1)


def _keys(pairs: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """Undirected pairs as one number each, self-loops left out."""
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    return (low * nodes + high)[low != high]


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, without repetitions; in place of ``np.unique``, which hashes and takes many times as long."""
    keys.sort()
    fresh = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:])
    return keys[fresh]


def _some(rng: np.random.Generator, keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of the keys by chance, in their order; all where there are no more."""
    if len(keys) <= count:
        return keys
    return np.delete(keys, rng.choice(len(keys), len(keys) - count, replace=False))
