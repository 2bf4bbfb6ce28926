"""Per-example gradients of the base model, reduced to a few hundred numbers."""

from affinity_service.gradients.features import compute_features
from affinity_service.gradients.store import FeatureRows, FeatureStore

__all__ = ["FeatureRows", "FeatureStore", "compute_features"]
