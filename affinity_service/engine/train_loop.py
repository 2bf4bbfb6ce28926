"""The loop that every Ray Train worker runs: DeepSpeed steps, validation, early stopping, a checkpoint per epoch."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from affinity_service.config_models import PretrainedConfig
from affinity_service.engine import deepspeed_engine
from affinity_service.engine.measuring import PlainModel, Recorder
from affinity_service.engine.micro_batches import as_inputs, evaluation_batches, own_rows, passes_per_step
from affinity_service.engine.train_job import MOMENTS, STATE, WEIGHTS, TrainJob, TrainState
from affinity_service.engine.turns import Turns, drop_untrained, write_gradient
from affinity_service.evaluation.flops import example_flops, examples_worth
from affinity_service.logs import stamp
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.models.state import load_trained
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

log = logging.getLogger("affinity_service")


def train_loop(settings: dict[str, Any]) -> None:
    """Entry point of a worker; ``settings["job"]`` is a ``TrainJob``."""
    job: TrainJob = settings["job"]
    stamp(**job.stamps)
    _Worker(job, ray.get(job.suite)).run()


class _Worker:
    def __init__(self, job: TrainJob, suite: Suite) -> None:
        self.job, self.suite, self.config = job, suite, job.train
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        log.info("training: process %d of %d on %s", self.rank + 1, self.world, self.device)
        # A CPU multiplies in bf16 twice as fast as in float32, and does all else slower than in either (measured on
        # SmolLM2: 1.7 s float32, .8 autocast, 2.3 with bf16 weights): there large models keep float32 weights.
        self.autocast = (
            self.config.precision == "bf16" and self.device.type == "cpu" and isinstance(job.model, PretrainedConfig)
        )
        self.weights_in = self.config.model_copy(update={"precision": "fp32"}) if self.autocast else self.config
        self.dtype = torch.bfloat16 if self.weights_in.precision == "bf16" else torch.float32
        self.rows = suite.rows(TRAIN, job.tasks)
        counts = suite.label_counts(TRAIN).tolist()
        self.weights = task_weights(counts, job.tasks, len(self.rows), self.config.mixing_temperature).to(self.device)
        self.losses = TaskLosses(suite.tasks)
        model = build_model(job.model, suite.inputs.shape[1:], suite.tasks, self.config.seed)
        if job.initial is not None:
            load_trained(model, load_safetensors(job.initial), "the weights to start from")
        self.flops = example_flops(model, suite)
        self.recorder, self.turns = self._beside(model)
        self.every = range(len(suite.tasks))
        self.passes = passes_per_step(suite.inputs, self.rows, self.config, self.world)
        self.engine = deepspeed_engine.start(
            model, self.weights_in, context.get_local_rank(), self.passes, job.settings, self.device
        )
        stage = deepspeed_engine.effective_stage(self.weights_in)
        self.state = TrainState(world_size=self.world, zero_stage=stage)
        self.best: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def _beside(self, model: torch.nn.Module) -> tuple[Recorder | None, Turns | None]:
        """What measures and schedules, with a plain copy of the model."""
        job, recorder, turns = self.job, None, None
        if job.measuring is None and job.schedule is None:
            return None, None
        model = copy.deepcopy(model)
        if job.measuring is not None:
            plain = PlainModel(model, self.suite, job.measuring.shared, self.device)
            recorder = Recorder(plain, job.measuring, self.config, self.rank, self.world)
        if job.schedule is not None:
            plain = PlainModel(model, self.suite, job.schedule.shared, self.device)
            turns = Turns(plain, job.schedule, self.suite.names)
        return recorder, turns

    def run(self) -> None:
        self._restore()
        while not self.state.stopped(self.config):
            start = time.perf_counter()
            training = self._epoch()
            per_task = self._validate()
            loss = float(np.nanmean(per_task[list(self.job.tasks)]))
            if not np.isfinite([loss, training]).all():
                # Reported, not raised: a failure would be tried again, and would diverge again.
                self.state.diverged = True
                self._report(loss)
                break
            self.state.history.append(
                {
                    "epoch": self.state.epoch + 1,
                    "train_loss": training,
                    "validation_loss": loss,
                    "validation_per_task": [None if np.isnan(x) else float(x) for x in per_task],
                    "seconds": time.perf_counter() - start,
                }
            )
            if loss < self.state.best_loss:
                self.state.best_epoch, self.state.best_loss = self.state.epoch, loss
                self.best = deepspeed_engine.full_state(self.engine, self.config)
            self.state.epoch += 1
            self._report(loss)

    def _epoch(self) -> float:
        # Dropout masks: from the seed, different on every rank, the same after a resume.
        torch.manual_seed(
            int(np.random.SeedSequence([self.config.seed, self.state.epoch, self.rank]).generate_state(1)[0])
        )
        self.engine.train()
        total, batches = 0.0, 0
        for batch in epoch_batches(self.rows, self.config.batch_size, self.config.seed, self.state.epoch):
            mine = own_rows(self.suite.inputs, batch, self.rank, self.world)
            if self.recorder is not None and self.recorder.due(self.state.steps):
                share = self.weights / len(batch)
                self.recorder.record(self.engine, self.state.steps, self.state.epoch, mine, share)
                self.state.flops += self.recorder.flops(self.flops.forward, len(batch))
            micros = np.array_split(mine, self.passes)
            if self.turns is None:
                total += sum(self._micro_step(micro) for micro in micros)
            else:
                total += self._turn(self.turns, batch, mine, micros)
            batches += len(micros)
            self.state.steps += 1
            self.state.flops += self.flops.training * examples_worth(self.suite, batch)
        return self._mean_over_ranks(total / batches)

    def _micro_step(self, rows: np.ndarray) -> float:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            outputs, labels = self._forward(rows)
        loss = (self.losses.of_known(outputs.float(), labels) * self.weights).sum() / self._examples_per_pass
        self.engine.backward(loss)
        self.engine.step()
        return float(loss.detach())

    @property
    def _examples_per_pass(self) -> float:
        """What a pass's summed loss is divided by: DeepSpeed takes the mean over passes and ranks, and some passes may
        hold an example more than others."""
        return self.config.batch_size / (self.world * self.passes)

    def _turn(self, turns: Turns, batch: np.ndarray, mine: np.ndarray, micros: list[np.ndarray]) -> float:
        """An optimizer step on the tasks whose turn it is; `batch` holds the rows of all ranks."""
        plan, active = turns.plan()
        present = [task for task in active if self.suite.observed[batch, task].any()]
        # Without any of them the step is still made, on losses of nothing, so that all ranks stay together.
        trained = present or active
        before = turns.measurements
        gradient = turns.gradients(self.engine, plan, present, mine, self.weights / len(batch))
        # A pass backward per task, which counts as two forward.
        passes = (turns.measurements - before) * (1 + 2 * len(self.suite.tasks))
        self.state.flops += float(self.flops.forward * len(batch) * passes)
        losses = TaskLosses([self.suite.tasks[task] for task in trained])
        total = 0.0
        for micro in micros:
            inputs = as_inputs(self.suite.inputs, micro, self.device, self.dtype)
            labels = torch.as_tensor(self.suite.labels[micro][:, trained], device=self.device)
            each = losses(self.engine(inputs, trained).float(), labels)
            loss = (each * self.weights[trained]).sum() / self._examples_per_pass
            self.engine.backward(loss)
            drop_untrained(self.engine.module, set(trained))
            if gradient is not None:
                write_gradient(self.engine, turns.plain.shared, gradient)
            self.engine.step()
            # As of all tasks: the mean over those that train stands for the others.
            total += float(loss.detach()) * len(self.suite.tasks) / len(trained)
        turns.step(present)
        return total

    def _forward(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs = as_inputs(self.suite.inputs, rows, self.device, self.dtype)
        return self.engine(inputs, self.every), torch.as_tensor(self.suite.labels[rows], device=self.device)

    @torch.no_grad()
    def _validate(self) -> np.ndarray:
        """(T,) mean validation loss per task, NaN where the job does not train the task."""
        self.engine.eval()
        rows = self.suite.rows(VALIDATION, self.job.tasks)
        self.state.flops += self.flops.forward * examples_worth(self.suite, rows)
        sums = torch.zeros(2, len(self.suite.tasks), dtype=torch.float64, device=self.device)
        for part in evaluation_batches(self.suite.inputs, rows, self.rank, self.world, self.config.tokens):
            outputs, labels = self._forward(part if len(part) else rows[:1])
            if len(part):
                sums[0] += self.losses.of_known(outputs.float(), labels).sum(dim=0)
                sums[1] += (~labels.isnan()).sum(dim=0)
        if self.world > 1:
            dist.all_reduce(sums)
        means = (sums[0] / sums[1]).cpu().numpy()
        outside = np.setdiff1d(np.arange(len(means)), self.job.tasks)
        means[outside] = np.nan
        return means

    def _mean_over_ranks(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def _report(self, loss: float) -> None:
        """One checkpoint per epoch: every rank writes its part, Ray merges them."""
        metrics = {"epoch": self.state.epoch, "validation_loss": loss}
        with tempfile.TemporaryDirectory() as directory:
            deepspeed_engine.save(self.engine, directory)
            if self.rank == 0:
                if self.best is not None:
                    save_file(self.best[0], Path(directory, WEIGHTS))
                    save_file(self.best[1], Path(directory, MOMENTS))
                for beside in (self.recorder, self.turns):
                    if beside is not None:
                        beside.save(directory)
                Path(directory, STATE).write_text(json.dumps(asdict(self.state)))
                if self.job.progress is not None:
                    self.job.progress.update.remote(self.state.epoch, self.config.epochs, f"validation {loss:.4f}")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as directory:
            state = TrainState(**json.loads(Path(directory, STATE).read_text()))
            if (state.world_size, state.zero_stage) != (self.state.world_size, self.state.zero_stage):
                # DeepSpeed cannot load the parts of another world size or stage: start over rather than fail.
                return
            self.state = state
            if state.best_epoch >= 0:
                self.best = (load_file(Path(directory, WEIGHTS)), load_file(Path(directory, MOMENTS)))
            for beside in (self.recorder, self.turns):
                if beside is not None:
                    beside.restore(directory)
            if not state.diverged:
                deepspeed_engine.load(self.engine, directory)
