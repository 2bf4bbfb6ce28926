"""The native form of a graph: a folder of three Parquet tables.

`nodes`: `node` (an id, whole number or text) and, where known, `features` (a list of numbers) and `split`. `edges`:
`source` and `target`. `labels`: `node`, `task` and, where known, `label` (1 belongs, 0 does not; 1 when absent).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.graphs.raw import Nodes, RawGraph
from affinity_service.tasks.files import check_path, reason
from affinity_service.tasks.suite import SPLITS

TABLES = ("nodes", "edges", "labels")


def read_graph_tables(path: str) -> RawGraph:
    """The graph in a folder.

    Raises
    ------
    UserError
        A table or column is missing or broken, an id is missing, repeated or unknown.
    """
    nodes, edges, labels = (_read(path, name) for name in TABLES)
    ids = pd.Index(_column(path, "nodes", nodes, "node").to_numpy(zero_copy_only=False))
    if ids.has_duplicates:
        raise UserError(f"{path}/nodes.parquet: node {ids[ids.duplicated()][0]!r} occurs more than once")
    pairs = np.stack(
        [_numbered(path, "edges", _column(path, "edges", edges, name), ids) for name in ("source", "target")], axis=1
    )
    members, others = _memberships(path, labels, ids)
    return RawGraph(path, ids.to_numpy(), pairs, members, others, _features(path, nodes), _split(path, nodes))


def write_graph_tables(graph: RawGraph, out: str) -> None:
    """The other way, into a folder, local or on any storage that pyarrow opens."""
    columns: dict[str, Any] = {"node": pa.array(graph.ids)}
    if graph.features is not None:
        width = graph.features.shape[1]
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(graph.features.ravel()), width)
    if graph.split is not None:
        columns["split"] = pa.array(np.array(SPLITS)[graph.split])
    names, parts = list(graph.members), [(graph.members, 1), (graph.others, 0)]
    listed = [(name, nodes[name], label) for nodes, label in parts for name in names if name in nodes]
    labels = {
        "node": pa.array(graph.ids[np.concatenate([nodes for _, nodes, _ in listed])]),
        "task": pa.array(np.repeat([name for name, *_ in listed], [len(nodes) for _, nodes, _ in listed])),
        "label": pa.array(
            np.repeat([label for *_, label in listed], [len(nodes) for _, nodes, _ in listed]), pa.int8()
        ),
    }
    edges = {name: pa.array(graph.ids[graph.edges[:, side]]) for side, name in enumerate(("source", "target"))}
    folder = StudyFolder.at(out)
    for name, content in zip(TABLES, (columns, edges, labels), strict=True):
        with folder.writing(f"{name}.parquet") as stream:
            pq.write_table(pa.table(content), stream, write_page_checksum=True)


def _read(path: str, name: str) -> pa.Table:
    file = f"{path}/{name}.parquet"
    check_path(path)
    if not Path(path).is_dir():
        raise UserError(f"{path}: expected a folder of nodes.parquet, edges.parquet and labels.parquet")
    check_path(file)
    try:
        return pq.read_table(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read: {reason(error)}") from error


def _column(path: str, table: str, content: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in content.column_names:
        raise UserError(f"{path}/{table}.parquet: no column `{name}`; found {', '.join(content.column_names)}")
    column = content[name]
    if column.null_count:
        raise UserError(f"{path}/{table}.parquet: column `{name}` lacks {column.null_count} of {len(column)} values")
    return column


def _numbered(path: str, table: str, column: pa.ChunkedArray, ids: pd.Index) -> NDArray[np.int64]:
    wanted = column.to_numpy()
    place = ids.get_indexer(wanted)
    if (place < 0).any():
        row = int(np.flatnonzero(place < 0)[0])
        raise UserError(
            f"{path}/{table}.parquet: row {row} names node {wanted[row]!r}, which nodes.parquet does not have "
            f"({int((place < 0).sum())} such rows)"
        )
    return place.astype(np.int64)


def _memberships(path: str, labels: pa.Table, ids: pd.Index) -> tuple[dict[str, Nodes], dict[str, Nodes]]:
    node = _numbered(path, "labels", _column(path, "labels", labels, "node"), ids)
    tasks = _column(path, "labels", labels, "task").cast(pa.string()).combine_chunks().dictionary_encode()
    value = np.ones(len(node))
    if "label" in labels.column_names:
        value = _column(path, "labels", labels, "label").cast(pa.float64()).to_numpy()
        if not np.isin(value, (0, 1)).all():
            bad = value[~np.isin(value, (0, 1))][0]
            raise UserError(f"{path}/labels.parquet: column `label` has {bad:g}; expected 1 (belongs) or 0 (does not)")
    codes = tasks.indices.to_numpy()
    found: tuple[dict[str, Nodes], dict[str, Nodes]] = {}, {}
    for code, name in enumerate(tasks.dictionary.to_pylist()):
        for kind, label in zip(found, (1, 0), strict=True):
            own = np.unique(node[(codes == code) & (value == label)])
            if len(own) or label == 1:
                kind[name] = own
        both = np.intersect1d(found[0][name], found[1].get(name, own[:0]))
        if len(both):
            raise UserError(f"{path}/labels.parquet: node {ids[both[0]]!r} has both labels of task `{name}`")
    return found


def _features(path: str, nodes: pa.Table) -> NDArray[np.float32] | None:
    if "features" not in nodes.column_names:
        return None
    column = _column(path, "nodes", nodes, "features").combine_chunks()
    lengths = np.unique(column.value_lengths().to_numpy()) if not pa.types.is_fixed_size_list(column.type) else [1]
    if len(lengths) > 1:
        raise UserError(f"{path}/nodes.parquet: `features` has lists of {lengths[0]} to {lengths[-1]} numbers")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise UserError(
            f"{path}/nodes.parquet: row {int(np.flatnonzero(bad)[0])} has a feature that is NaN or infinite"
        )
    return values


def _split(path: str, nodes: pa.Table) -> NDArray[np.int8] | None:
    if "split" not in nodes.column_names:
        return None
    named = _column(path, "nodes", nodes, "split").to_numpy(zero_copy_only=False)
    unknown = set(named) - set(SPLITS)
    if unknown:
        raise UserError(f"{path}/nodes.parquet: `split` has {min(map(repr, unknown))}; expected {', '.join(SPLITS)}")
    return np.array([SPLITS.index(each) for each in named], np.int8)
