"""What a worker measures while the base model trains: TAG's affinities, every n steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from affinity_service.affinity.lookahead import MEASURES, StepAffinity, measure_step
from affinity_service.config import TrainConfig
from affinity_service.config_training import MeasuringPart
from affinity_service.engine import deepspeed_engine
from affinity_service.engine.train_job import MEASUREMENTS
from affinity_service.gradients.instrument import Instrument
from affinity_service.gradients.sketch import sketch_of
from affinity_service.models import TaskLosses
from affinity_service.models.shared import shared_parameters
from affinity_service.tasks.suite import VALIDATION, Suite


class PlainModel:
    """The model beside the engine: its weights come in from outside, so that no hook of DeepSpeed sees a measurement.

    `model` is of the same structure as the engine's.
    """

    def __init__(self, model: nn.Module, suite: Suite, shared: list[str], device: torch.device) -> None:
        self.suite, self.device = suite, device
        self.losses = TaskLosses(suite.tasks)
        self.shared = shared_parameters(model, shared)
        self.instrument = Instrument(model.to(device).train(), self._sums, self.shared)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs = torch.as_tensor(self.suite.inputs[rows], device=self.device)
        return inputs, torch.as_tensor(self.suite.labels[rows], device=self.device)

    def _sums(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        # In double: what a step changes of a loss is a matter of the last digits of its sum.
        return self.losses(model(inputs, range(labels.shape[1])), labels).double().sum(dim=0), (~labels.isnan()).sum(
            dim=0
        )


class Recorder:
    """Measures every n steps and keeps the history, one row per measurement."""

    def __init__(self, plain: PlainModel, part: MeasuringPart, train: TrainConfig, rank: int, world: int) -> None:
        self.plain, self.part, self.train = plain, part, train
        self.rank, self.world = rank, world
        self.rows: list[dict[str, Any]] = []
        self._held_out = plain.suite.rows(VALIDATION)
        sizes, tasks = plain.instrument.sizes, len(plain.suite.tasks)
        self._sketch = None if part.lookahead else sketch_of(part.sketch, sizes, tasks, train.seed)

    def due(self, step: int) -> bool:
        return step % self.part.every == 0

    def record(self, engine: Any, step: int, epoch: int, mine: np.ndarray, share: Tensor) -> None:
        """Before the step is made, at the weights as they are. mine : this rank's part of the step's batch. share :
        (T,) what a task's summed loss counts for in the loss that is trained."""
        weights = deepspeed_engine.current_weights(engine)
        optimizer = None
        if self.part.lookahead and self.part.step == "optimizer":
            optimizer = deepspeed_engine.plain_optimizer(engine, self.train, weights, self.plain.shared)
        found = measure_step(
            self.plain.instrument,
            self.plain.batch(mine),
            self.train.learning_rate,
            receivers=self._receivers(step),
            lookahead=self.part.lookahead,
            weights=weights,
            optimizer=optimizer,
            share=share,
            sketch=self._sketch,
        )
        self.rows.append({"step": step, "epoch": epoch, **_row(found)})

    def _receivers(self, step: int) -> tuple[Tensor, Tensor] | None:
        """Validation examples, as many as a batch, drawn by the seed and the step alike on every rank."""
        if self.part.batch == "training":
            return None
        rng = np.random.default_rng([self.train.seed, 91, step])
        count = min(self.train.batch_size, len(self._held_out))
        drawn = rng.choice(self._held_out, size=count, replace=False)
        return self.plain.batch(drawn[self.rank :: self.world])

    def flops(self, forward: float, examples: int) -> float:
        """Of one measurement: a backward pass counts twice a forward one."""
        tasks, heard = len(self.plain.suite.tasks), 1 if self.part.batch == "training" else 2
        passes = heard * (1 + 2 * tasks) + (tasks + 1 if self.part.lookahead else 0)
        return forward * examples * passes

    def save(self, directory: str) -> None:
        pq.write_table(self.table(), Path(directory, MEASUREMENTS))

    def restore(self, directory: str) -> None:
        path = Path(directory, MEASUREMENTS)
        self.rows = pq.read_table(path).to_pylist() if path.exists() else []

    def table(self) -> pa.Table:
        """step, epoch (from 0), loss (T) and per measure (T·T) receiver by source, null where it was not measured."""
        wide = pa.list_(pa.float32())
        schema = pa.schema(
            [("step", pa.int64()), ("epoch", pa.int64()), ("loss", wide), *((name, wide) for name in MEASURES)]
        )
        return pa.Table.from_pylist(self.rows, schema=schema)


def _row(found: StepAffinity) -> dict[str, Any]:
    measured = {name: getattr(found, name) for name in MEASURES}
    values = {name: None if each is None else each.flatten().float().cpu().numpy() for name, each in measured.items()}
    return {"loss": found.losses.float().cpu().numpy(), **values}
