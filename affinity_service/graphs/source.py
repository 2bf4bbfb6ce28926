"""From the `data` section of a graph to the graph itself."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.config_graphs import GeneratedGraphSource, GraphSource, GraphTablesSource, SnapSource
from affinity_service.errors import UserError
from affinity_service.graphs.generate import GENERATED, generate_graph, generate_memberships
from affinity_service.graphs.raw import RawGraph, check_graph, chosen_tasks, induced_graph
from affinity_service.graphs.snap import read_snap
from affinity_service.graphs.tables import TABLES, check_folder, read_graph_tables
from affinity_service.tasks.files import check_path, reason

MOST_BLOCKS = 1000


def read_graph(source: GraphSource) -> RawGraph:
    """Read or generate, keep the tasks and nodes that the source asks for, check.

    Raises
    ------
    UserError
        The data cannot be read or used; the message names the file, line, node or task.
    """
    if isinstance(source, SnapSource):
        graph = read_snap(source.edges, source.communities)
    elif isinstance(source, GraphTablesSource):
        graph = read_graph_tables(source.path)
    else:
        assert isinstance(source, GeneratedGraphSource)
        graph = generate_graph(source)
    check_graph(graph)
    if source.features.kind == "given" and graph.features is None:
        raise UserError(f"{graph.origin}: data.features.kind is given, but the nodes have none: use structural")
    graph = chosen_tasks(graph, source.tasks, source.largest)
    if source.subgraph == "induced":
        graph = induced_graph(graph)
        if len(graph.edges) == 0:
            raise UserError(f"{graph.origin}: the chosen tasks' {graph.nodes} nodes have no edge between them")
    _check_blocks(graph, source)
    return graph


def planned_graph(source: GraphSource) -> tuple[RawGraph, int]:
    """The graph and how many edges it has; a generated one has none in memory, as they take the longest to make."""
    if not isinstance(source, GeneratedGraphSource):
        graph = read_graph(source)
        return graph, len(graph.edges)
    members = generate_memberships(source)
    nodes = np.arange(source.nodes)
    graph = RawGraph(GENERATED, nodes, np.empty((0, 2), np.int64), members)
    graph = chosen_tasks(graph, source.tasks, source.largest)
    if source.subgraph == "induced":
        graph = induced_graph(graph)
    _check_blocks(graph, source)
    return graph, source.edges


def has_given_features(source: GraphSource) -> bool:
    """Whether the nodes' own features are used, as far as can be seen without reading them."""
    if source.features.kind != "auto" or not isinstance(source, GraphTablesSource):
        return source.features.kind == "given"
    try:
        return "features" in pq.read_schema(f"{source.path}/nodes.parquet").names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        # Whoever reads the table says what it lacks; where it is gone, the suite has been made of it.
        return False


def _check_blocks(graph: RawGraph, source: GraphSource) -> None:
    """Every pair of blocks has a tile: too many say more of themselves than of the graph."""
    blocks = -(-graph.nodes // source.block_rows)
    if blocks > MOST_BLOCKS:
        raise UserError(
            f"{graph.origin}: data.block_rows {source.block_rows} makes {blocks} blocks of {graph.nodes} nodes; "
            f"expected {MOST_BLOCKS} at most: use {-(-graph.nodes // MOST_BLOCKS)} or more"
        )


def files_of(source: GraphSource) -> list[str]:
    if isinstance(source, SnapSource):
        return [source.edges, source.communities]
    if isinstance(source, GraphTablesSource):
        return [f"{source.path}/{name}.parquet" for name in TABLES]
    return []


def source_identity(source: GraphSource) -> str:
    """Stands for what the source's files hold; where they lie decides nothing."""
    if isinstance(source, GraphTablesSource):
        check_folder(source.path)
    digest = hashlib.sha256()
    for path in files_of(source):
        check_path(path)
        try:
            with open(path, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    return digest.hexdigest()[:32]
