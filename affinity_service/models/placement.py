"""A model spread over devices, main memory and disk by accelerate, for passes that no single device has room for.

What trains stays where it is computed with: it is little, and read and written as a whole. Frozen weights are loaded as
a pass reaches them. In the pass backward they are needed again, so activations must be computed again too
(``model.checkpointing``): kept ones would keep their weights alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from affinity_service.config_models import PretrainedConfig
from affinity_service.errors import UserError
from affinity_service.models.state import trained_parameters


def spread(model: nn.Module, config: PretrainedConfig, folder: str) -> nn.Module:
    """The model over as much of each device as ``config.max_memory`` says; what fits nowhere lies in `folder`.

    Raises
    ------
    UserError
        Weights leave their device while activations are kept or beside some that train, or accelerate finds no room.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.hooks import remove_hook_from_module

    assert config.max_memory is not None, "asked for"
    trained = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
    whole = [name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()]
    memory: Any = {int(device) if device.isdigit() else device: size for device, size in config.max_memory.items()}
    try:
        places = infer_auto_device_map(model, memory, no_split_module_classes=sorted(set(whole)))
    except (ValueError, KeyError) as error:
        raise UserError(f"model.max_memory {dict(config.max_memory)}: {error}") from error
    if set(places.values()) == {"disk"}:
        raise UserError(
            f"model.max_memory {dict(config.max_memory)}: no device has room for a layer; raise what it gives one"
        )
    away = {str(place) for place in places.values()} - {str(_main(places))}
    if away & {"cpu", "disk"} and not config.checkpointing:
        raise UserError(
            f"model.max_memory leaves weights on {', '.join(sorted(away))}: they are loaded for every pass, which "
            "needs model.checkpointing true"
        )
    if away:
        _check_whole_modules(model)
    with torch.no_grad():
        model = dispatch_model(model, places, offload_dir=folder, force_hooks=True)
        for name, value in trained.items():
            owner, _, own = name.rpartition(".")
            module = model.get_submodule(owner)
            device = getattr(getattr(module, "_hf_hook", None), "execution_device", value.device)
            remove_hook_from_module(module)
            module.register_parameter(own, nn.Parameter(value.to(device)))
    return model


def _check_whole_modules(model: nn.Module) -> None:
    """What trains stays, and with it its module is no longer loaded and put away."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        trains = [key for key, parameter in own.items() if parameter.requires_grad]
        if trains and len(trains) < len(own):
            frozen = next(key for key in own if key not in trains)
            raise UserError(
                f"model.max_memory: `{name}.{trains[0]}` trains and `{name}.{frozen}` does not, but one layer cannot "
                "lie in two places: name whole layers in model.trains, train an adapter, or leave max_memory out"
            )


def _main(places: Mapping[str, Any]) -> Any:
    """The first accelerator, or main memory where there is none."""
    return next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
