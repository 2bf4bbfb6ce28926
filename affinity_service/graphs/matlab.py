"""Graphs in MATLAB files: an adjacency matrix and a matrix of labels by node, as `network` and `group`."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from affinity_service.errors import UserError
from affinity_service.graphs.raw import RawGraph
from affinity_service.tasks.files import check_path, reason


def read_matlab(path: str, network: str = "network", labels: str = "group") -> RawGraph:
    """Nodes are numbered by their rows; task `label_k` is column k of the labels, from 1.

    Raises
    ------
    UserError
        No MATLAB file (version 4 to 7.2), no such variable, or shapes that do not fit.
    """
    check_path(path)
    try:
        content = scipy.io.loadmat(path)
    # Of damaged files scipy raises whatever its reader stumbles over.
    except Exception as error:
        raise UserError(f"{path}: not a MATLAB file of version 4 to 7.2: {reason(error)}") from error
    names = [name for name in content if not name.startswith("__")]
    for name in (network, labels):
        if name not in content:
            raise UserError(f"{path}: no variable `{name}`; found {', '.join(names) or 'none'}")
    adjacency, groups = (_matrix(path, name, content[name]) for name in (network, labels))
    if adjacency.shape[0] != adjacency.shape[1] or groups.shape[0] != adjacency.shape[0]:
        raise UserError(
            f"{path}: `{network}` is {adjacency.shape} and `{labels}` {groups.shape}; expected (n, n) and (n, labels)"
        )
    edges = np.stack([adjacency.row, adjacency.col], axis=1)[adjacency.data != 0].astype(np.int64)
    row, column = groups.row[groups.data > 0], groups.col[groups.data > 0]
    members = {f"label_{k + 1}": np.unique(row[column == k]).astype(np.int64) for k in range(groups.shape[1])}
    return RawGraph(path, np.arange(adjacency.shape[0]), edges, members)


def _matrix(path: str, name: str, value: Any) -> sp.coo_matrix:
    if getattr(value, "ndim", 0) != 2 or value.dtype.kind not in "biuf":
        raise UserError(f"{path}: `{name}` must be a matrix of numbers, found {getattr(value, 'dtype', type(value))}")
    return sp.coo_matrix(value)
