"""From the `model` section of a config to a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from affinity_service.config_models import (
    CausalLMConfig,
    EncoderConfig,
    MLPConfig,
    ModelConfig,
    SAGEConfig,
    SIGNConfig,
    check_inputs,
)
from affinity_service.errors import UserError
from affinity_service.models.encoder import build_encoder
from affinity_service.models.language import build_causal_lm
from affinity_service.models.mlp import build_mlp
from affinity_service.models.sage import build_sage
from affinity_service.models.sign import build_sign
from affinity_service.tasks.suite import Task

BUILDERS: dict[type, Callable[[Sequence[int], Sequence[Task], Any], nn.Module]] = {
    MLPConfig: build_mlp,
    SIGNConfig: build_sign,
    SAGEConfig: build_sage,
    CausalLMConfig: build_causal_lm,
    EncoderConfig: build_encoder,
}


def build_model(config: ModelConfig, input_shape: Sequence[int], tasks: Sequence[Task], seed: int) -> nn.Module:
    """A fresh model for inputs of this shape (without the batch) and these tasks; its initial weights depend on the
    seed alone, and the global random state is left as it was.

    Raises
    ------
    UserError
        The model cannot read inputs of this shape, or learn tasks of these kinds.
    """
    check_inputs(config, input_shape)
    _check_kinds(config, tasks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[type(config)](input_shape, tasks, config)


def _check_kinds(config: ModelConfig, tasks: Sequence[Task]) -> None:
    """Answers are for language models, and language models for answers."""
    writes = isinstance(config, CausalLMConfig)
    wrong = [task for task in tasks if (task.kind == "sequence") != writes]
    if wrong:
        raise UserError(
            f"task `{wrong[0].name}` is of kind {wrong[0].kind}, but model.kind {config.kind} learns "
            + ("answers that are sequences: use model.kind encoder" if writes else "labels: use model.kind causal_lm")
        )
