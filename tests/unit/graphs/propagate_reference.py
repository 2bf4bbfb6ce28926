"""Propagation as its formula has it: dense matrices in double precision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def dense_adjacency(edges: NDArray[np.int64], nodes: int, directed: bool) -> Tensor:
    """(n, n) of 0 and 1, row = target, without self-loops."""
    found = torch.zeros(nodes, nodes, dtype=torch.float64)
    for source, target in edges.tolist():
        if source != target:
            found[target, source] = 1
            if not directed:
                found[source, target] = 1
    return found


def dense_operator(edges: NDArray[np.int64], nodes: int, directed: bool, normalisation: str) -> Tensor:
    """(n, n) what one hop multiplies by: D^−½ (A + I) D^−½ or D⁻¹ (A + I)."""
    own = dense_adjacency(edges, nodes, directed) + torch.eye(nodes, dtype=torch.float64)
    degrees = own.sum(dim=1)
    if normalisation == "mean":
        return own / degrees[:, None]
    return own / (degrees[:, None] * degrees[None, :]).sqrt()
