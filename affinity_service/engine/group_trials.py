"""A Tune trial of the group model stage: models trained side by side, or one by Ray Train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from affinity_service.affinity.build import device_here
from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.engine.judging import judge, judging_options
from affinity_service.engine.pool import result, task
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.engine.train import train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.errors import UserError
from affinity_service.evaluation.flops import RunFlops
from affinity_service.evaluation.run import Run
from affinity_service.evaluation.stacked import RunOutcome, StackedTrainer
from affinity_service.models import build_model
from affinity_service.models.state import load_trained
from affinity_service.tables import write_table
from affinity_service.tasks.suite import Suite

# Above so many parameters a stack of models gains little over training them one by one.
STACKABLE_PARAMETERS = 2_000_000
# The metric under which a trial says what a user must change.
REFUSED = "refused"


@dataclass(frozen=True)
class Trial:
    """Runs trained together; `kept` are those whose weights a group model is chosen from, `asked` those that answer
    test examples where they are language models."""

    runs: tuple[Run, ...]
    kept: tuple[Run, ...]
    asked: tuple[Run, ...]

    @property
    def key(self) -> str:
        return fingerprint([[run.tasks, run.seed] for run in self.runs])[:16]

    @property
    def results(self) -> str:
        return f"group_models/trials/{self.key}.parquet"

    def weights(self, run: Run) -> str:
        return f"group_models/trials/{self.key}-{fingerprint([run.tasks, run.seed])[:16]}.safetensors"


@dataclass(frozen=True)
class Trained:
    """A run's outcome, what its training took, and of a language model what share of the test examples of each task
    (T,) it answers exactly."""

    outcome: RunOutcome
    flops: float
    exact_match: list[float] | None = None


def run_trial(settings: dict[str, Any], board: Any, **trial_of: Any) -> dict[str, Any]:
    """One Tune trial. What a user must change is returned: an error raised would be tried again, and again in vain."""
    trial: Trial = settings["trial"]
    try:
        train_trial(trial, **trial_of)
    except UserError as error:
        return {REFUSED: str(error)}
    ray.get(board.add.remote(len(trial.runs)))
    return {"models": len(trial.runs)}


def train_trial(trial: Trial, suite: Suite, config: Config, folder: StudyFolder, scratch: str) -> None:
    """Train the runs of one trial, write their losses and the weights that may become a group model; of language models
    also how often they answer right. Nothing is left to do where a process that was lost later has done it."""
    if folder.exists(trial.results):
        return
    initial = folder.read_bytes("base_model/model.safetensors") if config.group_models.start == "base" else None
    train = _train_stacked if is_batched(config, suite) else _train_one_by_one
    trained = train(trial, suite, config, scratch, initial)
    for outcome in (each.outcome for each in trained):
        if outcome.run in trial.kept:
            folder.write_bytes(trial.weights(outcome.run), save_safetensors(outcome.weights))
    rows = [
        {
            "tasks": list(each.outcome.run.tasks),
            "seed": each.outcome.run.seed,
            "best_epoch": each.outcome.best_epoch,
            "validation": each.outcome.validation,
            "test": each.outcome.test,
            "exact_match": each.exact_match,
            "flops": each.flops,
        }
        for each in trained
    ]
    write_table(folder, trial.results, pa.Table.from_pylist(rows))


def is_batched(config: Config, suite: Suite) -> bool:
    """Whether models are small plain loops; large ones, or trainings over several workers, go through Ray Train."""
    wish = config.group_models.trainer
    if isinstance(config.model, PretrainedConfig):
        return False
    if wish != "auto":
        return wish == "batched"
    parameters = sum(p.numel() for p in _build(config, suite, 0).parameters())
    return config.base.workers == 1 and config.base.precision == "fp32" and parameters <= STACKABLE_PARAMETERS


def _build(config: Config, suite: Suite, seed: int) -> torch.nn.Module:
    return build_model(config.model, suite.inputs.shape[1:], suite.tasks, seed)


def _train_stacked(trial: Trial, suite: Suite, config: Config, _: str, initial: bytes | None) -> list[Trained]:
    take_assigned_threads()

    def build(seed: int) -> torch.nn.Module:
        model = _build(config, suite, seed)
        if initial is not None:
            load_trained(model, load_safetensors(initial), "the base model")
        return model

    flops = RunFlops(_build(config, suite, 0), suite)
    outcomes = StackedTrainer(suite, config.grouped, build, device_here()).train(trial.runs)
    return [Trained(outcome, flops(outcome.run.tasks, outcome.epochs)) for outcome in outcomes]


def _train_one_by_one(trial: Trial, suite: Suite, config: Config, scratch: str, initial: bytes | None) -> list[Trained]:
    judging, reference, found = task(judge, judging_options(config)), ray.put(suite), []
    for run in trial.runs:
        train = config.grouped.model_copy(update={"seed": run.seed})
        name = f"group-{fingerprint([run.tasks, run.seed])[:12]}"
        job = TrainJob(reference, config.model, train, run.tasks, initial=initial)
        trained = train_model(job, config.resources, scratch, name)
        state, content = trained.state, np.frombuffer(trained.weights, np.uint8)
        judged = result(judging.remote(content, run, state.epoch, run in trial.asked, reference, config))
        history = np.array([epoch["validation_per_task"] for epoch in state.history], float)
        weights = load_safetensors(trained.weights)
        outcome = RunOutcome(run, state.best_epoch + 1, state.epoch, judged.validation, judged.test, weights, history)
        found.append(Trained(outcome, judged.flops, judged.exact_match))
    return found
