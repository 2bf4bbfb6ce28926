"""The way from a model to its estimator without Ray, for tests."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.affinity import LinearizedEstimator
from affinity_service.config import Config
from affinity_service.gradients.anchor import build_anchor
from affinity_service.gradients.batches import Gradients
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.margins import pair_margins
from affinity_service.gradients.own_parameters import reduction_of
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.statistics import gradient_sums
from affinity_service.gradients.store import FeatureRows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

Rows = tuple[FeatureRows, FeatureRows]


def model_of(config: Config, suite: Suite, seed: int = 0) -> nn.Module:
    return build_model(config.model, suite.inputs.shape[1:], suite.tasks, seed)


def space_of(model: nn.Module) -> WeightSpace:
    return WeightSpace({name: tuple(p.shape) for name, p in model.named_parameters()})


def constant_moments(model: nn.Module, value: float = 1e-4) -> dict[str, Tensor]:
    return {name: torch.full_like(p, value) for name, p in model.named_parameters()}


def features_of(
    config: Config,
    suite: Suite,
    model: nn.Module,
    moments: dict[str, Tensor] | None = None,
    space: WeightSpace | None = None,
    apart: bool = False,
    gradients: Gradients | None = None,
) -> tuple[Rows, dict[str, Tensor]]:
    """Training and validation rows, and the anchor that they stand on; with heads apart as among many tasks."""
    space, gradients = space or space_of(model), gradients or PerExampleGradients(model, suite.tasks)
    batch = config.gradients.batch_rows
    sums = {split: gradient_sums(gradients, space, suite, *suite.pairs(split), batch) for split in (TRAIN, VALIDATION)}
    moments = constant_moments(model) if moments is None else moments
    anchor = build_anchor(config.gradients, gradients, space, suite, moments, lambda split: [sums[split]], apart)
    reduce = reduction_of(config.gradients, space, model, anchor, "cpu")

    def rows(split: int) -> FeatureRows:
        example, task = suite.pairs(split)
        made = compute_features(gradients, reduce, suite, example, task, batch)
        return FeatureRows(made.features, made.margins, made.targets, task, example, made.products)

    return (rows(TRAIN), rows(VALIDATION)), anchor


def estimator_of(config: Config, suite: Suite, model: nn.Module, apart: bool = False) -> LinearizedEstimator:
    rows, anchor = features_of(config, suite, model, apart=apart)
    return LinearizedEstimator(*rows, suite.tasks, config, anchor)


def margin_gradient(model: nn.Module, suite: Suite, example: int, task: int) -> NDArray[np.float32]:
    """(p,) of one pair's margin by one autograd call: slow and obvious."""
    x, label = torch.tensor(suite.inputs[example])[None], torch.tensor(suite.labels[example, task])[None]
    margin = pair_margins(model.eval()(x, [task]), [task], torch.tensor([task]), label, suite.tasks)[0]
    found = torch.autograd.grad(margin, list(model.parameters()), allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]
    return torch.cat([part.flatten() for part in parts]).numpy()
