"""What the features stand on, one safetensors file: base weights, metric, basis, per-task gradient statistics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from affinity_service.artifacts import StudyFolder
from affinity_service.gradients.statistics import GradientStatistics

ANCHOR = "gradients/anchor.safetensors"


def write_anchor(
    folder: StudyFolder,
    weights: Tensor,
    scale: Tensor,
    basis: Tensor | None,
    statistics: GradientStatistics,
    flops: float,
) -> None:
    """weights, scale (p,); basis (p, d) where the reduction has one; what all of it cost."""
    cost = torch.tensor([flops], dtype=torch.float64)
    tensors = {"weights": weights, "scale": scale, **statistics.to_tensors(), "flops": cost}
    if basis is not None:
        tensors["basis"] = basis
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    folder.write_bytes(ANCHOR, save_safetensors(content))


def read_anchor(folder: StudyFolder) -> Mapping[str, Tensor]:
    """Tensors by name: weights, scale, mean, validation_mean, square, flops and, where there is one, basis."""
    return load_safetensors(folder.read_bytes(ANCHOR))
