"""A graph as a source gives it: edges, communities and node features in memory, nodes counted from 0."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from affinity_service.errors import UserError

Nodes = NDArray[np.int64]
NO_SPLIT = -1


@dataclass(frozen=True)
class RawGraph:
    """Edges and memberships.

    Attributes
    ----------
    origin : the file or generator, for messages.
    ids : (n,) what the source calls the nodes, numbers or text.
    edges : (E, 2) nodes by number, as they were given: in either order, repeated, with self-loops.
    members : task name → its nodes, ascending.
    others : task name → nodes that are known not to belong to it; tasks without an entry have sampled negatives.
    features : (n, d) float32, or None.
    split : (n,) codes into ``tasks.suite.SPLITS``, ``NO_SPLIT`` for nodes that are examples of nothing; or None.
    """

    origin: str
    ids: NDArray[np.generic]
    edges: NDArray[np.int64]
    members: Mapping[str, Nodes]
    others: Mapping[str, Nodes] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None
    split: NDArray[np.int8] | None = None

    @property
    def nodes(self) -> int:
        return len(self.ids)


def check_graph(graph: RawGraph) -> None:
    """Raise ``UserError`` for a graph without nodes, edges or memberships, and for nodes that do not exist."""
    if graph.nodes == 0 or len(graph.edges) == 0:
        raise UserError(f"{graph.origin}: the graph is empty: {graph.nodes} nodes, {len(graph.edges)} edges")
    if not any(map(len, graph.members.values())):
        raise UserError(f"{graph.origin}: no node belongs to any task; expected at least one community or label")
    low, high = int(graph.edges.min()), int(graph.edges.max())
    if low < 0 or high >= graph.nodes:
        bad = low if low < 0 else high
        raise UserError(f"{graph.origin}: an edge names node {bad}; expected 0 … {graph.nodes - 1}")
    for kind in (graph.members, graph.others):
        for name, nodes in kind.items():
            if len(nodes) and (nodes.min() < 0 or nodes.max() >= graph.nodes):
                bad = int(nodes.min()) if nodes.min() < 0 else int(nodes.max())
                raise UserError(f"{graph.origin}: task `{name}` names node {bad}; expected 0 … {graph.nodes - 1}")


def chosen_tasks(graph: RawGraph, names: Sequence[str] | None, largest: int | None) -> RawGraph:
    """The graph with the named tasks, or the largest (ties by their order in the source), or all.

    Raises
    ------
    UserError
        An unknown name, or fewer tasks than asked for.
    """
    found = list(graph.members)
    if names is not None:
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise UserError(f"{graph.origin}: data.tasks names `{repeated[0]}` more than once")
        unknown = [name for name in names if name not in graph.members]
        if unknown:
            near = difflib.get_close_matches(unknown[0], found, n=1, cutoff=0)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise UserError(f"{graph.origin}: no task `{unknown[0]}` among the {len(found)} there are{hint}")
        found = list(names)
    elif largest is not None:
        if largest > len(found):
            raise UserError(f"{graph.origin}: the {largest} largest communities are asked for, there are {len(found)}")
        found = sorted(found, key=lambda name: -len(graph.members[name]))[:largest]
    return replace(
        graph,
        members={name: graph.members[name] for name in found},
        others={name: graph.others[name] for name in found if name in graph.others},
    )


def induced_graph(graph: RawGraph) -> RawGraph:
    """Only the nodes that belong to a task (or are known not to), and the edges between them."""
    kept = np.unique(np.concatenate([*graph.members.values(), *graph.others.values()]))
    place = np.full(graph.nodes, -1, np.int64)
    place[kept] = np.arange(len(kept))
    edges = place[graph.edges]
    return replace(
        graph,
        ids=graph.ids[kept],
        edges=edges[(edges >= 0).all(axis=1)],
        members={name: place[nodes] for name, nodes in graph.members.items()},
        others={name: place[nodes] for name, nodes in graph.others.items()},
        features=None if graph.features is None else graph.features[kept],
        split=None if graph.split is None else graph.split[kept],
    )
