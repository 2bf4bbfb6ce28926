"""From the `model` section of a config to a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from affinity_service.config import MLPConfig
from affinity_service.models.mlp import build_mlp
from affinity_service.tasks.suite import Task


def build_model(config: MLPConfig, input_shape: Sequence[int], tasks: Sequence[Task], seed: int) -> nn.Module:
    """A fresh model for inputs of this shape (without the batch) and these tasks, initialised by the seed."""
    return build_mlp(input_shape, tasks, config, seed)
