"""Orthonormal columns as long as a model's weights, without a second copy of them in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

# Directions shorter than this part of the longest are rounding.
RANK_TOLERANCE = 1e-4
# Entries of the rows that are held in double precision at a time.
_ENTRIES = 1 << 24


def leading_span(columns: Tensor, most: int) -> Tensor:
    """(p, d) orthonormal basis of the span of (p, w) columns; of its `most` leading directions where it has more."""
    if not columns.shape[1]:
        return columns
    values, vectors = torch.linalg.eigh(_gram(columns))
    order = values.argsort(descending=True)[:most]
    order = order[values[order] > RANK_TOLERANCE**2 * values.max()]
    return orthonormalised(columns @ (vectors[:, order] / values[order].sqrt()).to(columns.dtype))


def orthonormalised(columns: Tensor) -> Tensor:
    """Nearly orthonormal columns made so to the last digit; the first j of them keep their span, for every j.

    Cholesky QR (Yamamoto et al. 2015), twice for rounding; by reflections where columns depend on each other so
    far that it fails.
    """
    for _ in range(2):
        lower, failed = torch.linalg.cholesky_ex(_gram(columns))
        if int(failed):
            return torch.linalg.qr(columns)[0]
        identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        columns = columns @ torch.linalg.solve_triangular(lower, identity, upper=False).T.to(columns.dtype)
    return columns


def without(columns: Tensor, basis: Tensor) -> Tensor:
    """Columns less their part in the span of an orthonormal basis; twice, for rounding."""
    for _ in range(2):
        columns = columns - basis @ (basis.T @ columns)
    return columns


def _gram(columns: Tensor) -> Tensor:
    """(w, w) products of all columns, in double precision."""
    rows = max(1, _ENTRIES // columns.shape[1])
    gram = torch.zeros(columns.shape[1], columns.shape[1], dtype=torch.float64, device=columns.device)
    for part in columns.split(rows):
        wide = part.double()
        gram += wide.T @ wide
    return gram
