"""Which nodes are examples of which tasks: members, sampled non-members, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affinity_service.config_graphs import GraphSource
from affinity_service.graphs.raw import NO_SPLIT, Nodes, RawGraph
from affinity_service.tasks.suite import SPLITS, Suite, Task, seeded_split


@dataclass(frozen=True)
class Examples:
    """Labelled nodes.

    Attributes
    ----------
    nodes : (N,) ascending. labels : (N, T) 1 for members, 0 for known or sampled non-members, NaN elsewhere.
    split : (N,) codes into ``SPLITS``; a node is in one split for all its tasks. tasks : T names.
    """

    nodes: Nodes
    labels: NDArray[np.float32]
    split: NDArray[np.int8]
    tasks: tuple[str, ...]

    def suite(self, inputs: NDArray[np.float32]) -> Suite:
        """With the inputs (N, ...) of the nodes."""
        return Suite(inputs, self.labels, self.split, tuple(Task(name, "binary") for name in self.tasks))


def sample_examples(graph: RawGraph, source: GraphSource) -> Examples:
    """Positives and negatives of every task, by the source's seeds; each task's draw is its own."""
    may = np.ones(graph.nodes, bool) if graph.split is None else graph.split != NO_SPLIT
    pool = np.arange(graph.nodes)
    if source.negatives_from == "members":
        pool = np.unique(np.concatenate(list(graph.members.values())))
    pool = pool[may[pool]]
    drawn = []
    for index, (name, every_member) in enumerate(graph.members.items()):
        rng = np.random.default_rng([source.sample_seed, index])
        members = positives = every_member[may[every_member]]
        if source.most_positives is not None and len(members) > source.most_positives:
            positives = rng.choice(members, source.most_positives, replace=False)
        negatives = graph.others.get(name)
        if negatives is None:
            belongs = np.zeros(graph.nodes, bool)
            belongs[members] = True
            negatives = _draw(pool[~belongs[pool]], positives, source.negatives, graph.split, rng)
        else:
            negatives = negatives[may[negatives]]
            if source.most_positives is not None:
                negatives = _draw(negatives, positives, source.negatives, graph.split, rng)
        drawn.append((positives, negatives))
    nodes = np.unique(np.concatenate([part for parts in drawn for part in parts]))
    labels = np.full((len(nodes), len(drawn)), np.nan, np.float32)
    for column, parts in enumerate(drawn):
        for part, label in zip(parts, (1, 0), strict=True):
            labels[np.searchsorted(nodes, part), column] = label
    if graph.split is not None:
        split = graph.split[nodes]
    else:
        split = seeded_split(len(nodes), source.split.validation, source.split.test, source.split.seed)
    return Examples(nodes, labels, split, tuple(graph.members))


def _draw(
    strangers: Nodes, positives: Nodes, ratio: float, split: NDArray[np.int8] | None, rng: np.random.Generator
) -> Nodes:
    """So many strangers per positive, or all there are; in each part of a given split by the positives there, at least
    one where there is a positive, so that no part lacks a class that it can have."""
    if split is None:
        return rng.choice(strangers, min(round(ratio * len(positives)), len(strangers)), replace=False)
    parts = []
    for code in range(len(SPLITS)):
        count, there = int((split[positives] == code).sum()), strangers[split[strangers] == code]
        wanted = max(1, round(ratio * count)) if count else 0
        parts.append(rng.choice(there, min(wanted, len(there)), replace=False))
    return np.concatenate(parts)
