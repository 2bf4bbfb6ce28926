"""Which weights of a pretrained network train: low-rank adapters beside frozen ones, some of its own, or all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from affinity_service.config_models import LoRAConfig, PretrainedConfig
from affinity_service.errors import UserError

# What the linear layers around attention are called, over the architectures of transformers.
PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "W_pack", "Wqkv", "Wo"),
    *("query", "key", "value", "dense", "query_key_value", "c_attn", "c_proj", "q_lin", "k_lin", "v_lin", "out_lin"),
)
ATTENTION = ("attn", "attention")


def make_trainable(network: nn.Module, config: PretrainedConfig, task_type: str) -> nn.Module:
    """The network, within peft's wrapper where there are adapters; what the config names requires a gradient.

    task_type : of peft, which then offers what such a network does.

    Raises
    ------
    UserError
        Names or patterns that match nothing.
    """
    network.requires_grad_(False)
    if config.adapter is not None:
        network = _with_lora(network, config.adapter, task_type)
    else:
        for parameter in _chosen(network, config.trains):
            parameter.requires_grad_(True)
    if config.checkpointing:
        model: Any = network
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return network


def _with_lora(network: nn.Module, config: LoRAConfig, task_type: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = adapter_targets(network, config.targets)
    # Declared as an integer there, and used as any number.
    alpha: Any = config.alpha
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type=task_type,
        # GPT-2's layers hold their weights transposed.
        fan_in_fan_out=not isinstance(network.get_submodule(targets[0]), nn.Linear),
    )
    with warnings.catch_warnings():
        # It asks transformers for a name that is going to change.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(network, lora)


def adapter_targets(network: nn.Module, targets: Sequence[str] | str) -> list[str]:
    """Full names of the linear layers that get an adapter, in the network's order."""
    linear = _linear_layers(network)
    if targets == "attention":
        found = {name for name in linear if _last(name) in PROJECTIONS and _in_attention(name)}
    elif targets == "all-linear":
        head = getattr(network, "get_output_embeddings", lambda: None)()
        found = {name for name, layer in linear.items() if layer is not head}
    else:
        found = set()
        for target in targets:
            own = {name for name in linear if name == target or name.endswith(f".{target}")}
            if not own:
                raise _no_layer(f"{target!r}", linear)
            found |= own
    if not found:
        raise _no_layer(f"{targets!r}", linear)
    return [name for name in linear if name in found]


def _linear_layers(network: nn.Module) -> dict[str, nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _in_attention(name: str) -> bool:
    return any(word in part.lower() for part in name.split(".")[:-1] for word in ATTENTION)


def _no_layer(target: str, linear: Iterable[str]) -> UserError:
    there = ", ".join(dict.fromkeys(_last(name) for name in linear))
    return UserError(f"model.adapter.targets: {target} matches no linear layer of the model; its layers are {there}")


def _chosen(network: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    own = dict(network.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in own):
            shown = list(own) if len(own) <= 8 else [*list(own)[:4], "…", *list(own)[-3:]]
            raise UserError(f"model.trains: {pattern!r} names no parameter of the model; there are {', '.join(shown)}")
    return [p for name, p in own.items() if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]
