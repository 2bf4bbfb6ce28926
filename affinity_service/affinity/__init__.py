"""The affinity matrix and the estimators that fill it."""

from affinity_service.affinity.linearized import LinearizedEstimator, SubsetEstimates
from affinity_service.affinity.matrix import AffinityMatrix

__all__ = ["AffinityMatrix", "LinearizedEstimator", "SubsetEstimates"]
