"""What a training is given and what it leaves, apart from the loop so that the driver need not import DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from affinity_service.config import ModelConfig, TrainConfig
from affinity_service.config_training import MeasuringPart, ScheduleConfig

# Files of a checkpoint.
TURNS, MEASUREMENTS = "schedule.parquet", "measurements.parquet"
STATE, WEIGHTS, MOMENTS, ENGINE = "state.json", "model.safetensors", "second_moments.safetensors", "engine"


@dataclass(frozen=True)
class TrainJob:
    """One training: a model on a set of tasks of a suite that lies in the object store."""

    suite: ray.ObjectRef
    model: ModelConfig
    train: TrainConfig
    tasks: tuple[int, ...]
    progress: Any = None
    # Weights to start from, safetensors bytes; those of the seed when None.
    initial: bytes | None = None
    # What is measured, and which tasks take turns, while it trains.
    measuring: MeasuringPart | None = None
    schedule: ScheduleConfig | None = None
    # DeepSpeed's own, from the file that the config names.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # For the logs of the workers.
    stamps: Mapping[str, str] = field(default_factory=dict)


@dataclass
class TrainState:
    """What continues after an interruption, beside the engine's own checkpoint."""

    epoch: int = 0
    steps: int = 0
    best_epoch: int = -1
    best_loss: float = float("inf")
    flops: float = 0.0
    world_size: int = 1
    zero_stage: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: bool = False

    def stopped(self, config: TrainConfig) -> bool:
        waited = self.epoch - 1 - self.best_epoch
        return self.diverged or self.epoch >= config.epochs or waited >= config.patience
