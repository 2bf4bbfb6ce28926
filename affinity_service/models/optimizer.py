"""The optimizer that a training's config names, as an object of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from affinity_service.config import TrainConfig


def torch_optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    # Fused: one call for the hundreds of small parameters that heads and adapters are.
    return torch.optim.AdamW(parameters, fused=True, **common)
