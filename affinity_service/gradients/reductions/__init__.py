"""Reductions of per-example gradients to a few hundred numbers, one file each."""

from affinity_service.gradients.reductions.base import Reduction, build_reduction
from affinity_service.gradients.reductions.exact import Exact
from affinity_service.gradients.reductions.rademacher import Rademacher

__all__ = ["Exact", "Rademacher", "Reduction", "build_reduction"]
