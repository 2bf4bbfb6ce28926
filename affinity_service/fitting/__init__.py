"""Subset designs and the fits that stand in for training on a subset."""

from affinity_service.fitting.designs import balanced_subsets, pair_coverage, subset_design
from affinity_service.fitting.evaluate import PredictedLosses, predicted_losses
from affinity_service.fitting.solve import FitResult, fit_subsets, solve_subsets

__all__ = [
    "FitResult",
    "PredictedLosses",
    "balanced_subsets",
    "fit_subsets",
    "pair_coverage",
    "predicted_losses",
    "solve_subsets",
    "subset_design",
]
