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
from affinity_service.engine.judging import judge
from affinity_service.engine.placement import placed_training, workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, result
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
    if missing:
        _tune(context, missing, sum(len(trial.runs) for trial in trials))
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
    return StageOutcome(sum(row["flops"] for row in outcomes.values()), min(settings.workers, max(1, len(missing))))


def _trials(runs: Sequence[Run], kept: set[Run], asked: set[Run], size: int) -> list[Trial]:
    # Sorted by number of tasks: models that see equally many examples waste no steps on each other.
    unique = sorted(set(runs), key=lambda run: (-len(run.tasks), run.tasks, run.seed))
    lengths = stack_lengths([len(run.tasks) for run in unique], size)
    starts = accumulate(lengths, initial=0)
    chunks = [unique[start : start + length] for start, length in zip(starts, lengths, strict=False)]
    return [
        Trial(tuple(chunk), *(tuple(run for run in chunk if run in own) for own in (kept, asked))) for chunk in chunks
    ]


def _tune(context: StageContext, trials: Sequence[Trial], models: int) -> None:
    config = context.config
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Trials of Ray Train hold nothing themselves: more of them than their workers fit would only wait for each other.
    together = 1 if is_batched(config, context.suite) else placed_training(config.base, config.resources)[0].workers
    wanted = min(config.group_models.workers, len(trials))
    at_a_time = workers_with_room("group_models", wanted, config.resources, context.warn, together)
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
            ),
        )
        for result in tuner.fit():
            if result.error is not None:
                last = str(result.error).strip().splitlines()[-1]
                raise RuntimeError(f"a trial of group models failed: {last}") from result.error
            if result.metrics and REFUSED in result.metrics:
                raise UserError(result.metrics[REFUSED])


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
    matches: dict[Run, list[float] | None] = {}
    if is_batched(config, suite):
        outcomes = _train_stacked(trial.runs, suite, config, initial)
    else:
        outcomes, matches = _train_one_by_one(trial, suite, config, scratch, initial)
    flops = RunFlops(_build(config, suite, 0), suite)
    for outcome in outcomes:
        if outcome.run in trial.kept:
            folder.write_bytes(trial.weights(outcome.run), save_safetensors(outcome.weights))
    rows = [
        {
            "tasks": list(o.run.tasks),
            "seed": o.run.seed,
            "best_epoch": o.best_epoch,
            "validation": o.validation,
            "test": o.test,
            "exact_match": matches.get(o.run),
            "flops": flops(o.run.tasks, o.epochs),
        }
        for o in outcomes
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


def _train_stacked(runs: Sequence[Run], suite: Suite, config: Config, initial: bytes | None) -> list[RunOutcome]:
    take_assigned_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def build(seed: int) -> torch.nn.Module:
        model = _build(config, suite, seed)
        if initial is not None:
            load_trained(model, load_safetensors(initial), "the base model")
        return model

    return StackedTrainer(suite, config.grouped, build, device).train(runs)


def _train_one_by_one(
    trial: Trial, suite: Suite, config: Config, scratch: str, initial: bytes | None
) -> tuple[list[RunOutcome], dict[Run, list[float] | None]]:
    """And what share of its test examples each run answers exactly, where that is asked."""
    # Not within the trial, which holds nothing.
    options = {**actor_options(config.resources), **TASK_RETRIES, "scheduling_strategy": "DEFAULT"}
    reference = ray.put(suite)
    outcomes, matches = [], {}
    for run in trial.runs:
        train = config.grouped.model_copy(update={"seed": run.seed})
        name = f"group-{fingerprint([run.tasks, run.seed])[:12]}"
        job = TrainJob(reference, config.model, train, run.tasks, initial=initial)
        trained = train_model(job, config.resources, scratch, name)
        judged = result(judge.options(**options).remote(trained.weights, run, run in trial.asked, reference, config))
        weights, state = load_safetensors(trained.weights), trained.state
        history = np.array([epoch["validation_per_task"] for epoch in state.history], float)
        outcomes.append(
            RunOutcome(run, state.best_epoch + 1, state.epoch, judged.validation, judged.test, weights, history)
        )
        matches[run] = judged.exact_match
    return outcomes, matches


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
