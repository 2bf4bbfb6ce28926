"""Training one model through Ray Train: the base model, and group models too large for a stack."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from affinity_service.config import ResourceConfig
from affinity_service.engine.deepspeed_settings import read_settings
from affinity_service.engine.placement import placed_training
from affinity_service.engine.train_job import MOMENTS, STATE, WEIGHTS, TrainJob, TrainState
from affinity_service.errors import UserError
from affinity_service.logs import stamps

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Trained:
    """The best epoch of a training. ``weights`` and ``moments`` are safetensors bytes, float32, whole; ``beside`` has
    the tables by file name that what was measured and scheduled has left."""

    weights: bytes
    moments: bytes
    state: TrainState
    beside: dict[str, bytes]


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Where workers put how far they are and the driver looks."""

    def __init__(self) -> None:
        self.latest: tuple[int, int, str] | None = None

    def update(self, done: int, total: int, text: str) -> None:
        self.latest = (done, total, text)

    def add(self, count: int) -> None:
        assert self.latest is not None, "update() comes first"
        done, total, text = self.latest
        self.latest = (done + count, total, text)

    def read(self) -> tuple[int, int, str] | None:
        return self.latest


@contextmanager
def progress_board(progress: Progress, seconds: float = 0.5) -> Iterator[ray.actor.ActorHandle]:
    """A board whose news is passed on to ``progress`` while the block runs."""
    board = ProgressBoard.remote()  # type: ignore[attr-defined]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            news = ray.get(board.read.remote())
            if news is not None:
                progress(*news)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join()
        ray.kill(board)


def _loop(settings: dict[str, Any]) -> None:
    from affinity_service.engine.train_loop import train_loop

    train_loop(settings)


def train_model(job: TrainJob, resources: ResourceConfig, storage: str, name: str) -> Trained:
    """Train to the best validation epoch; continues from the last checkpoint that the same name left.

    Raises
    ------
    UserError
        The training diverged, its workers do not fit on the cluster, or `base.deepspeed` contradicts the config.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    train, gpus = placed_training(job.train, resources)
    job = replace(job, train=train, settings=read_settings(train), stamps=stamps())
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.train.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": resources.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        lines = [
            line for line in str(error).strip().splitlines() if line.strip() and not line.startswith("... (Output")
        ]
        raise RuntimeError(f"training failed: {lines[-1].strip()}") from error
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as directory:
        state = TrainState(**json.loads(Path(directory, STATE).read_text()))
        if state.diverged:
            raise UserError(
                f"training of {name} diverged in epoch {state.epoch + 1}: the loss is no longer finite; lower "
                f"base.learning_rate ({job.train.learning_rate:g}) or set base.gradient_clipping"
            )
        beside = {path.name: path.read_bytes() for path in Path(directory).glob("*.parquet")}
        return Trained(Path(directory, WEIGHTS).read_bytes(), Path(directory, MOMENTS).read_bytes(), state, beside)
