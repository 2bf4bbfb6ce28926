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
        layers: list[nn.Module] = []
        width = features
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[config.activation]()]
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
            width = hidden
        self.body = nn.Sequential(*layers)
        self.heads = TaskHeads(width, tasks)

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, features) → (B, columns) of the tasks asked for, all when None."""
        return self.heads(self.body(inputs), tasks)


def build_mlp(input_shape: Sequence[int], tasks: Sequence[Task], config: MLPConfig, seed: int) -> MLP:
    """An MLP whose initial weights depend on the seed alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(int(torch.Size(input_shape).numel()), tasks, config)
