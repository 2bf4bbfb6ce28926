"""From the config to a language model: pretrained weights, frozen, and what trains beside or among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from affinity_service.config_models import CausalLMConfig, PretrainedConfig
from affinity_service.models.adapters import make_trainable
from affinity_service.models.attention import choose_attention
from affinity_service.models.causal_lm import CausalLM
from affinity_service.models.pretrained import loading, pretrained_folder
from affinity_service.tasks.suite import Task


def build_causal_lm(input_shape: Sequence[int], tasks: Sequence[Task], config: CausalLMConfig) -> CausalLM:
    """A language model in float32; of the random state only the adapters' initial weights depend.

    Raises
    ------
    UserError
        There is no such model, or the adapters' or parameters' names match nothing in it.
    """
    from transformers import AutoModelForCausalLM

    return CausalLM(load_network(AutoModelForCausalLM, config, "CAUSAL_LM"))


def load_network(loader: Any, config: PretrainedConfig, task_type: str) -> nn.Module:
    """What one of transformers' Auto classes makes of the config's path, with what trains in it."""
    # Drawn first: how many numbers loading takes is its own affair.
    seed = int(torch.randint(2**31, ()))
    folder = pretrained_folder(config.path)
    with loading(config.path):
        network = loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    choose_attention(network)
    torch.manual_seed(seed)
    return make_trainable(network, config, task_type)
