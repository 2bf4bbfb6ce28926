"""What one training of a comparison is; apart from the trainers, so that reading results loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from affinity_service.config import MANY_TASKS


@dataclass(frozen=True)
class Run:
    """One model to train: its tasks and its seed (initial weights and order of examples)."""

    tasks: tuple[int, ...]
    seed: int


def stack_lengths(tasks: Sequence[float], most: int) -> list[int]:
    """How many of some models lie in each stack, given the number of tasks of each, falling: at most so many, and
    models of hundreds of tasks apart from those of far fewer, as all of a stack have as many heads as the largest."""
    lengths: list[int] = []
    largest = 0.0
    for own in tasks:
        if not lengths or lengths[-1] == most or largest > max(MANY_TASKS, 2 * own):
            lengths.append(0)
            largest = own
        lengths[-1] += 1
    return lengths
