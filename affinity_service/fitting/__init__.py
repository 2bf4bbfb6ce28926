"""Fits of task subsets on gradient features: designs, the batched solver, its reference, predicted losses."""

from affinity_service.fitting.designs import balanced_subsets, pair_coverage, subset_design
from affinity_service.fitting.evaluate import PredictedLosses, predicted_losses
from affinity_service.fitting.reference import fit_subset_reference
from affinity_service.fitting.solve import FitResult, fit_subsets, solve_subsets

__all__ = [
    "FitResult",
    "PredictedLosses",
    "balanced_subsets",
    "fit_subset_reference",
    "fit_subsets",
    "pair_coverage",
    "predicted_losses",
    "solve_subsets",
    "subset_design",
]
