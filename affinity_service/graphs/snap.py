"""Graphs of the SNAP collection: an edge list and a file of communities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.graphs.communities import read_communities
from affinity_service.graphs.edge_list import read_edge_list
from affinity_service.graphs.raw import RawGraph


def read_snap(edges: str, communities: str) -> RawGraph:
    """The nodes are those that have an edge, in the order of their ids.

    Raises
    ------
    UserError
        A file cannot be read, or a community names a node that no edge has.
    """
    pairs, members = read_edge_list(edges), read_communities(communities)
    ids, numbered = _numbered(pairs)
    placed = {}
    for name, nodes in members.items():
        place = np.searchsorted(ids, nodes)
        known = (place < len(ids)) & (ids[np.minimum(place, len(ids) - 1)] == nodes)
        if not known.all():
            raise UserError(
                f"{communities}: task `{name}` names node {int(nodes[~known][0])}, which no edge of {edges} has "
                f"({int((~known).sum())} such nodes); leave them out, or give the edges they belong to"
            )
        placed[name] = place.astype(np.int64)
    return RawGraph(edges, ids, numbered, placed)


def _numbered(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ids that occur, ascending, and the pairs by their places in them."""
    low, high = int(pairs.min()), int(pairs.max())
    if high - low < 4 * pairs.size:
        # Ids are mostly dense: marking them is many times faster than sorting the edges.
        present = np.zeros(high - low + 1, bool)
        present[pairs.ravel() - low] = True
        place = np.cumsum(present) - 1
        return np.flatnonzero(present) + low, place[pairs - low]
    ids, numbered = np.unique(pairs, return_inverse=True)
    return ids, numbered.reshape(pairs.shape).astype(np.int64)
