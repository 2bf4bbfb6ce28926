"""The group model stage: Ray Tune trains the models of the groups and of what they are compared with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import tune
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, PretrainedConfig
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.judging import judge, judging_options
from affinity_service.engine.placement import placed_training, workers_with_room
from affinity_service.engine.pool import result, task
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.engine.train import progress_board, train_model
from affinity_service.engine.train_job import TrainJob
from affinity_service.errors import UserError
from affinity_service.evaluation.flops import RunFlops
from affinity_service.evaluation.outcomes import GROUPS, RANDOM, plan_runs
from affinity_service.evaluation.run import Run, stack_lengths
from affinity_service.evaluation.stacked import RunOutcome, StackedTrainer
from affinity_service.models import build_model
from affinity_service.models.adapter_files import adapter_files
from affinity_service.models.state import load_trained
from affinity_service.tables import read_table, write_table
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


class _Refusal(tune.Stopper):
    """Ends all trials as soon as one says what the user must change."""

    def __init__(self) -> None:
        self.met = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.met = self.met or REFUSED in result
        return False

    def stop_all(self) -> bool:
        return self.met


def train_group_models(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    settings = config.group_models
    groups = [[suite.names.index(name) for name in group] for group in folder.read_json("groups.json")["groups"]]
    planned = plan_runs(groups, len(suite.tasks), settings)
    if settings.single_tasks < len(suite.tasks):
        context.warn(f"a sample of {settings.single_tasks} of {len(suite.tasks)} tasks is trained alone")
    kept = {p.run for p in planned if p.setting == GROUPS}
    # Random groups are there for their losses: answers take time to write.
    asked = {p.run for p in planned if p.setting != RANDOM}
    # Trained one by one, every model is a piece of work of its own.
    size = settings.models_per_trial if is_batched(config, suite) else 1
    trials = _trials([p.run for p in planned], kept, asked, size)
    missing = [trials[index] for index in context.unfinished([trial.results for trial in trials], "trials")]
    workers = _tune(context, missing, sum(len(trial.runs) for trial in trials)) if missing else 1
    outcomes = {}
    for trial in trials:
        for row in read_table(folder, trial.results).to_pylist():
            outcomes[Run(tuple(row["tasks"]), row["seed"])] = row
    write_table(
        folder,
        "group_models/results.parquet",
        _results([(p, outcomes[p.run]) for p in planned], suite.names, isinstance(config.model, CausalLMConfig)),
    )
    for index, group in enumerate(groups):
        _keep_best(context, trials, tuple(sorted(group)), outcomes, index)
    return StageOutcome(sum(row["flops"] for row in outcomes.values()), workers)


def _trials(runs: Sequence[Run], kept: set[Run], asked: set[Run], size: int) -> list[Trial]:
    # Sorted by number of tasks: models that see equally many examples waste no steps on each other.
    unique = sorted(set(runs), key=lambda run: (-len(run.tasks), run.tasks, run.seed))
    lengths = stack_lengths([len(run.tasks) for run in unique], size)
    starts = accumulate(lengths, initial=0)
    chunks = [unique[start : start + length] for start, length in zip(starts, lengths, strict=False)]
    return [
        Trial(tuple(chunk), *(tuple(run for run in chunk if run in own) for own in (kept, asked))) for chunk in chunks
    ]


def _tune(context: StageContext, trials: Sequence[Trial], models: int) -> int:
    """Train them; how many at a time."""
    config, resources, together = context.config, context.config.resources, 1
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Trials of Ray Train hold nothing themselves: more of them than their workers fit would only wait for each other.
    if not is_batched(config, context.suite):
        train, gpus = placed_training(config.base, resources)
        together, resources = train.workers, resources.model_copy(update={"gpus": gpus})
    wanted = min(config.group_models.workers, len(trials))
    at_a_time = workers_with_room("group_models", wanted, resources, context.warn, together)
    with progress_board(context.progress) as board:
        board.update.remote(models - sum(len(trial.runs) for trial in trials), models, "models trained")
        trainable = tune.with_parameters(
            run_trial,
            suite=context.suite,
            config=config,
            folder=context.folder,
            scratch=context.scratch,
            board=board,
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, _trial_resources(config, context.suite)),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_a_time),
            run_config=tune.RunConfig(
                storage_path=context.scratch,
                name=f"groups-{fingerprint([trial.key for trial in trials])[:12]}",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                stop=_Refusal(),
            ),
        )
        ended = list(tuner.fit())
        for trial in ended:
            if trial.metrics and REFUSED in trial.metrics:
                raise UserError(trial.metrics[REFUSED])
        for trial in ended:
            if trial.error is not None:
                last = str(trial.error).strip().splitlines()[-1]
                raise RuntimeError(f"a trial of group models failed: {last}") from trial.error
    return at_a_time


def _trial_resources(config: Config, suite: Suite) -> dict[str, float]:
    """A trial of stacked models works itself; one that calls Ray Train only waits, and must not take the cores its
    workers need (Tune wants some resource, so a byte of memory)."""
    if not is_batched(config, suite):
        return {"memory": 1}
    options = actor_options(config.resources)
    return {"cpu": options["num_cpus"], "gpu": options["num_gpus"]}


def run_trial(settings: dict[str, Any], board: Any, **trial_of: Any) -> dict[str, Any]:
    """One Tune trial. What a user must change is returned: an error raised would be tried again, and again in vain."""
    trial: Trial = settings["trial"]
    try:
        _train_trial(trial, **trial_of)
    except UserError as error:
        return {REFUSED: str(error)}
    ray.get(board.add.remote(len(trial.runs)))
    return {"models": len(trial.runs)}


def _train_trial(trial: Trial, suite: Suite, config: Config, folder: StudyFolder, scratch: str) -> None:
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
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def build(seed: int) -> torch.nn.Module:
        model = _build(config, suite, seed)
        if initial is not None:
            load_trained(model, load_safetensors(initial), "the base model")
        return model

    flops = RunFlops(_build(config, suite, 0), suite)
    outcomes = StackedTrainer(suite, config.grouped, build, device).train(trial.runs)
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


def _results(outcomes: Sequence[tuple[Any, dict[str, Any]]], names: Sequence[str], answers: bool) -> pa.Table:
    """answers : with the column `exact_match`, null where none were asked for."""
    return pa.Table.from_pylist(
        [
            {
                "setting": planned.setting,
                "grouping": planned.grouping,
                "group": planned.group,
                "tasks": [names[t] for t in planned.run.tasks],
                "seed": planned.run.seed,
                "task": names[task],
                "validation_loss": row["validation"][task],
                "test_loss": row["test"][task],
                "best_epoch": row["best_epoch"],
                **({"exact_match": _known(row["exact_match"], task)} if answers else {}),
            }
            for planned, row in outcomes
            for task in planned.run.tasks
        ]
    )


def _keep_best(
    context: StageContext,
    trials: Sequence[Trial],
    tasks: tuple[int, ...],
    outcomes: dict[Run, dict[str, Any]],
    index: int,
) -> None:
    """The group's model is the seed with the lowest validation loss. An adapter lies beside it in a folder of its own,
    in peft's format, with the losses of its tasks."""
    folder, config, names = context.folder, context.config.model, context.suite.names
    mean_loss = {run: float(np.nanmean(np.array(row["validation"], float))) for run, row in outcomes.items()}
    candidates = [(trial, run) for trial in trials for run in trial.kept if run.tasks == tasks]
    trial, run = min(candidates, key=lambda pair: mean_loss[pair[1]])
    place, weights = f"group_models/group-{index:02d}", folder.read_bytes(trial.weights(run))
    folder.write_bytes(f"{place}.safetensors", weights)
    if not isinstance(config, PretrainedConfig):
        return
    for name, content in adapter_files(load_safetensors(weights), config).items():
        folder.write_bytes(f"{place}/{name}", content)
    row = outcomes[run]
    measured = {"validation_loss": row["validation"], "test_loss": row["test"], "exact_match": row["exact_match"]}
    folder.write_json(
        f"{place}/tasks.json",
        {names[task]: {name: _known(values, task) for name, values in measured.items()} for task in run.tasks},
    )


def _known(values: Sequence[float | None] | None, task: int) -> float | None:
    value = None if values is None else values[task]
    return None if value is None or np.isnan(value) else float(value)
