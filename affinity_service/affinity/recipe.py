"""The published recipe beside ours: random projection of plain gradients, ridge (Grad-TAG, arXiv 2409.06091, §3)."""

from __future__ import annotations

import numpy as np
from torch import nn

from affinity_service.config import Config
from affinity_service.gradients.batches import per_example_gradients
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import FeatureRows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.state import trained_shapes
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

DIMENSION = 200


def recipe_config(config: Config, seed: int) -> Config:
    """The same study with d = 200 random signs and ridge, its penalty by the same rule."""
    gradients = {"reduction": "rademacher", "metric": "euclidean", "dimension": DIMENSION, "seed": seed}
    fits = {"solution": "ridge", "evaluate": "linearized", "l2": "auto"}
    return config.model_copy(
        update={
            "gradients": config.gradients.model_copy(update=gradients),
            "fits": config.fits.model_copy(update=fits),
        }
    )


def recipe_rows(model: nn.Module, suite: Suite, config: Config) -> tuple[FeatureRows, FeatureRows]:
    """Features of the training and validation rows."""
    space = WeightSpace(trained_shapes(model), config.gradients.layers)
    gradients = per_example_gradients(model, suite, config.gradients)
    reduction = build_reduction(config.gradients, space)

    def rows(split: int) -> FeatureRows:
        example, task = suite.pairs(split)
        made = compute_features(gradients, reduction, suite, example, task, config.gradients.batch_rows)
        return FeatureRows(made.features, made.margins, made.targets, task.astype(np.int32), example)

    return rows(TRAIN), rows(VALIDATION)
