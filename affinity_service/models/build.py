"""From the `model` section of a config to a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from affinity_service.config import MLPConfig, ModelConfig, SIGNConfig
from affinity_service.models.mlp import build_mlp
from affinity_service.models.sign import build_sign, check_hops
from affinity_service.tasks.suite import Task

BUILDERS: dict[type, Callable[[Sequence[int], Sequence[Task], Any], nn.Module]] = {
    MLPConfig: build_mlp,
    SIGNConfig: build_sign,
}


def build_model(config: ModelConfig, input_shape: Sequence[int], tasks: Sequence[Task], seed: int) -> nn.Module:
    """A fresh model for inputs of this shape (without the batch) and these tasks; its initial weights depend on the
    seed alone, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[type(config)](input_shape, tasks, config)


def check_input_shape(config: ModelConfig, input_shape: Sequence[int]) -> None:
    """Raise ``UserError`` where the model cannot read inputs of this shape, before anything is planned for it."""
    if isinstance(config, SIGNConfig):
        check_hops(input_shape)
