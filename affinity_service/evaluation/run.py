"""What one training of a comparison is; apart from the trainers, so that reading results loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One model to train: its tasks and its seed (initial weights and order of examples)."""

    tasks: tuple[int, ...]
    seed: int
