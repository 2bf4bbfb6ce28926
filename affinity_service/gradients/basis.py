"""The basis of the `subspace` reduction, orthonormal in the scaled weight space, as a map both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from affinity_service.gradients.layer_factors import LayerFactors


class Basis(Protocol):
    @property
    def width(self) -> int:
        """d."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """(M, p) → (M, d), Bᵀx."""
        ...

    def lift(self, c: Tensor) -> Tensor:
        """(M, d) → (M, p), Bc."""
        ...


@dataclass(frozen=True)
class DenseBasis:
    """columns : (p, d)."""

    columns: Tensor

    @property
    def width(self) -> int:
        return self.columns.shape[1]

    def project(self, x: Tensor) -> Tensor:
        return torch.mv(self.columns.T, x[0])[None] if len(x) == 1 else x @ self.columns

    def lift(self, c: Tensor) -> Tensor:
        # Of a single row the product of matrices takes twice as long as that with a vector.
        return torch.mv(self.columns, c[0])[None] if len(c) == 1 else c @ self.columns.T


@dataclass(frozen=True)
class LayeredBasis:
    """P·columns: in the coordinates (D) of layers' factors, columns (D, d)."""

    factors: LayerFactors
    columns: Tensor

    @property
    def width(self) -> int:
        return self.columns.shape[1]

    def project(self, x: Tensor) -> Tensor:
        return self.factors.project(x) @ self.columns

    def lift(self, c: Tensor) -> Tensor:
        return self.factors.lift(c @ self.columns.T)


def stored_basis(tensors: Mapping[str, Tensor], device: str | torch.device) -> Basis | None:
    """From an anchor's tensors; None where coordinates are the weights themselves."""
    if "basis" not in tensors:
        return None
    columns, factors = tensors["basis"].to(device), LayerFactors.from_tensors(tensors, device)
    return DenseBasis(columns) if factors is None else LayeredBasis(factors, columns)
