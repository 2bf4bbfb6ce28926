"""Which rows a rank takes in one pass: of texts, so many that no pass holds too many tokens, and alike in length.

How many passes a step has is the same for all ranks and steps: DeepSpeed counts on it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from affinity_service.config import TrainConfig
from affinity_service.tasks.tokens import Inputs, TokenRows, bounded_batches

# Examples of a pass that no gradient follows.
EVALUATED_TOGETHER = 4096


def passes_per_step(inputs: Inputs, rows: NDArray[np.int64], config: TrainConfig, world: int) -> int:
    """Micro-batches per optimizer step and rank: those asked for, or as many more as the longest rows need."""
    if not isinstance(inputs, TokenRows):
        return config.accumulation
    examples = max(1, config.tokens // max(1, int(inputs.lengths[rows].max())))
    return max(config.accumulation, -(-(config.batch_size // world) // examples))


def own_rows(inputs: Inputs, batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """A rank's part of a global batch; of texts sorted by length, so that micro-batches cut from it pad little."""
    if isinstance(inputs, TokenRows):
        batch = batch[np.argsort(inputs.lengths[batch], kind="stable")]
    return batch[rank::world]


def evaluation_batches(
    inputs: Inputs, rows: NDArray[np.int64], rank: int, world: int, tokens: int
) -> list[NDArray[np.int64]]:
    """A rank's rows in passes; as many on every rank, empty ones at the end: under ZeRO-3 a pass gathers weights from
    all of them."""
    share = -(-len(rows) // world)
    passes = [
        [own[batch] for batch in bounded_batches(inputs, own, EVALUATED_TOGETHER, tokens)]
        for own in (rows[start * share : (start + 1) * share] for start in range(world))
    ]
    missing = max(map(len, passes)) - len(passes[rank])
    return passes[rank] + [rows[:0]] * missing


def as_inputs(inputs: Inputs, rows: NDArray[np.int64], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Of a number type as the weights'; ids stay what they are."""
    read = torch.as_tensor(inputs[rows], device=device)
    return read.to(dtype) if read.is_floating_point() else read
