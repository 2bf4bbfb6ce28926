"""Gradient sums of one split of one shard on their way to the anchor: a safetensors file each, deleted once that is
there. Of many tasks and weights a file is gigabytes: no process holds more than one."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from affinity_service.artifacts import StudyFolder
from affinity_service.gradients.statistics import GradientSums

SUMS = "gradients/sums/"


def sums_name(shard: int, split: int) -> str:
    return f"{SUMS}{shard:05d}-{split}.safetensors"


def write_sums(folder: StudyFolder, shard: int, split: int, sums: GradientSums, flops: float) -> None:
    """Sums, and what they cost."""
    arrays = {name: value for name, value in vars(sums).items() if value is not None}
    folder.write_bytes(sums_name(shard, split), save_safetensors({**arrays, "flops": np.array([flops])}))


def read_sums(folder: StudyFolder, shard: int, split: int) -> tuple[GradientSums, float]:
    """Sums and FLOPs."""
    arrays = load_safetensors(folder.read_bytes(sums_name(shard, split)))
    flops = float(arrays.pop("flops")[0])
    return GradientSums(**arrays), flops
