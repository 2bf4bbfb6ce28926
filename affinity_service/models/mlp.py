"""A shared body of fully connected layers with a head per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affinity_service.config import MLPConfig
from affinity_service.models.heads import TaskHeads
from affinity_service.tasks.suite import Task

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class MLP(nn.Module):
    def __init__(self, features: int, tasks: Sequence[Task], config: MLPConfig) -> None:
        super().__init__()
        self.body = layers(features, config.hidden, config.activation, config.dropout)
        self.heads = TaskHeads(config.hidden[-1], tasks)

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, ...) → (B, columns) of the tasks asked for, all when None."""
        return self.heads(self.body(inputs.flatten(1)), tasks)


def layers(width: int, hidden: Sequence[int], activation: str, dropout: float) -> nn.Sequential:
    """Fully connected layers of these widths, each with its activation, and dropout where there is any."""
    modules: list[nn.Module] = []
    for size in hidden:
        modules += [nn.Linear(width, size), ACTIVATIONS[activation]()]
        if dropout:
            modules.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*modules)


def build_mlp(input_shape: Sequence[int], tasks: Sequence[Task], config: MLPConfig) -> MLP:
    """For inputs of any shape, which are read as one row of numbers."""
    return MLP(int(torch.Size(input_shape).numel()), tasks, config)
