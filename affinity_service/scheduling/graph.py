"""The interference graph: which tasks conflict, and the colour classes that run apart (arXiv 2509.16959, §3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Edges = list[tuple[int, int]]


def threshold(steps: int, tau: float, warmup: int, anneal: int) -> float:
    """τ after so many steps: 1 during the warm-up, which no interference exceeds, then falling with the logarithm of
    the steps to `tau`, reached `anneal` steps later."""
    if steps < warmup:
        return 1.0
    if steps - warmup >= anneal:
        return tau
    return 1 - (1 - tau) * math.log1p(steps - warmup) / math.log1p(anneal)


def quantile_threshold(rho: NDArray[np.float64], share: float) -> float:
    """The τ that the given share of all pairs exceeds, but never below 0: tasks that help each other are not parted."""
    pairs = rho[np.triu_indices(len(rho), 1)]
    return max(0.0, float(np.quantile(pairs, 1 - share))) if len(pairs) else 1.0


def conflicts(rho: NDArray[np.float64], tau: float) -> Edges:
    """Pairs i < j with ρ_ij > τ, strictly."""
    first, second = np.nonzero(np.triu(rho > tau, 1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def colour_classes(tasks: int, edges: Edges) -> list[list[int]]:
    """Classes without conflicts inside by Welsh & Powell (1967): most conflicts first, ties by index, each task into
    the first class that has room for it. At most Δ+1 classes, Δ the most conflicts of a task."""
    graph = nx.Graph()
    graph.add_nodes_from(range(tasks))
    graph.add_edges_from(edges)
    colours = nx.greedy_color(graph, strategy="largest_first")
    classes: list[list[int]] = [[] for _ in range(max(colours.values(), default=-1) + 1)]
    for task in range(tasks):
        classes[colours[task]].append(task)
    return classes


def most_stale_first(classes: Sequence[list[int]], waits: Sequence[int]) -> list[list[int]]:
    """In the order of the longest wait inside. A cycle that is cut short before its last classes can then starve no
    task: the next one begins with them. waits : steps since each task's last turn."""
    return sorted(classes, key=lambda members: -max(waits[task] for task in members))


def raise_coverage(
    classes: Sequence[list[int]], edges: Edges, coverage: float, tasks: int
) -> tuple[list[list[int]], dict[int, float]]:
    """Adds tasks to further classes until each is in a share `coverage` of them, where no member conflicts.

    Returns
    -------
    The classes, and the share that was reached by each task that falls short.
    """
    enemies: list[set[int]] = [set() for _ in range(tasks)]
    for i, j in edges:
        enemies[i].add(j)
        enemies[j].add(i)
    filled = [list(members) for members in classes]
    wanted = math.ceil(coverage * len(filled) - 1e-9)
    shortfall = {}
    # Those with most conflicts have fewest places to go.
    for task in sorted(range(tasks), key=lambda task: -len(enemies[task])):
        turns = sum(task in members for members in filled)
        for members in sorted(filled, key=len):
            if turns >= wanted:
                break
            if task not in members and enemies[task].isdisjoint(members):
                members.append(task)
                turns += 1
        if turns < wanted:
            shortfall[task] = turns / len(filled)
    return [sorted(members) for members in filled], shortfall
