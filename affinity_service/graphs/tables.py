"""The native form of a graph: a folder of three Parquet tables.

`nodes`: `node` (an id, whole number or text) and, where known, `features` (a list of numbers) and `split` (train,
validation, test, or none for an example of nothing). `edges`: `source` and `target`. `labels`: `node`, `task` and,
where known, `label` (1 belongs, 0 does not; 1 when absent).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.graphs.raw import NO_SPLIT, Nodes, RawGraph, check_graph
from affinity_service.tasks.columns import is_text
from affinity_service.tasks.files import check_path, reason
from affinity_service.tasks.suite import SPLITS

TABLES = ("nodes", "edges", "labels")
# What the column `split` says; the last word is also number −1, as Python counts.
_SPLIT_CODES = {**{name: code for code, name in enumerate(SPLITS)}, "none": NO_SPLIT}


def read_graph_tables(path: str) -> RawGraph:
    """The graph in a folder.

    Raises
    ------
    UserError
        A table or column is missing or broken, an id is missing, repeated or unknown.
    """
    check_folder(path)
    nodes, edges, labels = (_read(path, name) for name in TABLES)
    ids = pd.Index(_ids(path, "nodes", nodes, "node"))
    if ids.has_duplicates:
        raise UserError(f"{path}/nodes.parquet: node {_shown(ids[ids.duplicated()][0])} occurs more than once")
    pairs = np.stack(
        [_numbered(path, "edges", _ids(path, "edges", edges, name), ids) for name in ("source", "target")], axis=1
    )
    members, others = _memberships(path, labels, ids)
    return RawGraph(path, ids.to_numpy(), pairs, members, others, _features(path, nodes), _split(path, nodes))


def write_graph_tables(graph: RawGraph, out: str) -> None:
    """The other way, into a folder, local or on any storage that pyarrow opens. A task without a node is not kept.

    Raises
    ------
    UserError
        The graph has no nodes, edges or memberships, or names nodes that do not exist.
    """
    check_graph(graph)
    columns: dict[str, Any] = {"node": pa.array(graph.ids)}
    if graph.features is not None:
        width = graph.features.shape[1]
        columns["features"] = pa.FixedSizeListArray.from_arrays(pa.array(graph.features.ravel()), width)
    if graph.split is not None:
        columns["split"] = pa.array(np.array(list(_SPLIT_CODES))[graph.split])
    names, parts = list(graph.members), [(graph.members, 1), (graph.others, 0)]
    listed = [(task, nodes[name], label) for nodes, label in parts for task, name in enumerate(names) if name in nodes]
    counts = [len(nodes) for _, nodes, _ in listed]
    codes = np.repeat([task for task, *_ in listed], counts).astype(np.int32)
    labels = {
        "node": pa.array(graph.ids[np.concatenate([nodes for _, nodes, _ in listed])]),
        "task": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string())),
        "label": pa.array(np.repeat([label for *_, label in listed], counts), pa.int8()),
    }
    edges = {name: pa.array(graph.ids[graph.edges[:, side]]) for side, name in enumerate(("source", "target"))}
    folder = StudyFolder.at(out)
    # All three get their names at the end: stopped before, they leave the graph that was there as it was.
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(folder.writing(f"{name}.parquet")) for name in TABLES]
        for stream, content in zip(streams, (columns, edges, labels), strict=True):
            pq.write_table(pa.table(content), stream, write_page_checksum=True)


def check_folder(path: str) -> None:
    """Raise ``UserError`` unless there is a folder at the path."""
    check_path(path)
    if not Path(path).is_dir():
        raise UserError(f"{path}: is a file, expected a folder of {', '.join(f'{name}.parquet' for name in TABLES)}")


def _read(path: str, name: str) -> pa.Table:
    file = f"{path}/{name}.parquet"
    check_path(file)
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        table.validate(full=True)
        table.column_names  # noqa: B018 - damaged names are found when they are decoded
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable Parquet table (truncated or damaged?): {reason(error)}") from error


def _column(path: str, table: str, content: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in content.column_names:
        raise UserError(
            f"{path}/{table}.parquet: no column `{name}`; found {', '.join(content.column_names) or 'none'}"
        )
    if content.column_names.count(name) > 1:
        raise UserError(f"{path}/{table}.parquet: column `{name}` occurs more than once")
    column = content[name]
    if column.null_count:
        raise UserError(f"{path}/{table}.parquet: column `{name}` lacks {column.null_count} of {len(column)} values")
    return column


def _ids(path: str, table: str, content: pa.Table, name: str) -> NDArray[Any]:
    """A column of node ids, numbers or text."""
    column = _column(path, table, content, name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        raise UserError(f"{path}/{table}.parquet: column `{name}` is {kind}, expected whole numbers or text")
    return column.cast(kind).to_numpy(zero_copy_only=False)


def _numbered(path: str, table: str, wanted: NDArray[Any], ids: pd.Index) -> NDArray[np.int64]:
    place = ids.get_indexer(pd.Index(wanted))
    if (place < 0).any():
        row = int(np.flatnonzero(place < 0)[0])
        raise UserError(
            f"{path}/{table}.parquet: row {row} names node {_shown(wanted[row])}, which nodes.parquet does not have "
            f"({int((place < 0).sum())} such rows)"
        )
    return place.astype(np.int64)


def _memberships(path: str, labels: pa.Table, ids: pd.Index) -> tuple[dict[str, Nodes], dict[str, Nodes]]:
    node = _numbered(path, "labels", _ids(path, "labels", labels, "node"), ids)
    tasks = _cast(path, "task", _column(path, "labels", labels, "task"), pa.string(), "a name")
    tasks = tasks.combine_chunks().dictionary_encode()
    value = np.ones(len(node))
    if "label" in labels.column_names:
        column = _cast(path, "label", _column(path, "labels", labels, "label"), pa.float64(), "1 or 0")
        value = column.to_numpy(zero_copy_only=False)
        if not np.isin(value, (0, 1)).all():
            row = int(np.flatnonzero(~np.isin(value, (0, 1)))[0])
            raise UserError(
                f"{path}/labels.parquet: row {row}: column `label` has {value[row]:g}; expected 1 (belongs) or 0 (does "
                "not)"
            )
    codes = tasks.indices.to_numpy()
    # Sorted once: looking for each of thousands of tasks in all rows would take longest of all.
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(tasks.dictionary) + 1))
    members: dict[str, Nodes] = {}
    others: dict[str, Nodes] = {}
    for code, name in enumerate(tasks.dictionary.to_pylist()):
        rows = order[bounds[code] : bounds[code + 1]]
        members[name], without = (np.unique(node[rows[value[rows] == label]]) for label in (1, 0))
        if len(without):
            others[name] = without
        both = np.intersect1d(members[name], without)
        if len(both):
            raise UserError(f"{path}/labels.parquet: node {_shown(ids[both[0]])} has both labels of task `{name}`")
    return members, others


def _cast(path: str, name: str, column: pa.ChunkedArray, kind: pa.DataType, expected: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise UserError(
            f"{path}/labels.parquet: column `{name}` is {column.type}, expected {expected}: {reason(error)}"
        ) from error


def _shown(node: Any) -> str:
    """A node's id as its table has it."""
    return repr(node.item() if isinstance(node, np.generic) else node)


