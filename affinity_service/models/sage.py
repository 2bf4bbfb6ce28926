"""GraphSAGE over sampled neighbourhoods: inductive representation learning (Hamilton, Ying and Leskovec 2017,
arXiv 1706.02216, algorithm 2), without the normalisation of its line 7.

The neighbourhoods are sampled before training and lie in the inputs (graphs/neighbours.py), so an example is a block of
numbers like any other: no neighbour is looked up in training. The last axis but one holds a node and its neighbours, of
which every step makes one; a layer sees the nodes of all steps alike, as the paper's weights do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from affinity_service.config_models import SAGEConfig
from affinity_service.models.heads import TaskHeads
from affinity_service.models.mlp import ACTIVATIONS
from affinity_service.tasks.suite import Task


class SAGELayer(nn.Module):
    """W [x_v, aggregate of x_u over neighbours u] + b.

    Its weights are its own rather than a linear layer's: one example passes through them several times, so that its
    gradient is no outer product (gradients/per_example.py).
    """

    def __init__(self, inputs: int, outputs: int, aggregator: str) -> None:
        super().__init__()
        # The bound of torch's Linear.
        bound = 1 / math.sqrt(2 * inputs)
        self.weight = nn.Parameter(torch.empty(outputs, 2 * inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.aggregator = aggregator

    def forward(self, nodes: Tensor) -> Tensor:
        """(..., 1 + fanout, inputs), the node first, then its neighbours → (..., outputs)."""
        neighbours = nodes[..., 1:, :]
        aggregate = neighbours.mean(dim=-2) if self.aggregator == "mean" else neighbours.amax(dim=-2)
        both = torch.cat([nodes[..., 0, :], aggregate], dim=-1)
        return F.linear(both, self.weight, self.bias)


class SAGE(nn.Module):
    def __init__(self, features: int, tasks: Sequence[Task], config: SAGEConfig) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for width, size in pairwise([features, *config.hidden]):
            steps += [SAGELayer(width, size, config.aggregator), ACTIVATIONS[config.activation]()]
            if config.dropout:
                steps.append(nn.Dropout(config.dropout))
        self.body = nn.Sequential(*steps)
        self.heads = TaskHeads(config.hidden[-1], tasks)

    def forward(self, inputs: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(B, 1 + fanout 1, 1 + fanout 2, …, features) → (B, columns) of the tasks asked for, all when None."""
        return self.heads(self.body(inputs), tasks)


def build_sage(input_shape: Sequence[int], tasks: Sequence[Task], config: SAGEConfig) -> SAGE:
    """For inputs of as many steps of neighbours as the model has layers."""
    return SAGE(input_shape[-1], tasks, config)
