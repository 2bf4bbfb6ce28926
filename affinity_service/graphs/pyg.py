"""PyTorch Geometric's `Data` objects, and files of them, as graphs.

A study on a `Data` object from a notebook::

    from affinity_service import Study
    from affinity_service.config import Config
    from affinity_service.graphs.pyg import graph_from_pyg
    from affinity_service.graphs.tables import write_graph_tables

    write_graph_tables(graph_from_pyg(data), "my_graph")
    data = {"source": "graph", "path": "my_graph"}
    study = Study.run(Config.parse({"name": "mine", "data": data, "model": {"kind": "sign"}}))

`affinity import pyg FILE.pt OUT` does the same with a file of one.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.graphs.raw import NO_SPLIT, Nodes, RawGraph, check_graph
from affinity_service.tasks.files import check_path, reason
from affinity_service.tasks.suite import SPLITS

ORIGIN = "PyG data"
MASKS = {"train_mask": "train", "val_mask": "validation", "test_mask": "test"}


def graph_from_pyg(data: Any, task_names: Sequence[str] | None = None, origin: str = ORIGIN) -> RawGraph:
    """A graph from an object, or a mapping, that has what a `torch_geometric.data.Data` has.

    Parameters
    ----------
    data : `edge_index` (2, E); `y`: (n,) classes from 0, each of which becomes a task, or (n, T) of 1, 0 and NaN or −1
        where nothing is known; where there are any, `x` (n, d) and `train_mask`, `val_mask`, `test_mask` (n,) bool.
        Nodes in no mask are examples of nothing. An undirected graph has its edges both ways: the second is counted as
        a duplicate.
    task_names : of the classes, or of the columns of `y`; class_0, … or task_0, … when absent.

    Raises
    ------
    UserError
        Something is missing or of another shape, an edge names a node that does not exist; the field is named.
    """
    edges = _array(data, "edge_index", origin)
    labels = _array(data, "y", origin)
    if edges is None or labels is None:
        raise UserError(f"{origin}: no `{'edge_index' if edges is None else 'y'}`; expected edge_index, y, and maybe x")
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.dtype.kind not in "iu":
        raise UserError(f"{origin}: `edge_index` is {_shape(edges)}, expected whole numbers of shape (2, edges)")
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "biuf":
        raise UserError(f"{origin}: `y` is {_shape(labels)}, expected classes (nodes,) or labels (nodes, tasks)")
    nodes, features = len(labels), _features(data, origin, len(labels))
    split = _split(data, origin, nodes)
    known = np.ones(nodes, bool) if split is None else split != NO_SPLIT
    if labels.shape[1:] in ((), (1,)) and not _is_binary_column(labels):
        members, others = _by_class(labels.reshape(nodes), known, task_names, origin)
    else:
        members, others = _by_column(labels.reshape(nodes, -1), known, task_names, origin)
    graph = RawGraph(origin, np.arange(nodes), edges.T.astype(np.int64), members, others, features, split)
    check_graph(graph)
    return graph


def read_pyg(path: str, task_names: Sequence[str] | None = None) -> RawGraph:
    """The graph in a `.pt` file: a `Data` object, a mapping of tensors, or either first in a tuple, as data sets that
    PyG processed are stored. Nothing but tensors, containers and PyG's own `Data` is unpickled.

    Raises
    ------
    UserError
        No such file, not one of torch's, one that holds other objects, or `Data` without PyG installed.
    """
    check_path(path)
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder, expected a file")
    try:
        with _pyg_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_why_refused(path, error)}") from error
    # Of damaged files torch raises whatever its reader stumbles over.
    except Exception as error:
        raise UserError(f"{path}: not a file that torch.load reads (truncated or damaged?): {_first(error)}") from error
    while isinstance(content, (tuple, list)) and content:
        content = content[0]
    return graph_from_pyg(content, task_names, path)


def _pyg_allowed() -> contextlib.AbstractContextManager[Any]:
    """PyG's classes of one graph may be unpickled, where it is installed."""
    try:
        from torch_geometric.data import Data
        from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
        from torch_geometric.data.storage import EdgeStorage, GlobalStorage, NodeStorage
    except ImportError:
        return contextlib.nullcontext()
    return torch.serialization.safe_globals(
        [Data, DataEdgeAttr, DataTensorAttr, EdgeStorage, GlobalStorage, NodeStorage]
    )


def _why_refused(path: str, error: Exception) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is not even a file of torch's
        return f"not a file that torch.load reads (truncated or damaged?): {_first(error)}"
    if any(name.startswith("torch_geometric.") for name in found) and isinstance(
        _pyg_allowed(), contextlib.nullcontext
    ):
        return "holds objects of torch_geometric, which is not installed: pip install 'affinity-service[graphs]'"
    named = ", ".join(found) or _first(error)
    return (
        f"holds more than one graph's tensors, which is not unpickled, as it could run any code: {named}; store a Data "
        "object or a dictionary of tensors"
    )


