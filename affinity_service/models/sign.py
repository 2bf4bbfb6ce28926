"""SIGN: a layer per hop over features that were propagated once, then shared layers and a head per task.

Scalable Inception Graph Neural Networks (Frasca et al. 2020, arXiv 2004.11198, eq. 3). After propagation an example is
a row like any other: no neighbour is looked up in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affinity_service.config import SIGNConfig
from affinity_service.errors import UserError
from affinity_service.models.heads import TaskHeads
from affinity_service.models.mlp import ACTIVATIONS, layers
from affinity_service.tasks.suite import Task


class SIGN(nn.Module):
    def __init__(self, hops: int, features: int, tasks: Sequence[Task], config: SIGNConfig) -> None:
        super().__init__()
        self.hops = nn.ModuleList(nn.Linear(features, config.hop_width) for _ in range(hops))
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)
        self.body = layers(hops * config.hop_width, config.hidden, config.activation, config.dropout)
        self.heads = TaskHeads(config.hidden[-1], tasks)

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, hops, features) → (B, columns) of the tasks asked for, all when None."""
        parts = [layer(inputs[..., hop, :]) for hop, layer in enumerate(self.hops)]
        return self.heads(self.body(self.dropout(self.activation(torch.cat(parts, dim=-1)))), tasks)


def build_sign(input_shape: Sequence[int], tasks: Sequence[Task], config: SIGNConfig) -> SIGN:
    """For inputs (hops, features), as sources of graphs make them.

    Raises
    ------
    UserError
        Inputs of another shape.
    """
    check_hops(input_shape)
    hops, features = input_shape
    return SIGN(hops, features, tasks, config)


def check_hops(input_shape: Sequence[int]) -> None:
    """Raise ``UserError`` unless examples are (hops, features)."""
    if len(input_shape) != 2:
        raise UserError(
            f"model.kind sign reads examples of shape (hops, features), but this suite's have {tuple(input_shape)}: "
            "use it with a graph, or model.kind mlp"
        )
