"""The affinity matrix and the estimators that fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from affinity_service.affinity.matrix import AffinityMatrix

if TYPE_CHECKING:
    from affinity_service.affinity.estimates import SubsetEstimates
    from affinity_service.affinity.linearized import LinearizedEstimator

__all__ = ["AffinityMatrix", "LinearizedEstimator", "SubsetEstimates"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: reading a matrix, as the report does, needs no torch.
    if name == "LinearizedEstimator":
        from affinity_service.affinity.linearized import LinearizedEstimator

        return LinearizedEstimator
    if name == "SubsetEstimates":
        from affinity_service.affinity.estimates import SubsetEstimates

        return SubsetEstimates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
