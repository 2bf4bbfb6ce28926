"""Gradient sums of one shard on their way to the anchor: a safetensors file each, deleted once the anchor is there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from affinity_service.artifacts import StudyFolder
from affinity_service.gradients.statistics import GradientSums

SUMS = "gradients/sums/"


def sums_name(shard: int) -> str:
    return f"{SUMS}{shard:05d}.safetensors"


def write_sums(folder: StudyFolder, shard: int, parts: Mapping[int, GradientSums], flops: float) -> None:
    """Sums by split, and what they cost."""
    arrays = {f"{split}.{name}": value for split, part in parts.items() for name, value in vars(part).items()}
    folder.write_bytes(sums_name(shard), save_safetensors({**arrays, "flops": np.array([flops])}))


def read_sums(folder: StudyFolder, shard: int) -> tuple[dict[int, GradientSums], float]:
    """Sums by split, and FLOPs."""
    arrays = load_safetensors(folder.read_bytes(sums_name(shard)))
    flops = float(arrays.pop("flops")[0])
    splits = sorted({int(key.partition(".")[0]) for key in arrays})
    names = GradientSums.__dataclass_fields__
    return {split: GradientSums(**{name: arrays[f"{split}.{name}"] for name in names}) for split in splits}, flops
