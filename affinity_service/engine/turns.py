"""The interference schedule in the DeepSpeed loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from affinity_service.config_training import ScheduleConfig
from affinity_service.engine import deepspeed_engine
from affinity_service.engine.measuring import PlainModel
from affinity_service.engine.train_job import TURNS
from affinity_service.gradients.sketch import sketch_of
from affinity_service.gradients.task_gradients import ranks
from affinity_service.scheduling.aggregators import named_aggregator
from affinity_service.scheduling.schedule import Plan, Refresh, Schedule
from affinity_service.scheduling.settings import ScheduleSettings

SCHEDULE, AVERAGES = "schedule.json", "averages.safetensors"


class Turns:
    """Whose turn it is in a worker; every rank comes to the same answer, as gradients are averaged over ranks."""

    def __init__(self, plain: PlainModel, config: ScheduleConfig, tasks: list[str]) -> None:
        self.plain, self.config = plain, config
        sizes = plain.instrument.sizes
        self._sketch = sketch_of(config.sketch, sizes, len(tasks), config.seed)
        width = sum(sizes) if self._sketch is None else self._sketch.dimension
        settings = ScheduleSettings(**{name: getattr(config, name) for name in ScheduleSettings.names()})
        self.schedule = Schedule(tasks, width, settings, plain.device)
        self._aggregate = named_aggregator(config.aggregator)
        self.records: list[dict[str, Any]] = []
        # How often the gradients of all tasks were taken.
        self.measurements = 0
        self._indices = {name: index for index, name in enumerate(tasks)}

    def plan(self) -> tuple[Plan, list[int]]:
        plan = self.schedule.plan()
        return plan, [self._indices[name] for name in plan.active]

    def gradients(self, engine: Any, plan: Plan, active: list[int], mine: np.ndarray, share: Tensor) -> Tensor | None:
        """Takes the batch's gradients into the averages where the plan asks for it; the (p,) gradient that replaces the
        summed one, where there is an aggregator.

        active : those that the batch has examples of. share : (T,) what a task's summed loss counts for per example of
        the batch, so that the aggregate is of the gradients whose sum it replaces.
        """
        combined = self._aggregate is not None and len(active) > 1
        always = self.config.track == "active"
        if not (plan.refresh or combined or always):
            return None
        self.measurements += 1
        # Whole gradients are needed to combine them, sketches only to compare.
        sketch = None if combined else self._sketch
        weights = deepspeed_engine.current_weights(engine)
        found = self.plain.instrument.gradients(self.plain.batch(mine), weights, sketch)
        rows, counts = found.rows, found.counts.tolist()
        tracked = list(range(len(rows))) if plan.refresh else active if always else []
        # A task without examples in the batch has no gradient, which is not the same as a bad one.
        tracked = [task for task in tracked if counts[task] > 0]
        if tracked:
            own = rows[tracked]
            if sketch is not self._sketch and self._sketch is not None:
                own = self._sketch.rows(own, self.plain.instrument.sizes)
                # Its sums are not ordered on a GPU, and ranks that see other digits may draw another graph.
                self._from_first_rank(own)
            self.schedule.measured([self.schedule.tasks[task] for task in tracked], own)
        if not combined:
            return None
        assert self._aggregate is not None
        own = rows[active] * (share.to(rows) * found.counts)[active][:, None]
        own = own[own.isfinite().all(dim=1)]
        if not len(own):
            return rows.new_zeros(rows.shape[1])
        made = self._aggregate(own) if len(own) > 1 else own[0]
        # Some draw at random, and each rank has its own random numbers.
        self._from_first_rank(made)
        return made

    @staticmethod
    def _from_first_rank(values: Tensor) -> None:
        if ranks() > 1:
            torch.distributed.broadcast(values, src=0)

    def step(self, trained: list[int]) -> None:
        known = len(self.schedule.history)
        self.schedule.step([self.schedule.tasks[task] for task in trained])
        self.records += [_row(record) for record in self.schedule.history[known:]]

    def save(self, directory: str) -> None:
        state = self.schedule.state_dict()
        save_file({name: state.pop(name) for name in ("values", "counts")}, Path(directory, AVERAGES))
        Path(directory, SCHEDULE).write_text(json.dumps(state))
        pq.write_table(self.table(), Path(directory, TURNS))

    def restore(self, directory: str) -> None:
        state = json.loads(Path(directory, SCHEDULE).read_text())
        self.schedule.load_state_dict({**state, **load_file(Path(directory, AVERAGES))})
        self.records = pq.read_table(Path(directory, TURNS)).to_pylist()

    def table(self) -> pa.Table:
        """One row per refresh; tasks by their number in the suite."""
        schema = pa.schema(
            [
                ("step", pa.int64()),
                ("tau", pa.float64()),
                ("density", pa.float64()),
                ("interference", pa.list_(pa.float32())),
                ("colour", pa.list_(pa.int32())),
                ("active", pa.list_(pa.list_(pa.int32()))),
                ("visits", pa.list_(pa.int64())),
                ("longest_wait", pa.list_(pa.int64())),
                ("shortfall", pa.list_(pa.float64())),
                ("skipped", pa.list_(pa.int64())),
            ]
        )
        return pa.Table.from_pylist(self.records, schema=schema)


def _row(record: Refresh) -> dict[str, Any]:
    index = {name: number for number, name in enumerate(record.tasks)}
    return {
        "step": record.step,
        "tau": record.tau,
        "density": record.density,
        "interference": record.interference.astype(np.float32).ravel(),
        "colour": [record.colours[name] for name in record.tasks],
        "active": [[index[name] for name in members] for members in record.active],
        "visits": list(record.visits.values()),
        "longest_wait": list(record.longest_wait.values()),
        "shortfall": [record.shortfall.get(name) for name in record.tasks],
        "skipped": list(record.skipped.values()),
    }


def write_gradient(engine: Any, shared: list[str], gradient: Tensor) -> None:
    """Puts an aggregate (p,) where the summed gradient of the shared parameters is."""
    named = dict(engine.module.named_parameters())
    for parameter, part in zip(
        (named[name] for name in shared), gradient.split([named[name].numel() for name in shared]), strict=True
    ):
        parameter.grad = part.view_as(parameter).to(parameter.dtype).clone()


def drop_untrained(model: torch.nn.Module, trained: set[int]) -> None:
    """Heads of tasks that took no part keep no gradient, though the engine filled theirs with zeros. Stage 0 only."""
    from affinity_service.models import TaskHeads

    for module in model.modules():
        if isinstance(module, TaskHeads):
            for task in set(range(len(module.outputs))) - trained:
                for parameter in module.head(task):
                    parameter.grad = None