def _features(path: str, nodes: pa.Table) -> NDArray[np.float32] | None:
    if "features" not in nodes.column_names:
        return None
    column = _column(path, "nodes", nodes, "features").combine_chunks()
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        raise UserError(f"{path}/nodes.parquet: column `features` is {kind}, expected lists of numbers")
    lengths = np.unique(pc.list_value_length(column).to_numpy())
    if len(lengths) != 1 or lengths[0] == 0:
        found = f"lists of {lengths[0]} to {lengths[-1]} numbers" if len(lengths) else "no list"
        raise UserError(f"{path}/nodes.parquet: column `features` has {found}; expected as many numbers in each")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # what float32 cannot hold is named below
        values = flat.astype(np.float32).reshape(len(column), -1)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise UserError(
            f"{path}/nodes.parquet: row {int(np.flatnonzero(bad)[0])}: column `features` has a number that is "
            "missing, NaN or infinite (in float32)"
        )
    return values


def _split(path: str, nodes: pa.Table) -> NDArray[np.int8] | None:
    if "split" not in nodes.column_names:
        return None
    named = _column(path, "nodes", nodes, "split").to_numpy(zero_copy_only=False)
    unknown = set(named) - set(_SPLIT_CODES)
    if unknown:
        raise UserError(
            f"{path}/nodes.parquet: column `split` has {min(map(_shown, unknown))}; expected {', '.join(_SPLIT_CODES)}"
        )
    return np.array([_SPLIT_CODES[each] for each in named], np.int8)
