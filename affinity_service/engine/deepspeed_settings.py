"""A file of DeepSpeed's own settings under ours: what decides the learning comes from the config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import affinity_service
from affinity_service.config import TrainConfig
from affinity_service.errors import UserError

READY_MADE = Path(affinity_service.__file__).parents[1] / "cluster_configs" / "deepspeed"
# What files written for transformers' trainer hold where it fills something in.
AUTO = "auto"


def read_settings(config: TrainConfig) -> dict[str, Any]:
    """What the file that `base.deepspeed` names adds; nothing without one.

    Raises
    ------
    UserError
        There is no such file, or it says otherwise than the config about something that the config decides.
    """
    if config.deepspeed is None:
        return {}
    file = settings_file(config.deepspeed)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"base.deepspeed {file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"base.deepspeed {file}: expected settings by name, found {type(content).__name__}")
    content = _without_auto(content)
    for key, (expected, setting) in _decided(config).items():
        found: Any = content
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and found != expected:
            raise UserError(
                f"base.deepspeed {file}: `{key}` is {json.dumps(found)}, but {setting}: change one of the two, or "
                "leave it out of the file"
            )
    own = {key.split(".")[0] for key in _decided(config)} - {"zero_optimization"}
    return {key: value for key, value in content.items() if key not in own}


def merged(file: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Ours over the file's, section by section."""
    sections = {key: {**file[key], **value} for key, value in own.items() if isinstance(value, dict) and key in file}
    return {**file, **own, **sections}


def settings_file(name: str) -> Path:
    """The file of that path, or the ready-made one of that name.

    Raises
    ------
    UserError
        There is neither.
    """
    file, ready_made = Path(name).expanduser(), READY_MADE / f"{name}.json"
    if file.is_file():
        return file
    if not ready_made.is_file():
        names = ", ".join(sorted(path.stem for path in READY_MADE.glob("*.json")))
        raise UserError(f"base.deepspeed {name}: no such file; ready-made are {names}")
    return ready_made


def _decided(config: TrainConfig) -> dict[str, tuple[Any, str]]:
    """By DeepSpeed's name: the value that ours have, and where it comes from."""
    steps = "it follows from base.batch_size, workers, accumulation and tokens"
    bf16 = config.precision == "bf16"
    return {
        "train_batch_size": (config.batch_size, f"base.batch_size is {config.batch_size}"),
        "train_micro_batch_size_per_gpu": (None, steps),
        "gradient_accumulation_steps": (None, steps),
        "gradient_clipping": (config.gradient_clipping, f"base.gradient_clipping is {config.gradient_clipping:g}"),
        "optimizer": (None, f"base.optimizer is {config.optimizer}"),
        "scheduler": (None, "the learning rate is constant, base.learning_rate"),
        "fp16.enabled": (False, f"base.precision is {config.precision}"),
        "bf16.enabled": (bf16, f"base.precision is {config.precision}"),
        "zero_optimization.stage": (config.zero_stage, f"base.zero_stage is {config.zero_stage}"),
    }


def _without_auto(content: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            inner = _without_auto(value)
            # What is left of a section that is filled in, such as an optimizer's name, still says something.
            if inner or not value:
                kept[key] = inner
        elif value != AUTO:
            kept[key] = value
    return kept
