"""DeepSpeed behind a few functions: start an engine, read whole weights and second moments out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from affinity_service.config import TrainConfig
from affinity_service.engine.deepspeed_settings import merged
from affinity_service.engine.train_job import ENGINE
from affinity_service.models.optimizer import torch_optimizer
from affinity_service.models.state import trained_parameters

if not torch.cuda.is_available():
    # Otherwise DeepSpeed looks for accelerators and warns that it found none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state


def effective_stage(config: TrainConfig) -> int:
    """DeepSpeed's bf16 optimizer of stage 0 loses its state dict; stage 1 computes the same and saves."""
    return max(config.zero_stage, 1) if config.precision == "bf16" else config.zero_stage


def start(
    model: nn.Module,
    config: TrainConfig,
    local_rank: int,
    passes: int,
    further: Mapping[str, Any],
    device: torch.device | None = None,
) -> Any:
    """A DeepSpeed engine around the model, which lies in main memory, inside an initialised process group.

    passes : micro-batches per step and worker. further : settings of DeepSpeed's own, under ours. device : of this
    worker; the CPU when None.
    """
    device = torch.device("cpu") if device is None else device
    # From Ray's context: DeepSpeed would guess it from host names.
    os.environ["LOCAL_RANK"] = str(local_rank)
    # A C++ extension for shared-memory reductions that DeepSpeed would compile at the first start on a CPU.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    world = torch.distributed.get_world_size()
    # Where passes do not divide a step evenly some are smaller; DeepSpeed only multiplies.
    micro = -(-config.batch_size // (world * passes))
    settings = {
        "train_batch_size": micro * passes * world,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": passes,
        # Set always: the default changed from 0.0 to 1.0 between releases.
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {"stage": effective_stage(config)},
        "zero_allow_untested_optimizer": True,
        # With an offloaded state too: DeepSpeed's own optimizer would be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.precision == "bf16"},
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }
    settings = merged(further, settings)
    computed = _computed_buffers(model)
    if effective_stage(config) == 3:
        _partition(model, config, settings, device)
    else:
        model = model.to(device)
    engine, *_ = deepspeed.initialize(
        model=model,
        # An object: naming an optimizer in the settings makes DeepSpeed compile its own.
        optimizer=torch_optimizer(list(trained_parameters(model).values()), config),
        config=settings,
        dist_init_required=False,
    )
    for module, name, value in computed:
        setattr(module, name, value.to(getattr(module, name).device))
    return engine


def _partition(model: nn.Module, config: TrainConfig, settings: Mapping[str, Any], device: torch.device) -> None:
    """Weight by weight, each rank keeps its part: left to itself DeepSpeed first moves the whole model to every device,
    which a model that is trained in parts need not fit on."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for parameter in model.parameters():
        # DeepSpeed casts no model that is in parts already.
        parameter.data = parameter.data.to(dtype)
    # The settings are checked against the number of ranks, which DeepSpeed knows only from here on.
    deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)
    deepspeed.zero.Init(module=model, config_dict_or_path=dict(settings), dtype=dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _computed_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Numbers that are computed, not learned, and so in no checkpoint: rotary frequencies rounded to bf16 would put
    tokens in other places."""
    return [
        (module, name, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and buffer.is_floating_point()
    ]


def save(engine: Any, directory: str) -> None:
    """Every rank's part of a checkpoint; frozen weights are built again."""
    engine.save_checkpoint(directory, tag=ENGINE, exclude_frozen_parameters=True)


def load(engine: Any, directory: str) -> None:
    engine.load_checkpoint(directory, tag=ENGINE, load_module_strict=False)


def full_state(engine: Any, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whole float32 weights that train and Adam's second moments by parameter name, on the CPU; zeros for SGD, which
    has none and weighs all entries alike. Every rank must call it."""
    has_moments = config.optimizer == "adamw"
    weights, moments = {}, {}
    for name, parameter in trained_parameters(engine.module).items():
        partitioned = hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id")
        weight = safe_get_full_fp32_param(parameter) if partitioned else parameter.detach()
        moment = _optimizer_state(engine, parameter, "exp_avg_sq") if has_moments else None
        weights[name] = weight.float().cpu().clone().view(parameter_shape(parameter))
        # A head that never took part in a step has no moment yet.
        moments[name] = (
            torch.zeros_like(weights[name]) if moment is None else moment.float().cpu().clone().view_as(weights[name])
        )
    return weights, moments


def current_weights(engine: Any) -> dict[str, Tensor]:
    """Whole float32 weights that train by name, where the model is; of stage 3 gathered, so every rank must call it."""
    return {
        name: (safe_get_full_fp32_param(p) if hasattr(p, "ds_id") else p.detach()).float().view(parameter_shape(p))
        for name, p in trained_parameters(engine.module).items()
    }


def plain_optimizer(
    engine: Any, config: TrainConfig, weights: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
    """An optimizer like the engine's, with copies of its state, over float32 parameters of these names. Every rank must
    call it."""
    parameters = {name: nn.Parameter(weights[name].clone()) for name in names}
    optimizer = torch_optimizer(list(parameters.values()), config)
    momentum = ("momentum_buffer",) if config.momentum else ()
    keys = ("exp_avg", "exp_avg_sq") if config.optimizer == "adamw" else momentum
    own = dict(engine.module.named_parameters())
    for name, parameter in parameters.items():
        state = {key: _optimizer_state(engine, own[name], key) for key in keys}
        if all(value is not None for value in state.values()):
            filled = {
                key: value.float().to(parameter).view_as(parameter).clone()
                for key, value in state.items()
                if value is not None
            }
            step = {"step": torch.tensor(float(engine.global_steps))} if config.optimizer == "adamw" else {}
            optimizer.state[parameter] = {**step, **filled}
    return optimizer, parameters


def _optimizer_state(engine: Any, parameter: nn.Parameter, key: str) -> Tensor | None:
    """Whole, also where ranks hold parts of it; None before the first step."""
    if hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id"):
        return safe_get_full_optimizer_state(parameter, key) if engine.global_steps else None
    return engine.optimizer.state[parameter].get(key)


def parameter_shape(parameter: nn.Parameter) -> torch.Size:
    """The whole shape, also of a parameter that ZeRO-3 has partitioned."""
    return getattr(parameter, "ds_shape", parameter.shape)