def _first(error: Exception) -> str:
    return reason(error).splitlines()[0]


def _array(data: Any, name: str, origin: str) -> NDArray[Any] | None:
    """A field as an array; None where there is none."""
    value = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.to_dense() if value.layout != torch.strided else value
        return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UserError(f"{origin}: `{name}` is no array: {error}") from error


def _shape(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"


def _features(data: Any, origin: str, nodes: int) -> NDArray[np.float32] | None:
    features = _array(data, "x", origin)
    if features is None:
        return None
    if features.ndim != 2 or len(features) != nodes or not features.shape[1] or features.dtype.kind not in "biuf":
        raise UserError(
            f"{origin}: `x` is {_shape(features)}, expected numbers of shape ({nodes}, features), as `y` has"
        )
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise UserError(f"{origin}: `x` of node {int(np.flatnonzero(bad)[0])} has a number that is NaN or infinite")
    return np.ascontiguousarray(features, dtype=np.float32)


def _split(data: Any, origin: str, nodes: int) -> NDArray[np.int8] | None:
    """(n,) codes into ``SPLITS``, ``NO_SPLIT`` for nodes in no mask; None where there are no masks."""
    found = {name: mask for name in MASKS if (mask := _array(data, name, origin)) is not None}
    if not found:
        return None
    split = np.full(nodes, NO_SPLIT, np.int8)
    for name, mask in found.items():
        if mask.shape != (nodes,) or mask.dtype != np.bool_:
            raise UserError(
                f"{origin}: `{name}` is {_shape(mask)}, expected bool of shape ({nodes},); choose one split"
            )
        both = np.flatnonzero(mask & (split != NO_SPLIT))
        if len(both):
            raise UserError(f"{origin}: node {both[0]} is in `{name}` and in another mask")
        split[mask] = SPLITS.index(MASKS[name])
    return split


def _is_binary_column(labels: NDArray[Any]) -> bool:
    """Whether `y` (n, 1) is one task of 0 and 1, and not a column of classes."""
    values = labels[~np.isnan(labels.astype(np.float64))]
    return labels.ndim == 2 and labels.shape[1] == 1 and bool(np.isin(values, (-1, 0, 1)).all())


def _named(task_names: Sequence[str] | None, count: int, kind: str, origin: str) -> list[str]:
    if task_names is None:
        return [f"{kind}_{index}" for index in range(count)]
    if len(task_names) != count or len(set(task_names)) != count:
        raise UserError(f"{origin}: {len(set(task_names))} distinct task names for the {count} tasks of `y`")
    return list(task_names)


def _by_class(
    labels: NDArray[Any], known: NDArray[np.bool_], task_names: Sequence[str] | None, origin: str
) -> tuple[dict[str, Nodes], dict[str, Nodes]]:
    """One task per class: the other classes' nodes are its negatives."""
    values = labels.astype(np.float64)
    known = known & ~np.isnan(values) & (values != -1)
    bad = known & ((values < 0) | (values != np.floor(values)))
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        raise UserError(f"{origin}: `y` of node {node} is {values[node]:g}, expected a class from 0, or -1 for none")
    if not known.any():
        raise UserError(f"{origin}: no node has a class in `y`, or none of them is in a mask")
    last = values[known].max()
    if last >= len(labels):
        raise UserError(
            f"{origin}: `y` has class {last:g}, but there are {len(labels)} nodes; number the classes from 0"
        )
    names = _named(task_names, int(last) + 1, "class", origin)
    members = {name: np.flatnonzero(known & (values == index)) for index, name in enumerate(names)}
    return members, {name: np.flatnonzero(known & (values != index)) for index, name in enumerate(names)}


def _by_column(
    labels: NDArray[Any], known: NDArray[np.bool_], task_names: Sequence[str] | None, origin: str
) -> tuple[dict[str, Nodes], dict[str, Nodes]]:
    """One task per column of 1, 0 and NaN or −1."""
    names = _named(task_names, labels.shape[1], "task", origin)
    values = labels.astype(np.float32)
    bad = ~(np.isin(values, (-1, 0, 1)) | np.isnan(values))
    if bad.any():
        node, task = (int(place) for place in np.argwhere(bad)[0])
        raise UserError(
            f"{origin}: `y` of node {node}, task `{names[task]}` is {values[node, task]:g}, expected 1, 0, or NaN or "
            "-1 where it is not known"
        )
    members = {name: np.flatnonzero(known & (values[:, index] == 1)) for index, name in enumerate(names)}
    others = {name: np.flatnonzero(known & (values[:, index] == 0)) for index, name in enumerate(names)}
    # Where members only are known, negatives are sampled.
    return members, {name: nodes for name, nodes in others.items() if len(nodes)}
