"""Trained weights of a pretrained model as files that other programs read: adapters in peft's format.

`peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)` gives the trained model. Weights
that are no adapter lie in `model.safetensors`, under the pretrained model's own names; heads of an encoder's tasks
beside them. `affinity.json` says of which pretrained model they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from affinity_service.config_models import CausalLMConfig, LoRAConfig, PretrainedConfig
from affinity_service.errors import UserError
from affinity_service.models.pretrained import pretrained_identity

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
OWN, HEADS, ORIGIN = "model.safetensors", "heads.safetensors", "affinity.json"
# What our names of a network's weights begin with, and of heads.
NETWORK, HEAD = "network.", "heads."
# peft's name of an adapter among several, which its files leave out.
DEFAULT = ".default."
WITHIN_PEFT = "base_model.model."


def adapter_files(weights: Mapping[str, Tensor], config: PretrainedConfig) -> dict[str, bytes]:
    """Files by name. weights : those that train, by the model's names, as ``trained_parameters`` gives them."""
    held = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    network = {name.removeprefix(NETWORK): weight for name, weight in held.items() if name.startswith(NETWORK)}
    heads = {name.removeprefix(HEAD): weight for name, weight in held.items() if name.startswith(HEAD)}
    files = {ORIGIN: _json({"base": pretrained_identity(config.path), "path": config.path})}
    # As transformers marks its own, which refuses others.
    form = {"format": "pt"}
    if config.adapter is None:
        files[OWN] = save_safetensors(network, form)
    else:
        in_peft = {name.replace(DEFAULT, "."): weight for name, weight in network.items()}
        files[ADAPTER] = save_safetensors(in_peft, form)
        files[ADAPTER_CONFIG] = _json(_peft_config(list(in_peft), config, config.adapter))
    if heads:
        files[HEADS] = save_safetensors(heads, form)
    return files


def save_adapter(weights: Mapping[str, Tensor], config: PretrainedConfig, folder: Path) -> None:
    """The same into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in adapter_files(weights, config).items():
        (folder / name).write_bytes(content)


def load_adapter(folder: Path, config: PretrainedConfig) -> dict[str, Tensor]:
    """The weights that train, by the model's names; also of a folder that peft itself has written.

    Raises
    ------
    UserError
        A file is missing or damaged, the weights are of another pretrained model or another scale, or hold NaN or
        infinite numbers.
    """
    _check_origin(folder, config)
    if config.adapter is not None:
        _check_scale(folder, config.adapter)
    network = _read(folder, OWN if config.adapter is None else ADAPTER)
    if config.adapter is not None:
        network = {_with_default(name): weight for name, weight in network.items()}
    heads = _read(folder, HEADS) if (folder / HEADS).exists() else {}
    weights = {NETWORK + name: weight for name, weight in network.items()}
    weights |= {HEAD + name: weight for name, weight in heads.items()}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(f"{folder}: `{name}` holds NaN or infinite numbers: the training that made it diverged")
    return weights


def _check_origin(folder: Path, config: PretrainedConfig) -> None:
    file = folder / ORIGIN
    if not file.exists():
        # Written by peft itself: names and shapes are what is left to compare.
        return
    found = json.loads(file.read_text())
    if found["base"] != pretrained_identity(config.path):
        raise UserError(
            f"{folder} is of another base model: it was trained beside {found['path']}, and model.path is {config.path}"
        )


def _check_scale(folder: Path, lora: LoRAConfig) -> None:
    """The same numbers scaled otherwise are another model, which no name or shape shows."""
    file = folder / ADAPTER_CONFIG
    found = json.loads(file.read_text()) if file.exists() else {}
    for name, own, setting in (("lora_alpha", lora.alpha, "alpha"), ("r", lora.rank, "rank")):
        if found.get(name, own) != own:
            raise UserError(
                f"{file}: `{name}` is {found[name]:g}, but model.adapter.{setting} is {own:g}: set it to what the "
                "adapter was trained with"
            )
    if found.get("use_rslora"):
        raise UserError(f"{file}: `use_rslora` is true, but adapters here are scaled by alpha / rank: train it anew")


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_safetensors((folder / name).read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / name}: cannot be read: {error}") from error


def _with_default(name: str) -> str:
    """…lora_A.weight → …lora_A.default.weight"""
    stem, _, last = name.rpartition(".")
    return f"{stem}{DEFAULT}{last}"


def _peft_config(names: list[str], config: PretrainedConfig, lora: LoRAConfig) -> dict[str, Any]:
    layers = [name.removeprefix(WITHIN_PEFT).partition(".lora_")[0] for name in names]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if isinstance(config, CausalLMConfig) else "FEATURE_EXTRACTION",
        "base_model_name_or_path": config.path,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(dict.fromkeys(layers)),
        "bias": "none",
        "inference_mode": True,
    }


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
