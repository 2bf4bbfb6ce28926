"""The weights of a model that train: what a study keeps, beside the pretrained ones that it does not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from affinity_service.errors import UserError


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trained_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the same, by name."""
    return {name: tuple(parameter.shape) for name, parameter in trained_parameters(model).items()}


@torch.no_grad()
def load_trained(model: nn.Module, weights: Mapping[str, Tensor], origin: str = "the checkpoint") -> None:
    """Set the weights that train.

    Raises
    ------
    UserError
        Other names or shapes than the model's, or a number that is not finite.
    """
    own = trained_parameters(model)
    missing, foreign = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or foreign:
        named = f"it lacks `{missing[0]}`" if missing else f"it has `{foreign[0]}`, which the model does not train"
        raise UserError(
            f"{origin} is of another model: {named} ({len(missing)} missing, {len(foreign)} foreign of {len(own)})"
        )
    for name, parameter in own.items():
        if weights[name].shape != parameter.shape:
            raise UserError(
                f"{origin} is of another model: `{name}` has shape {tuple(weights[name].shape)}, the model's has "
                f"{tuple(parameter.shape)}"
            )
        if not weights[name].isfinite().all():
            raise UserError(f"{origin}: `{name}` holds NaN or infinite numbers: the training that made it diverged")
        parameter.copy_(weights[name])
