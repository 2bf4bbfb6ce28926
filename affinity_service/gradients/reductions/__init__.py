"""Reductions of per-example gradients to a few hundred numbers, one file each."""

from affinity_service.gradients.reductions.base import Reduction, build_reduction
from affinity_service.gradients.reductions.exact import Exact
from affinity_service.gradients.reductions.factorised import Factorised
from affinity_service.gradients.reductions.rademacher import Rademacher
from affinity_service.gradients.reductions.subspace import Subspace

__all__ = ["Exact", "Factorised", "Rademacher", "Reduction", "Subspace", "build_reduction"]
