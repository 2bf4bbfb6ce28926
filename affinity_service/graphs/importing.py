"""`affinity import`: a foreign graph into the native folder of tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.graphs.raw import RawGraph, check_graph, chosen_tasks, induced_graph
from affinity_service.graphs.tables import TABLES, write_graph_tables
from affinity_service.graphs.tiles import GraphFacts, count_edges
from affinity_service.tasks.files import reason


@dataclass(frozen=True)
class ImportedGraph:
    """What was written.

    Attributes
    ----------
    features : per node; 0 where there are none.
    sizes : members of the smallest and of the largest task.
    left_out : tasks without a member.
    """

    path: str
    facts: GraphFacts
    features: int
    tasks: int
    sizes: tuple[int, int]
    with_split: bool
    left_out: list[str]

    def __str__(self) -> str:
        own, kind = self.facts, "directed" if self.facts.directed else "undirected"
        beside = [
            f"{count} {what}"
            for count, what in (
                (own.duplicates, "given again or in the other order" if not own.directed else "given again"),
                (own.self_loops, "from a node to itself"),
            )
            if count
        ]
        edges = f"{own.edges} {kind} edges" + (f" ({', '.join(beside)})" if beside else "")
        low, high = self.sizes
        tasks = f"{self.tasks} tasks of {low} to {high} members" + (", the split kept" if self.with_split else "")
        lines = [f"{self.path}: {own.nodes} nodes, {edges}, {self.features or 'no'} features, {tasks}"]
        if own.isolated:
            lines.append(f"{own.isolated} nodes have no edge: their neighbourhoods are they alone")
        if self.left_out:
            more = f" and {len(self.left_out) - 10} more" if len(self.left_out) > 10 else ""
            lines.append(f"left out, no member: {', '.join(self.left_out[:10])}{more}")
        directed = ", directed: true, normalisation: mean" if own.directed else ""
        return "\n".join([*lines, f"in a config: data: {{source: graph, path: {self.path}{directed}}}"])


def import_graph(
    read: Callable[[], RawGraph],
    out: str,
    overwrite: bool = False,
    largest: int | None = None,
    induced: bool = False,
    directed: bool = False,
) -> ImportedGraph:
    """What is read into the folder `out`, edges as they were given.

    Parameters
    ----------
    largest, induced : keep so many of the largest tasks; only their nodes, and the edges between them.
    directed : decides what is counted as the same edge; the tables are the same.

    Raises
    ------
    UserError
        The graph cannot be read or used, or the folder is taken or cannot be written.
    """
    _check_target(out, overwrite)
    graph = read()
    check_graph(graph)
    graph = chosen_tasks(graph, None, largest)
    if induced:
        graph = induced_graph(graph)
        check_graph(graph)
    left_out = [name for name, nodes in graph.members.items() if not len(nodes)]
    graph = chosen_tasks(graph, [name for name in graph.members if name not in left_out], None)
    facts = count_edges(graph.edges, graph.nodes, directed)
    try:
        write_graph_tables(graph, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {reason(error)}") from error
    counts = [len(nodes) for nodes in graph.members.values()]
    return ImportedGraph(
        path=out,
        facts=facts,
        features=0 if graph.features is None else graph.features.shape[1],
        tasks=len(counts),
        sizes=(min(counts), max(counts)),
        with_split=graph.split is not None,
        left_out=left_out,
    )


def _check_target(out: str, overwrite: bool) -> None:
    if "://" not in out and Path(out).is_file():
        raise UserError(
            f"{out}: is a file; name a folder to write {', '.join(f'{name}.parquet' for name in TABLES)} to"
        )
    folder = StudyFolder.at(out)
    if "://" not in out and not Path(out).exists():
        return
    there = [name for name in TABLES if folder.exists(f"{name}.parquet")]
    if there and not overwrite:
        raise UserError(f"{out}: holds {there[0]}.parquet already; give another name or --overwrite")
